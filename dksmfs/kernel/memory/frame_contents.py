"""What the frames hold: which page of which content, its checksum, and which ones are equal."""

import errno
from ctypes import string_at
from typing import Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.content.checksums import Checksums, Rows, checksum_rows
from dksmfs.kernel.content.comparison import equal_pages
from dksmfs.kernel.content.content import Content, Indices
from dksmfs.kernel.content.described import ZeroContent
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.linear import Numbers, Selection, at, compact, numbers, part
from dksmfs.kernel.memory.content_table import Contents
from dksmfs.kernel.memory.frame_table import HASHED, FrameTable
from dksmfs.kernel.memory.hints import NO_HINT, Fingerprints, Hints
from dksmfs.kernel.pausing import Work, finished
from dksmfs.kernel.units import PAGE_SIZE, ZERO_PFN

Pfns = Numbers  # page frame numbers
Mask = npt.NDArray[np.bool_]

STORAGE_LIMIT: Final = 4 << 30
"""Bytes of page contents that are stored, not described or shared: what a small host can spare."""

_CHECKSUM_OF_ZEROS: Final = ZeroContent().checksums(range(1))[0]
_PAGE_BITS: Final = 32  # of the number of a page within its content; the content's is above them
_PAGE_MASK: Final = (1 << _PAGE_BITS) - 1
_FEW_PAGES: Final = 16  # of a content: fewer are gathered with those of others
_GATHERED_PAGES: Final = 4096  # at once: 16 MiB
_PAGES_AT_ONCE: Final = 1024  # hashed or, if they are not stored, compared between pauses
_FIRST_PAGES: Final = 4096  # that tell whether the others are copies of pages in a row
_PROBES: Final = 16  # copies that must be where they are expected before all are compared


