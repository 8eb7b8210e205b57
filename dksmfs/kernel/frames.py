"""Physical memory: page frames, as arrays indexed by page frame number (pfn).

A frame has a content (a page of one of the `Content`s), counts of who refers to it, and, if it is
anonymous, the place where it was first mapped. Frame 0 is the kernel's shared zero page.

References: `mapcount` counts page-table entries; a frame nobody maps is free. `tracked` counts
page descriptors, which hold no reference: a descriptor may outlive its frame. The number of a
free frame is not used again while a descriptor still names it.
"""

import errno
from typing import Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.content import (
    PAGE_SIZE,
    Checksums,
    Content,
    Indices,
    Rows,
    StoredContent,
    ZeroContent,
    equal_pages,
)
from dksmfs.kernel.contents import ZERO_CONTENT, Contents
from dksmfs.kernel.errors import kernel_error

Pfns = npt.NDArray[np.int64]  # page frame numbers

ZERO_PFN: Final = 0
HUGE_PAGES: Final = 512  # pages of a huge (compound) page, entries of a page table

COMPOUND: Final = 1  # part of a huge page
CACHED: Final = 2  # held by a file's page cache
HASHED: Final = 4  # `checksum` is that of the content

FRAME_LIMIT: Final = 1 << 26
"""Frames of a machine: 256 GiB of memory, whose books take some 3 GiB of ours at the most."""

STORAGE_LIMIT: Final = 4 << 30
"""Bytes of page contents that are stored, not described or shared: what a small host can spare."""

_ROWS_AT_ONCE: Final = 1024  # generated pages compared at once
_ONE: Final = np.int32(1)  # of the type of the counts: a plain 1 makes `add.at` 40 times slower


