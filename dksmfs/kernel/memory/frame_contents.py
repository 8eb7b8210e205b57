"""What the frames hold: for each frame, which page of which content.

A content is a sequence of pages, stored or described (`content`), and has a number while a frame
uses it (`content_table`). The column has one number for each frame: that of the content in the
upper bits, and that of the page within it in the lower 32. So frames with the same number hold the
same bytes, and nothing is compared. Frames with other numbers may still hold the same bytes: those
are compared (`compare`). To copy a page copies the number; to write to it makes a new content.

The pages of a region mostly are pages 0, 1, ... of one content. Their numbers then count up by one
(`_line`), take no memory, and are dealt with as one range.
"""

import errno
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.content.comparison import equal_pages
from dksmfs.kernel.content.content import Content, Indices
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.content.xxh64 import Hashes, Rows
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.memory.columns import LinearColumn
from dksmfs.kernel.memory.content_table import ContentTable
from dksmfs.kernel.memory.hashing.kept import KeptHashes
from dksmfs.kernel.memory.version import Version
from dksmfs.kernel.pausing import Work, finished
from dksmfs.kernel.selection import Selection, at, numbers, part
from dksmfs.kernel.units import PAGE_SIZE, Mask, Numbers, Pfn, Pfns

STORAGE_LIMIT: Final = 4 << 30
"""Bytes of page contents that are stored, not described or shared: what a small host can spare."""

_PAGE_BITS: Final = 32  # of the number of a page within its content; the content's is above them
_PAGE_MASK: Final = (1 << _PAGE_BITS) - 1
_FEW_PAGES: Final = 16  # of a content: fewer are gathered with those of others
_PAGES_AT_ONCE: Final = 256  # that are not stored, compared between pauses