class FrameContents:
    """The contents of all frames of a machine."""

    def __init__(self, table: FrameTable, checksum_bits: int) -> None:
        self._table = table
        self._contents = Contents()
        self._checksum_mask = np.uint32((1 << checksum_bits) - 1)
        self._hints = Hints(table)
        self._copies_behind = 0
        """How many frames before each of the last pages was what they are copies of; 0 if it was
        not so for all."""
        # For contents without fingerprints: the frame of page 0, if all were hashed in a row.
        self._hashed_in: dict[int, int] = {}

    def require_storage(self, size_bytes: int) -> None:
        """ENOMEM if there is no room for so many bytes of page contents more."""
        if self._contents.held_bytes + size_bytes > STORAGE_LIMIT:
            limit = STORAGE_LIMIT >> 30
            raise kernel_error(
                errno.ENOMEM,
                f"a machine stores at most {limit} GiB of written bytes; describe the contents, "
                "or share them as a memfd",
            )

    # --- setting ----------------------------------------------------------------------------

    def give(self, pfns: Selection, content: Content, indices: Selection) -> None:
        """Frame `pfns[i]`, which held nothing, now holds page `indices[i]` of `content`."""
        if len(pfns):
            self._refer(pfns, self._number_for(content, len(pfns)), indices)

    def set(self, pfns: Selection, content: Content, indices: Selection) -> None:
        """Frame `pfns[i]` now holds page `indices[i]` of `content`. `pfns` has no repetitions."""
        if not len(pfns):
            return
        number = self._number_for(content, len(pfns))
        self.drop(pfns)
        self._refer(pfns, number, indices)
        if self._table.tracked[at(pfns)].any():
            self._table.version += 1

    def _number_for(self, content: Content, users: int) -> int:
        number = self._contents.number(content)
        self._contents.add_users(number, users)
        return number

    def _refer(self, pfns: Selection, number: int, indices: Selection) -> None:
        base = number << _PAGE_BITS
        if isinstance(indices, range):
            self._table.page.set(pfns, range(base + indices.start, base + indices.stop))
        else:
            self._table.page.set(pfns, base + indices)
        self._table.flags[at(pfns)] &= np.uint8(0xFF & ~HASHED)

    def drop(self, pfns: Selection) -> None:
        """The frames hold nothing any more: they are free, or about to get another content."""
        if isinstance(pfns, range) and (first := self._line(pfns)) is not None:
            self._contents.drop_users(first >> _PAGE_BITS, len(pfns))
            return
        found, users = np.unique(self._numbers(pfns), return_counts=True)
        for number, count in zip(found.tolist(), users.tolist(), strict=True):
            self._contents.drop_users(number, count)

    def copy(self, sources: Pfns, targets: Pfns) -> None:
        """Copy the content of frame `sources[i]` to `targets[i]`, as it is at this moment."""
        for number, chosen, indices in self._by_content(sources):
            content = self._contents[number]
            if not content.stable:
                content = StoredContent(content.rows(numbers(indices)).tobytes())
                indices = range(len(indices))
            self.set(part(targets, chosen), content, indices)

    def overwrite(self, pfn: int, offset: int, data: bytes) -> None:
        """Replace the bytes of a frame from `offset` (bytes) on by `data`, within the page."""
        page = bytearray(self.rows(np.array([pfn]))[0].tobytes())
        page[offset : offset + len(data)] = data
        assert len(page) == PAGE_SIZE
        self.set(np.array([pfn]), StoredContent(bytes(page)), np.zeros(1, np.int64))

    # --- looking ----------------------------------------------------------------------------

    def rows(self, pfns: Pfns) -> Rows:
        """The bytes of the frames, a row each. Not to be written to."""
        parts = self._by_content(pfns)
        if len(parts) == 1:
            number, _, indices = parts[0]
            return self._contents[number].rows(numbers(indices))
        rows = np.empty((len(pfns), PAGE_SIZE), np.uint8)
        for number, chosen, indices in parts:
            rows[at(chosen)] = self._contents[number].rows(numbers(indices))
        return rows

    def holds(self, pfns: Pfns, content: Content) -> Mask:
        """Whether each frame holds a page of this very `content`."""
        held: Mask = self._numbers(pfns) == self._contents.known_number(content)
        return held

    def refers_to(self, pfns: Pfns, content: Content, indices: Indices) -> Mask:
        """Whether frame `pfns[i]` holds page `indices[i]` of this very `content`."""
        same: Mask = self._indices(pfns) == indices
        return same & self.holds(pfns, content)

    @property
    def version(self) -> int:
        """Grows when the number of a content gets another meaning."""
        return self._contents.version

    @property
    def all_stable(self) -> bool:
        """Whether no content can change unseen."""
        return not self._contents.unstable

    def stable_line(self, pfns: range) -> tuple[int, int] | None:
        """The number of a content and that of a page in it, if the frames are known to hold this
        page and those that follow it, and nothing in memory can change unseen."""
        first = self._line(pfns)
        if first is None or not self.all_stable:
            return None
        return first >> _PAGE_BITS, first & _PAGE_MASK

    def _line(self, pfns: range) -> int | None:
        first = self._table.page.first_of_line(pfns) if len(pfns) else None
        if first is None or (first + len(pfns) - 1) >> _PAGE_BITS != first >> _PAGE_BITS:
            return None
        return first

    def _numbers(self, pfns: Selection) -> Numbers:
        return self._table.page.get(pfns) >> _PAGE_BITS

    def _indices(self, pfns: Selection) -> Indices:
        return self._table.page.get(pfns) & _PAGE_MASK

    def _by_content(self, pfns: Selection) -> list[tuple[int, Selection, Selection]]:
        """The content numbers of `pfns`: of each the positions in `pfns` that have it, and which of
        its pages these hold."""
        if isinstance(pfns, range):
            first = self._line(pfns)
            if first is not None:
                page = first & _PAGE_MASK
                every = range(len(pfns))
                return [(first >> _PAGE_BITS, every, range(page, page + len(pfns)))]
        pages = self._table.page.get(pfns)
        by_number = _by_number(pages >> _PAGE_BITS)
        return [(number, chosen, pages[at(chosen)] & _PAGE_MASK) for number, chosen in by_number]

    # --- checksums --------------------------------------------------------------------------

    def checksums(self, pfns: Pfns) -> Checksums:
        """The checksums of the frames' present contents; computed only where not known."""
        return finished(self.examine(pfns))[0]

    def looked_at(self, pfns: Pfns) -> tuple[Rows, Checksums]:
        """The bytes of the frames and their checksums, without a note of what was found: a look
        from outside, between the parts of an advertisement, must not change what that knows."""
        rows = self.rows(pfns)
        return rows, checksum_rows(rows) & self._checksum_mask

    def examine(self, pfns: Pfns) -> Work[tuple[Checksums, Pfns]]:
        """The checksums of the frames' present contents, and a twin of each frame: one that has
        just been proven to hold the same bytes, or the frame itself.

        A page that looks like one whose checksum is known, by a few of its words, is compared
        with that. If all bytes are equal, so is the checksum, and nothing needs to be hashed.
        """
        table, twins, asked = self._table, pfns.copy(), compact(pfns)
        places: Selection = range(len(pfns))
        unknown = table.flags[at(asked)] & HASHED == 0
        if not unknown.all():
            places = np.flatnonzero(unknown)
            asked = compact(part(asked, places))
        asked, places = yield from self._examine_single(asked, places, twins)
        for number, chosen, indices in self._by_content(asked):
            content, frames = self._contents[number], part(asked, chosen)
            if isinstance(content, StoredContent):
                examine = self._examine_repetitions if content.stable else self._examine_changing
                found = yield from examine(content, frames, indices)
            else:
                found = yield from self._examine_described(number, content, frames, indices)
            twins[at(part(places, chosen))] = found
            if content.stable:
                table.flags[at(frames)] |= np.uint8(HASHED)
        return table.checksum[pfns], twins

    def _examine_single(
        self, asked: Selection, places: Selection, twins: Pfns
    ) -> Work[tuple[Selection, Selection]]:
        """Examine the pages that were written one by one, each a content of its own: copied into
        one, they cost little more than any others. Returns the pages that are left, and where in
        `twins` they belong."""
        if isinstance(asked, range) and self._line(asked) is not None:
            return asked, places
        number = self._numbers(asked)
        _, inverse, counts = np.unique(number, return_inverse=True, return_counts=True)
        single = self._contents.kept[number] & (counts[inverse] < _FEW_PAGES)
        if np.count_nonzero(single) < _FEW_PAGES:
            return asked, places
        pfns, at_twins = numbers(part(asked, single)), numbers(part(places, single))
        for start in range(0, len(pfns), _GATHERED_PAGES):
            here = slice(start, start + _GATHERED_PAGES)
            gathered = StoredContent(self._gathered(pfns[here]))
            every = range(len(pfns[here]))
            twins[at_twins[here]] = yield from self._examine_stored(gathered, pfns[here], every)
        self._table.flags[pfns] |= np.uint8(HASHED)
        return compact(part(asked, ~single)), part(places, ~single)

    def _gathered(self, pfns: Pfns) -> bytes:
        """The bytes of frames with stored contents, one after the other."""
        addresses = self._addresses(self._table.page.get(pfns)).tolist()
        pages = (
            string_at(address, PAGE_SIZE) if address else self.rows(pfns[i : i + 1]).tobytes()
            for i, address in enumerate(addresses)
        )
        return b"".join(pages)

    def _examine_described(
        self, number: int, content: Content, frames: Selection, indices: Selection
    ) -> Work[Pfns]:
        """Known are the pages of this content that were hashed before, if in a row of frames."""
        table, pfns, pages = self._table, numbers(frames), numbers(indices)
        twins = pfns.copy()
        rest: Selection = range(len(pfns))
        if number in self._hashed_in:
            candidates = self._hashed_in[number] + pages
            known = self._hashed(candidates)
            known[known] = table.page.get(candidates[known]) == table.page.get(pfns[known])
            twins[known] = candidates[known]
            table.checksum[pfns[known]] = table.checksum[candidates[known]]
            rest = np.flatnonzero(~known)
        yield from self._hash(content, part(frames, rest), part(indices, rest))
        if len(rest) and content.stable:
            self._hashed_in[number] = int(pfns[rest[0]] - pages[rest[0]])
        return twins

    def _hashed(self, candidates: Numbers) -> Mask:
        """Whether the numbers are those of frames whose checksum is known."""
        known: Mask = (candidates > 0) & (candidates < len(self._table.flags))
        known[known] = self._table.flags[candidates[known]] & HASHED != 0
        return known

    def _examine_changing(
        self, content: StoredContent, frames: Selection, indices: Selection
    ) -> Work[Pfns]:
        """Of memory that somebody may be writing at this moment each page is hashed: what is found
        of another one may no longer hold by then. Runs of zeros are compared with our own, so that
        their twin is the kernel's zero page, which nobody writes."""
        pfns, others = numbers(frames), np.ones(len(frames), np.bool_)
        twins = pfns.copy()
        zeros = yield from content.runs_of_zeros(indices)
        if len(zeros):
            self._table.checksum[pfns[zeros]] = _CHECKSUM_OF_ZEROS & self._checksum_mask
            twins[zeros] = ZERO_PFN
            others[zeros] = False
        rest = np.flatnonzero(others) if len(zeros) else range(len(pfns))
        yield from self._hash(content, part(frames, rest), part(indices, rest))
        return twins

    def _examine_repetitions(
        self, content: StoredContent, frames: Selection, indices: Selection
    ) -> Work[Pfns]:
        """Of pages that are alike in a row, it is enough to examine one."""
        pfns = numbers(frames)
        earlier = yield from content.repetitions(indices)
        if earlier is None:
            return (yield from self._examine_stored(content, pfns, indices))
        once = np.flatnonzero(earlier == np.arange(len(pfns)))
        twins = pfns.copy()
        twins[once] = yield from self._examine_stored(content, pfns[once], part(indices, once))
        self._table.checksum[at(frames)] = self._table.checksum[pfns[earlier]]
        repeated: Pfns = twins[earlier]
        return repeated

    def _examine_stored(self, content: StoredContent, pfns: Pfns, indices: Selection) -> Work[Pfns]:
        """Where all pages that come first are copies of pages in a row, the others are likely to
        go on so."""
        twins, rest = pfns.copy(), numbers(range(len(pfns)))
        if not self._copies_behind and len(pfns) > 2 * _FIRST_PAGES:
            first, rest = rest[:_FIRST_PAGES], rest[_FIRST_PAGES:]
            twins[first] = yield from self._examine_looks(
                content, pfns[first], part(indices, first)
            )
        if self._copies_behind:
            rest = yield from self._follow(pfns, twins, rest)
        if len(rest):
            twins[rest] = yield from self._examine_looks(content, pfns[rest], part(indices, rest))
        return twins

    def _follow(self, pfns: Pfns, twins: Pfns, rest: Numbers) -> Work[Numbers]:
        """`_inherit` from frames as far behind as before."""
        sources = pfns[rest] - self._copies_behind
        probes = slice(None, None, max(len(rest) // _PROBES, 1))
        if self._hashed(sources).all() and self.equal(pfns[rest][probes], sources[probes]).all():
            rest = yield from self._inherit(pfns, twins, rest, sources)
        return rest

    def _examine_looks(self, content: StoredContent, pfns: Pfns, indices: Selection) -> Work[Pfns]:
        """Known are pages that may be anywhere else in memory, and those of this very call."""
        twins = pfns.copy()
        looks = (content.fingerprints(indices) >> np.uint64(32)).astype(np.uint32)
        yield
        every = np.arange(len(pfns))
        rest = yield from self._inherit(pfns, twins, every, self._hints.lookup(looks))
        behind = pfns - twins
        self._copies_behind = int(behind[0]) if (behind == behind[0]).all() else 0
        first = _first_alike(looks[rest])
        alike = first != np.arange(len(rest))
        leads = rest[~alike]
        yield from self._hash(content, pfns[leads], part(indices, leads))
        self._hints.add(looks[leads], pfns[leads])
        if len(leads) < len(rest):
            sources = pfns[rest[first[alike]]]
            wrong = yield from self._inherit(pfns, twins, rest[alike], sources)
            yield from self._hash(content, pfns[wrong], part(indices, wrong))
        return twins

    def _inherit(self, pfns: Pfns, twins: Pfns, guessed: Numbers, sources: Pfns) -> Work[Numbers]:
        """Let those of the pages `guessed` that equal their source take over its checksum;
        returns the others."""
        equal: Mask = sources != NO_HINT
        equal[equal] = yield from self._compare(pfns[guessed[equal]], sources[equal])
        known, proven = guessed[equal], sources[equal]
        twins[known] = proven
        self._table.checksum[pfns[known]] = self._table.checksum[proven]
        others: Numbers = guessed[~equal]
        return others

    def _hash(self, content: Content, frames: Selection, indices: Selection) -> Work[None]:
        at_once = max(len(frames), 1) if content.quick else _PAGES_AT_ONCE
        for start in range(0, len(frames), at_once):
            here = range(start, min(start + at_once, len(frames)))
            checksums = content.checksums(part(indices, here)) & self._checksum_mask
            self._table.checksum[at(part(frames, here))] = checksums
            yield

    # --- comparing --------------------------------------------------------------------------

    def equal(self, left: Pfns, right: Pfns) -> Mask:
        """Whether frame `left[i]` has the same bytes as `right[i]`."""
        starts = np.ones(len(left), np.bool_)  # of pairs that follow each other and are the same
        starts[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
        once = np.flatnonzero(starts)
        if 2 * len(once) > len(left):
            return finished(self._compare(left, right))
        found = finished(self._compare(left[once], right[once]))
        return np.repeat(found, np.diff(once, append=len(left)))

    def _compare(self, left: Pfns, right: Pfns) -> Work[Mask]:
        equal: Mask = left == right
        if equal.all():
            return equal
        pages = self._table.page.get(left), self._table.page.get(right)
        equal |= pages[0] == pages[1]
        contents = pages[0] >> _PAGE_BITS, pages[1] >> _PAGE_BITS
        equal |= (contents[0] == contents[1]) & self._contents.uniform[contents[0]]
        unproven = np.flatnonzero(~equal)
        if not len(unproven):
            return equal
        ours, theirs = self._addresses(pages[0][unproven]), self._addresses(pages[1][unproven])
        stored = (ours != 0) & (theirs != 0)
        equal[unproven[stored]] = yield from equal_pages(ours[stored], theirs[stored])
        generated = unproven[~stored]
        for start in range(0, len(generated), _PAGES_AT_ONCE):
            pair = generated[start : start + _PAGES_AT_ONCE]
            equal[pair] = (self.rows(left[pair]) == self.rows(right[pair])).all(axis=1)
            yield
        return equal

    def _addresses(self, pages: Numbers) -> npt.NDArray[np.int64]:
        """Where the bytes of pages are stored in our own memory; 0 if they are not."""
        number, index = pages >> _PAGE_BITS, pages & _PAGE_MASK
        stored: Numbers = self._contents.address[number] + index * PAGE_SIZE
        return np.where(index < self._contents.stored_pages[number], stored, 0)

    def check_invariants(self, used: Pfns) -> None:
        """Assert that contents count the frames `used`, and no others."""
        self._contents.check_invariants(self._numbers(used))


def _by_number(found: Numbers) -> list[tuple[int, Selection]]:
    """The numbers that there are, each with the positions that have it."""
    if not len(found):
        return []
    if (found == found[0]).all():
        return [(int(found[0]), range(len(found)))]
    order = np.argsort(found, kind="stable")
    starts = np.flatnonzero(np.diff(found[order])) + 1
    return [(int(found[chosen[0]]), chosen) for chosen in np.split(order, starts)]


def _first_alike(fingerprints: Fingerprints) -> Numbers:
    """For each page the first one that is like it, if that is found: another page may be in the
    way, whose fingerprint begins with the same bits. Then it is the page itself."""
    every = np.arange(len(fingerprints), dtype=np.int32)
    bits = len(fingerprints).bit_length() + 2  # so that few are in the way
    slots = fingerprints >> np.uint32(32 - bits)
    places = np.empty(1 << bits, np.int32)
    places[slots[::-1]] = every[::-1]  # of several pages with one slot, the first is set last
    first = places[slots]
    return np.where(fingerprints[first] == fingerprints, first, every).astype(np.int64)