class Frames:
    """All page frames of a machine.

    The arrays are indexed by pfn; `anon_vma` is the family (the root anon_vma) of an anonymous
    frame and 0 for others, `pgoff` its page offset there (page->mapping and page->index).
    """

    def __init__(self, checksum_bits: int) -> None:
        self._checksum_mask = np.uint32((1 << checksum_bits) - 1)
        self.mapcount = np.zeros(1024, np.int32)
        self.tracked = np.zeros(1024, np.int32)
        self.anon_vma = np.zeros(1024, np.uint32)
        self.pgoff = np.zeros(1024, np.int64)
        self.flags = np.zeros(1024, np.uint8)
        self._checksum = np.zeros(1024, np.uint32)
        self._content = np.zeros(1024, np.uint32)  # index into _contents
        self._page = np.zeros(1024, np.uint32)  # page within that content
        self._contents = Contents()
        # 0 to 511 are the zero page, small or huge.
        self._end = HUGE_PAGES  # the first number never used
        self._vacant = np.zeros(1024, np.uint32)  # a stack of free numbers: the first _vacancies
        self._vacancies = 0
        self._vacant_huge: list[int] = []  # first pfns of free huge pages
        self._huge_references: dict[int, int] = {}  # entries that map each huge page, by first pfn

    # --- allocation -------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Frames that are left."""
        return FRAME_LIMIT - self._end + self._vacancies

    def require(self, count: int) -> None:
        """ENOMEM if there is no room for `count` frames more."""
        if count > self.room:
            limit = FRAME_LIMIT * PAGE_SIZE >> 30
            raise kernel_error(errno.ENOMEM, f"a machine has {limit} GiB of memory")

    def require_storage(self, size_bytes: int) -> None:
        """ENOMEM if there is no room for so many bytes of page contents more."""
        if self._contents.held_bytes + size_bytes > STORAGE_LIMIT:
            limit = STORAGE_LIMIT >> 30
            raise kernel_error(
                errno.ENOMEM,
                f"a machine stores at most {limit} GiB of written bytes; describe the contents, "
                "or share them as a memfd",
            )

    def allocate(self, count: int) -> Pfns:
        """`count` frames with zero content that nobody maps yet; ENOMEM if there are none."""
        self.require(count)
        reused = min(count, self._vacancies)
        self._vacancies -= reused
        vacant = self._vacant[self._vacancies : self._vacancies + reused].astype(np.int64)
        fresh = self._extend(count - reused)
        return np.concatenate([vacant, fresh]) if reused else fresh

    def allocate_huge(self) -> int:
        """The first pfn of a compound page of 512 frames with zero content."""
        self.require(HUGE_PAGES)
        if self._vacant_huge:
            head = self._vacant_huge.pop()
        else:
            self._vacate(self._extend(-self._end % HUGE_PAGES))
            head = int(self._extend(HUGE_PAGES)[0])
        self.flags[head : head + HUGE_PAGES] = COMPOUND
        self._huge_references[head] = 0
        return head

    def _extend(self, count: int) -> Pfns:
        first, self._end = self._end, self._end + count
        if self._end > len(self.mapcount):
            self._grow(max(self._end, 2 * len(self.mapcount)))
        self._contents.add_users(ZERO_CONTENT, count)
        return np.arange(first, self._end)

    def _vacate(self, pfns: Pfns) -> None:
        """Put numbers that nobody knows any more on the stack."""
        end = self._vacancies + len(pfns)
        if end > len(self._vacant):
            self._vacant = np.resize(self._vacant, max(end, 2 * len(self._vacant)))
        self._vacant[self._vacancies : end] = pfns
        self._vacancies = end

    def _grow(self, length: int) -> None:
        for name in (
            "mapcount", "tracked", "anon_vma", "pgoff", "flags", "_checksum", "_content", "_page",
        ):  # fmt: skip
            old = getattr(self, name)
            new = np.zeros(length, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    # --- references -------------------------------------------------------------------------

    def get(self, pfns: Pfns) -> None:
        """Count one more page-table entry for each of `pfns` (repeated ones count each time)."""
        np.add.at(self.mapcount, pfns, _ONE)
        for pfn in pfns[self.flags[pfns] & COMPOUND != 0].tolist():
            self._huge_references[huge_head(pfn)] += 1

    def put(self, pfns: Pfns) -> None:
        """Count one entry less for each of `pfns`, and free the frames that nobody maps now."""
        if not len(pfns):
            return
        np.subtract.at(self.mapcount, pfns, _ONE)
        compound = self.flags[pfns] & COMPOUND != 0
        for pfn in pfns[compound].tolist():
            self._put_huge_reference(huge_head(pfn))
        small = pfns[~compound]
        unmapped = small[(self.mapcount[small] == 0) & (self.flags[small] & CACHED == 0)]
        self._free(self._without_repetitions(unmapped))

    def _without_repetitions(self, pfns: Pfns) -> Pfns:
        places = np.empty(self._end, np.int32)  # only what is written of it becomes real memory
        every = np.arange(len(pfns), dtype=np.int32)
        places[pfns] = every
        kept: Pfns = pfns[places[pfns] == every]
        return kept

    def get_huge(self, head: int) -> None:
        """Count a mapping of the whole huge page: one reference, every part of it mapped."""
        self.mapcount[head : head + HUGE_PAGES] += 1
        self._huge_references[head] += 1

    def put_huge(self, head: int) -> None:
        """Undo `get_huge`."""
        self.mapcount[head : head + HUGE_PAGES] -= 1
        self._put_huge_reference(head)

    def split_huge_mapping(self, head: int) -> None:
        """One mapping of the whole huge page becomes 512 entries; each counts a reference."""
        self._huge_references[head] += HUGE_PAGES - 1

    def _put_huge_reference(self, head: int) -> None:
        self._huge_references[head] -= 1
        if not self._huge_references[head]:
            del self._huge_references[head]
            self._clear(np.arange(head, head + HUGE_PAGES))
            self._vacant_huge.append(head)

    def references(self, pfn: int) -> int:
        """page_count() without transient references: of the whole huge page if `pfn` is in one."""
        if self.flags[pfn] & COMPOUND:
            return self._huge_references[huge_head(pfn)]
        return int(self.mapcount[pfn])

    def cache(self, pfns: Pfns) -> None:
        """Let a file's page cache hold `pfns`."""
        self.flags[pfns] |= CACHED

    def uncache(self, pfns: Pfns) -> None:
        """Undo `cache`, and free those that nobody maps."""
        self.flags[pfns] &= ~np.uint8(CACHED)
        self._free(pfns[self.mapcount[pfns] == 0])

    def track(self, pfns: Pfns) -> None:
        """Count a page descriptor for each of `pfns`."""
        np.add.at(self.tracked, pfns, _ONE)

    def untrack(self, pfn: int) -> None:
        """Count a page descriptor less."""
        self.tracked[pfn] -= 1
        if not self.tracked[pfn] and not self.in_use(pfn):
            self._vacate(np.array([pfn]))

    def untrack_all(self) -> None:
        """There are no page descriptors any more."""
        tracked = np.flatnonzero(self.tracked[: self._end])
        self.tracked[tracked] = 0
        unused = (self.mapcount[tracked] == 0) & (self.flags[tracked] & (CACHED | COMPOUND) == 0)
        self._vacate(tracked[unused])

    def in_use(self, pfn: int) -> bool:
        """False for a free frame."""
        return bool(self.mapcount[pfn] or self.flags[pfn] & (CACHED | COMPOUND))

    def _free(self, pfns: Pfns) -> None:
        self._clear(pfns)
        self._vacate(pfns[self.tracked[pfns] == 0])

    def _clear(self, pfns: Pfns) -> None:
        self.set_content(pfns, ZeroContent(), np.zeros(len(pfns), np.int64))
        self.flags[pfns] = 0
        self.anon_vma[pfns] = 0

    # --- contents ---------------------------------------------------------------------------

    def set_content(self, pfns: Pfns, content: Content, indices: Indices) -> None:
        """Frame `pfns[i]` now holds page `indices[i]` of `content`. `pfns` has no repetitions."""
        if len(pfns):
            number = self._contents.number(content)
            self._contents.add_users(number, len(pfns))
            for old, chosen in self._by_content(pfns):
                self._contents.drop_users(old, len(chosen))
            self._content[pfns] = number
            self._page[pfns] = indices
            self.flags[pfns] &= ~np.uint8(HASHED)

    def copy_content(self, sources: Pfns, targets: Pfns) -> None:
        """Copy the content of frame `sources[i]` to `targets[i]`, as it is at this moment."""
        for number, chosen in self._by_content(sources):
            content = self._contents[number]
            indices = self._page[sources[chosen]].astype(np.int64)
            if not content.stable:
                content = StoredContent(content.rows(indices).tobytes())
                indices = np.arange(len(indices))
            self.set_content(targets[chosen], content, indices)

    def overwrite(self, pfn: int, offset: int, data: bytes) -> None:
        """Replace the bytes of a frame from `offset` (bytes) on by `data`, within the page."""
        page = bytearray(self.rows(np.array([pfn]))[0].tobytes())
        page[offset : offset + len(data)] = data
        assert len(page) == PAGE_SIZE
        self.set_content(np.array([pfn]), StoredContent(bytes(page)), np.zeros(1, np.int64))

    def rows(self, pfns: Pfns) -> Rows:
        """The bytes of the frames, a row each. Not to be written to."""
        numbers = self._content[pfns]
        pages = self._page[pfns].astype(np.int64)
        if len(pfns) and (numbers == numbers[0]).all():
            return self._contents[int(numbers[0])].rows(pages)
        rows = np.empty((len(pfns), PAGE_SIZE), np.uint8)
        for number, chosen in self._by_content(pfns):
            rows[chosen] = self._contents[number].rows(pages[chosen])
        return rows

    def checksums(self, pfns: Pfns) -> Checksums:
        """The checksums of the frames' present contents; computed only where not known."""
        unknown = pfns[self.flags[pfns] & HASHED == 0]
        for number, chosen in self._by_content(unknown):
            content = self._contents[number]
            hashed = unknown[chosen]
            self._checksum[hashed] = (
                content.checksums(self._page[hashed].astype(np.int64)) & self._checksum_mask
            )
            if content.stable:
                self.flags[hashed] |= HASHED
        return self._checksum[pfns]

    def equal(self, left: Pfns, right: Pfns) -> npt.NDArray[np.bool_]:
        """Whether frame `left[i]` has the same bytes as `right[i]`."""
        equal: npt.NDArray[np.bool_] = left == right
        equal |= (self._content[left] == self._content[right]) & (
            self._page[left] == self._page[right]
        )
        unproven = np.flatnonzero(~equal)
        addresses = self._addresses(left[unproven]), self._addresses(right[unproven])
        stored = (addresses[0] != 0) & (addresses[1] != 0)
        equal[unproven[stored]] = equal_pages(addresses[0][stored], addresses[1][stored])
        generated = unproven[~stored]
        for at in range(0, len(generated), _ROWS_AT_ONCE):
            pair = generated[at : at + _ROWS_AT_ONCE]
            equal[pair] = (self.rows(left[pair]) == self.rows(right[pair])).all(axis=1)
        return equal

    def has_content(self, pfns: Pfns, content: Content) -> npt.NDArray[np.bool_]:
        """Whether each frame holds a page of this very `content`."""
        held: npt.NDArray[np.bool_] = self._content[pfns] == self._contents.known_number(content)
        return held

    def refers_to(self, pfns: Pfns, content: Content, indices: Indices) -> npt.NDArray[np.bool_]:
        """Whether frame `pfns[i]` holds page `indices[i]` of this very `content`."""
        same: npt.NDArray[np.bool_] = self._page[pfns] == indices
        return same & self.has_content(pfns, content)

    def _addresses(self, pfns: Pfns) -> npt.NDArray[np.int64]:
        """Where the bytes of the frames are stored in our own memory; 0 if they are not."""
        addresses = np.zeros(len(pfns), np.int64)
        for number, chosen in self._by_content(pfns):
            content = self._contents[number]
            addresses[chosen] = content.addresses(self._page[pfns[chosen]].astype(np.int64))
        return addresses

    def _by_content(self, pfns: Pfns) -> list[tuple[int, npt.NDArray[np.int64]]]:
        """The content numbers of `pfns`, each with the positions in `pfns` that have it."""
        if not len(pfns):
            return []
        numbers = self._content[pfns]
        if (numbers == numbers[0]).all():
            return [(int(numbers[0]), np.arange(len(pfns)))]
        order = np.argsort(numbers, kind="stable")
        starts = np.flatnonzero(np.diff(numbers[order])) + 1
        return [(int(numbers[chosen[0]]), chosen) for chosen in np.split(order, starts)]

    # --- invariants -------------------------------------------------------------------------

    def check_invariants(self, mapped: dict[int, int]) -> None:
        """Assert that the books agree with `mapped`, the page-table entries of each pfn."""
        vacant = self._vacant[: self._vacancies].tolist()
        vacant += [head + at for head in self._vacant_huge for at in range(HUGE_PAGES)]
        assert len(vacant) == len(set(vacant)), "a frame is vacant twice"
        self._contents.check_invariants(self._content[HUGE_PAGES : self._end])
        free = set(vacant)
        for pfn in range(HUGE_PAGES, self._end):
            assert self.mapcount[pfn] == mapped.get(pfn, 0), f"frame {pfn} is mapped otherwise"
            assert self.tracked[pfn] >= 0
            named = self.in_use(pfn) or bool(self.tracked[pfn])
            assert named != (pfn in free), f"frame {pfn} is both vacant and named, or neither"


def huge_head(pfn: int) -> int:
    """The first pfn of the huge page that `pfn` is part of."""
    return pfn - pfn % HUGE_PAGES