class FrameContents:
    """The contents of all frames of a machine."""

    def __init__(
        self, hashes: KeptHashes, version: Version, any_tracked: Callable[[Selection], bool]
    ) -> None:
        """`any_tracked` tells whether a page descriptor names one of the frames."""
        self._hashes = hashes
        self._any_tracked = any_tracked
        self._version = version
        self._contents = ContentTable(version)
        self._page = LinearColumn()

    def grow(self, length: int) -> None:
        """Have rows for `length` frames."""
        self._page.grow(length)
        self._hashes.grow(length)

    def require_storage(self, size_bytes: int) -> None:
        """ENOMEM if there is no room for `size_bytes` more of page contents."""
        if self._contents.held_bytes + size_bytes > STORAGE_LIMIT:
            limit = STORAGE_LIMIT >> 30
            raise kernel_error(
                errno.ENOMEM,
                f"a machine stores at most {limit} GiB of written bytes; describe the contents, "
                "or share them as a memfd",
            )

    # --- setting ----------------------------------------------------------------------------

    def give(self, pfns: Pfns | range, content: Content, indices: Selection) -> None:
        """Frame `pfns[i]`, which held nothing, now holds page `indices[i]` of `content`."""
        if len(pfns):
            self._refer(pfns, self._number_for(content, len(pfns)), indices)

    def set(self, pfns: Pfns | range, content: Content, indices: Selection) -> None:
        """Frame `pfns[i]` now holds page `indices[i]` of `content`. `pfns` has no repetitions."""
        if not len(pfns):
            return
        number = self._number_for(content, len(pfns))
        self.drop(pfns)
        self._refer(pfns, number, indices)
        if self._any_tracked(pfns):
            self._version.change()

    def _number_for(self, content: Content, users: int) -> int:
        number = self._contents.number(content)
        self._contents.add_users(number, users)
        return number

    def _refer(self, pfns: Pfns | range, number: int, indices: Selection) -> None:
        base = number << _PAGE_BITS
        if isinstance(indices, range):
            self._page.set(pfns, range(base + indices.start, base + indices.stop))
        else:
            self._page.set(pfns, base + indices)

    def drop(self, pfns: Pfns | range) -> None:
        """The frames hold nothing any more: they are free, or about to get another content."""
        self._hashes.forget(pfns)
        if isinstance(pfns, range) and (first := self._line(pfns)) is not None:
            self._contents.drop_users(first >> _PAGE_BITS, len(pfns))
            return
        found, users = np.unique(self._numbers(pfns), return_counts=True)
        for number, count in zip(found.tolist(), users.tolist(), strict=True):
            self._contents.drop_users(number, count)

    def copy(self, sources: Pfns, targets: Pfns) -> None:
        """Copy the content of frame `sources[i]` to `targets[i]`, as it is at this moment."""
        for number, chosen, indices in self.by_content(sources):
            content = self._contents[number]
            if not content.stable:
                content = StoredContent(content.rows(numbers(indices)).tobytes())
                indices = range(len(indices))
            self.set(part(targets, chosen), content, indices)

    def overwrite(self, pfn: Pfn, offset: int, data: bytes) -> None:
        """Replace the bytes of a frame from `offset` (bytes) on by `data`, within the page."""
        page = bytearray(self.rows(np.array([pfn]))[0].tobytes())
        page[offset : offset + len(data)] = data
        assert len(page) == PAGE_SIZE
        self.set(np.array([pfn]), StoredContent(bytes(page)), np.zeros(1, np.int64))

    # --- looking ----------------------------------------------------------------------------

    def rows(self, pfns: Pfns) -> Rows:
        """The bytes of the frames, a row each. Not to be written to."""
        if len(pfns) >= _FEW_PAGES and self.scattered(pfns).all():
            return self.gathered(pfns)
        parts = self.by_content(pfns)
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

    def same_page(self, left: Pfns, right: Pfns) -> Mask:
        """Whether frame `left[i]` holds the same page of the same content as `right[i]`."""
        same: Mask = self._page.get(left) == self._page.get(right)
        return same

    def stable(self, pfns: Pfns) -> Mask | bool:
        """Whether each frame holds bytes that no client can change unseen."""
        return self.all_stable or self._contents.stable[self._numbers(pfns)]

    def stored(self, pfns: Pfns | range) -> Mask:
        """Whether each frame holds bytes that are stored and never change."""
        stored: Mask = self._contents.kept[self._numbers(pfns)]
        return stored

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
        first = self._page.first_of_line(pfns) if len(pfns) else None
        if first is None or (first + len(pfns) - 1) >> _PAGE_BITS != first >> _PAGE_BITS:
            return None
        return first

    def _numbers(self, pfns: Pfns | range) -> Numbers:
        return self._page.get(pfns) >> _PAGE_BITS

    def _indices(self, pfns: Pfns | range) -> Indices:
        return self._page.get(pfns) & _PAGE_MASK

    def by_content(self, pfns: Pfns | range) -> list[tuple[int, Selection, Selection]]:
        """The content numbers of `pfns`: of each the positions in `pfns` that have it, and which of
        its pages these hold."""
        if isinstance(pfns, range):
            first = self._line(pfns)
            if first is not None:
                page = first & _PAGE_MASK
                every = range(len(pfns))
                return [(first >> _PAGE_BITS, every, range(page, page + len(pfns)))]
        pages = self._page.get(pfns)
        by_number = _by_number(pages >> _PAGE_BITS)
        return [(number, chosen, pages[at(chosen)] & _PAGE_MASK) for number, chosen in by_number]

    def hashes(self, pfns: Pfns | range) -> Hashes:
        """The hashes of the frames' bytes."""
        hashes = np.empty(len(pfns), np.uint64)
        for number, chosen, indices in self.by_content(pfns):
            hashes[at(chosen)] = self._contents[number].hashes(indices)
        return hashes

    def scattered(self, pfns: Pfns | range) -> Mask:
        """Whether each frame holds a page of a content of which few others hold pages, provided
        that there are many such frames."""
        none = np.zeros(len(pfns), np.bool_)
        if len(pfns) < _FEW_PAGES or (isinstance(pfns, range) and self._line(pfns) is not None):
            return none
        _, number, counts = np.unique(self._numbers(pfns), return_inverse=True, return_counts=True)
        few: Mask = counts[number] < _FEW_PAGES
        return few if np.count_nonzero(few) >= _FEW_PAGES else none

    def gathered(self, pfns: Pfns) -> Rows:
        """`rows`, for frames whose contents are scattered."""
        pages = self._page.get(pfns)
        numbers_, indices = (pages >> _PAGE_BITS).tolist(), (pages & _PAGE_MASK).tolist()
        contents = self._contents
        every = zip(numbers_, indices, strict=True)
        data = b"".join([contents[number].page(index) for number, index in every])
        return np.frombuffer(data, np.uint8).reshape(-1, PAGE_SIZE)

    # --- comparing --------------------------------------------------------------------------

    def equal(self, left: Pfns, right: Pfns) -> Mask:
        """Whether frame `left[i]` has the same bytes as `right[i]`."""
        starts = np.ones(len(left), np.bool_)  # of pairs that follow each other and are the same
        starts[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
        once = np.flatnonzero(starts)
        if 2 * len(once) > len(left):
            return finished(self.compare(left, right))
        found = finished(self.compare(left[once], right[once]))
        return np.repeat(found, np.diff(once, append=len(left)))

    def compare(self, left: Pfns, right: Pfns) -> Work[Mask]:
        """`equal`, with pauses."""
        equal: Mask = left == right
        if equal.all():
            return equal
        pages = self._page.get(left), self._page.get(right)
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

    def __getitem__(self, number: int) -> Content:
        """The content with this number."""
        return self._contents[number]

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
