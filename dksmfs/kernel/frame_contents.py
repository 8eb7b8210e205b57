"""What the frames hold: which page of which content, its checksum, and which ones are equal."""

import errno
from typing import Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.content import Content, Indices, StoredContent
from dksmfs.kernel.contents import Contents
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.frame_table import HASHED, FrameTable
from dksmfs.kernel.hints import NO_HINT, Fingerprints, Hints
from dksmfs.kernel.linear import Numbers, Selection, at, compact, numbers, part
from dksmfs.kernel.page_bytes import PAGE_SIZE, Checksums, Rows, equal_pages

Pfns = Numbers  # page frame numbers
Mask = npt.NDArray[np.bool_]

STORAGE_LIMIT: Final = 4 << 30
"""Bytes of page contents that are stored, not described or shared: what a small host can spare."""

_PAGE_BITS: Final = 32  # of the number of a page within its content; the content's is above them
_PAGE_MASK: Final = (1 << _PAGE_BITS) - 1
_ROWS_AT_ONCE: Final = 1024  # generated pages compared at once


class FrameContents:
    """The contents of all frames of a machine."""

    def __init__(self, table: FrameTable, checksum_bits: int) -> None:
        self._table = table
        self._contents = Contents()
        self._checksum_mask = np.uint32((1 << checksum_bits) - 1)
        self._hints = Hints(table)
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
        for number, chosen in self._by_content(pfns):
            self._contents.drop_users(number, len(chosen))

    def copy(self, sources: Pfns, targets: Pfns) -> None:
        """Copy the content of frame `sources[i]` to `targets[i]`, as it is at this moment."""
        for number, chosen in self._by_content(sources):
            content = self._contents[number]
            indices = self._indices(part(sources, numbers(chosen)))
            if not content.stable:
                content = StoredContent(content.rows(indices).tobytes())
                indices = np.arange(len(indices))
            self.set(part(targets, numbers(chosen)), content, indices)

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
            return self._contents[parts[0][0]].rows(self._indices(pfns))
        rows = np.empty((len(pfns), PAGE_SIZE), np.uint8)
        for number, chosen in parts:
            rows[at(chosen)] = self._contents[number].rows(self._indices(pfns[at(chosen)]))
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
        first = self._table.page.first_of_line(pfns)
        if first is None or (first + len(pfns) - 1) >> _PAGE_BITS != first >> _PAGE_BITS:
            return None
        return first

    def _numbers(self, pfns: Selection) -> Numbers:
        return self._table.page.get(pfns) >> _PAGE_BITS

    def _indices(self, pfns: Selection) -> Indices:
        return self._table.page.get(pfns) & _PAGE_MASK

    def _by_content(self, pfns: Selection) -> list[tuple[int, Selection]]:
        """The content numbers of `pfns`, each with the positions in `pfns` that have it."""
        if not len(pfns):
            return []
        if isinstance(pfns, range):
            first = self._line(pfns)
            if first is not None:
                return [(first >> _PAGE_BITS, range(len(pfns)))]
        return _by_number(self._numbers(pfns))

    # --- checksums --------------------------------------------------------------------------

    def all_quick(self, pfns: Pfns) -> bool:
        """Whether taking the checksums of all these frames takes next to nothing."""
        return all(self._contents[number].quick for number, _ in self._by_content(compact(pfns)))

    def checksums(self, pfns: Pfns) -> Checksums:
        """The checksums of the frames' present contents; computed only where not known."""
        return self.examine(pfns)[0]

    def examine(self, pfns: Pfns) -> tuple[Checksums, Pfns]:
        """The checksums of the frames' present contents, and a twin of each frame: one that has
        just been proven to hold the same bytes, or the frame itself.

        A page that looks like one whose checksum is known, by a few of its words, is compared
        with that. If all bytes are equal, so is the checksum, and nothing needs to be hashed.
        """
        twins = pfns.copy()
        unknown = np.flatnonzero(self._table.flags[pfns] & HASHED == 0)
        for number, chosen in self._by_content(compact(pfns[unknown])):
            content, where = self._contents[number], unknown[at(chosen)]
            frames = pfns[where]
            indices = self._indices(frames)
            if isinstance(content, StoredContent):
                twins[where] = self._examine_repetitions(content, frames, indices)
            else:
                twins[where] = self._examine_described(number, content, frames, indices)
            if content.stable:
                self._table.flags[frames] |= np.uint8(HASHED)
        checksums: Checksums = self._table.checksum[pfns]
        return checksums, twins

    def _examine_described(
        self, number: int, content: Content, pfns: Pfns, indices: Indices
    ) -> Pfns:
        """Known are the pages of this content that were hashed before, if in a row of frames."""
        table, twins = self._table, pfns.copy()
        rest = np.arange(len(pfns))
        if number in self._hashed_in:
            candidates = self._hashed_in[number] + indices
            known = self._proven(pfns, candidates)
            twins[known] = candidates[known]
            table.checksum[pfns[known]] = table.checksum[candidates[known]]
            rest = rest[~known]
        self._hash(content, pfns, indices, rest)
        if len(rest) and content.stable:
            self._hashed_in[number] = int(pfns[rest[0]] - indices[rest[0]])
        return twins

    def _proven(self, pfns: Pfns, candidates: Pfns) -> Mask:
        """Where the candidate is a frame that refers to the same page, and has its checksum."""
        table = self._table
        within: Mask = (candidates > 0) & (candidates < len(table.flags))
        candidates = np.where(within, candidates, 0)
        within &= table.flags[candidates] & HASHED != 0
        within &= table.page.get(candidates) == table.page.get(pfns)
        return within

    def _examine_repetitions(self, content: StoredContent, pfns: Pfns, indices: Indices) -> Pfns:
        """Of pages that are alike in a row, it is enough to examine one."""
        earlier = content.repetitions(indices)
        if earlier is None:
            return self._examine_stored(content, pfns, indices)
        once = np.flatnonzero(earlier == np.arange(len(pfns)))
        twins = pfns.copy()
        twins[once] = self._examine_stored(content, pfns[once], indices[once])
        self._table.checksum[pfns] = self._table.checksum[pfns[earlier]]
        repeated: Pfns = twins[earlier]
        return repeated

    def _examine_stored(self, content: StoredContent, pfns: Pfns, indices: Indices) -> Pfns:
        """Known are pages that may be anywhere else in memory, and those of this very call."""
        twins, rest = pfns.copy(), np.arange(len(pfns))
        if not content.stable and content.seem_to_differ(indices):
            self._hash(content, pfns, indices, rest)
            return twins
        fingerprints = (content.fingerprints(indices) >> np.uint64(32)).astype(np.uint32)
        if content.stable:
            sources = self._hints.lookup(fingerprints)
            rest = self._inherit(pfns, twins, rest, sources)
        first = _first_alike(fingerprints[rest])
        leads = first == np.arange(len(rest))
        self._hash(content, pfns, indices, rest[leads])
        if content.stable:
            self._hints.add(fingerprints[rest[leads]], pfns[rest[leads]])
        if not leads.all():
            sources = pfns[rest[first[~leads]]]
            wrong = self._inherit(pfns, twins, rest[~leads], sources)
            self._hash(content, pfns, indices, wrong)
        return twins

    def _inherit(self, pfns: Pfns, twins: Pfns, guessed: Numbers, sources: Pfns) -> Numbers:
        """Let those of the pages `guessed` that equal their source take over its checksum;
        returns the others."""
        equal: Mask = sources != NO_HINT
        equal[equal] = self.equal(pfns[guessed[equal]], sources[equal])
        known, proven = guessed[equal], sources[equal]
        twins[known] = proven
        self._table.checksum[pfns[known]] = self._table.checksum[proven]
        others: Numbers = guessed[~equal]
        return others

    def _hash(self, content: Content, pfns: Pfns, indices: Indices, chosen: Numbers) -> None:
        if len(chosen):
            checksums = content.checksums(indices[chosen]) & self._checksum_mask
            self._table.checksum[pfns[chosen]] = checksums

    # --- comparing --------------------------------------------------------------------------

    def equal(self, left: Pfns, right: Pfns) -> Mask:
        """Whether frame `left[i]` has the same bytes as `right[i]`."""
        starts = np.ones(len(left), np.bool_)  # of pairs that follow each other and are the same
        starts[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
        once = np.flatnonzero(starts)
        if 2 * len(once) > len(left):
            return self._equal(left, right)
        found = self._equal(left[once], right[once])
        return np.repeat(found, np.diff(once, append=len(left)))

    def _equal(self, left: Pfns, right: Pfns) -> Mask:
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
        addresses = self._addresses(pages[0][unproven]), self._addresses(pages[1][unproven])
        stored = (addresses[0] != 0) & (addresses[1] != 0)
        equal[unproven[stored]] = equal_pages(addresses[0][stored], addresses[1][stored])
        generated = unproven[~stored]
        for start in range(0, len(generated), _ROWS_AT_ONCE):
            pair = generated[start : start + _ROWS_AT_ONCE]
            equal[pair] = (self.rows(left[pair]) == self.rows(right[pair])).all(axis=1)
        return equal

    def _addresses(self, pages: Numbers) -> npt.NDArray[np.int64]:
        """Where the bytes of pages are stored in our own memory; 0 if they are not."""
        addresses = np.zeros(len(pages), np.int64)
        for number, chosen in _by_number(pages >> _PAGE_BITS):
            there = at(chosen)
            addresses[there] = self._contents[number].addresses(pages[there] & _PAGE_MASK)
        return addresses

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
