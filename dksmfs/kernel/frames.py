"""Physical memory: page frames, as arrays indexed by page frame number (pfn).

A frame has a content (a page of one of the `Content`s), counts of who refers to it, and, if it is
anonymous, the place where it was first mapped. Frame 0 is the kernel's shared zero page.

References: `mapcount` counts page-table entries; a frame nobody maps is free. `tracked` counts
page descriptors, which hold no reference: a descriptor may outlive its frame. The number of a
free frame is not used again while a descriptor still names it.
"""

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

Pfns = npt.NDArray[np.int64]  # page frame numbers

ZERO_PFN: Final = 0
HUGE_PAGES: Final = 512  # pages of a huge (compound) page, entries of a page table

COMPOUND: Final = 1  # part of a huge page
CACHED: Final = 2  # held by a file's page cache
HASHED: Final = 4  # `checksum` is that of the content

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
        zero = ZeroContent()
        self._contents: list[Content | None] = [zero]
        self._users: list[int] = [1]  # frames of each content
        self._content_of: dict[Content, int] = {zero: 0}
        self._vacant_contents: list[int] = []
        self._end = (
            HUGE_PAGES  # the first number never used; 0 to 511: the zero page, small or huge
        )
        self._vacant: list[int] = []
        self._huge_references: dict[
            int, int
        ] = {}  # page-table entries of each huge page, by its first pfn

    # --- allocation -------------------------------------------------------------------------

    def allocate(self, count: int) -> Pfns:
        """`count` frames with zero content that nobody maps yet."""
        reused = [self._vacant.pop() for _ in range(min(count, len(self._vacant)))]
        fresh = self._extend(count - len(reused))
        return np.concatenate([np.array(reused, np.int64), fresh]) if reused else fresh

    def allocate_huge(self) -> int:
        """The first pfn of a compound page of 512 frames with zero content."""
        self._vacant.extend(range(self._end, -(-self._end // HUGE_PAGES) * HUGE_PAGES))
        self._extend(-self._end % HUGE_PAGES)
        pfns = self._extend(HUGE_PAGES)
        self.flags[pfns] = COMPOUND
        head = int(pfns[0])
        self._huge_references[head] = 0
        return head

    def _extend(self, count: int) -> Pfns:
        first, self._end = self._end, self._end + count
        if self._end > len(self.mapcount):
            self._grow(max(self._end, 2 * len(self.mapcount)))
        self._users[0] += count  # a new frame is zero-filled
        return np.arange(first, self._end)

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
        np.subtract.at(self.mapcount, pfns, _ONE)
        compound = self.flags[pfns] & COMPOUND != 0
        for pfn in pfns[compound].tolist():
            self._put_huge_reference(huge_head(pfn))
        small = pfns[~compound]
        unmapped = small[(self.mapcount[small] == 0) & (self.flags[small] & CACHED == 0)]
        self._free(np.unique(unmapped))

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
            self._free(np.arange(head, head + HUGE_PAGES))

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
            self._vacant.append(pfn)

    def untrack_all(self) -> None:
        """There are no page descriptors any more."""
        tracked = np.flatnonzero(self.tracked[: self._end])
        self.tracked[tracked] = 0
        self._vacant.extend(pfn for pfn in tracked.tolist() if not self.in_use(pfn))

    def in_use(self, pfn: int) -> bool:
        """False for a free frame."""
        return bool(self.mapcount[pfn] or self.flags[pfn] & (CACHED | COMPOUND))

    def _free(self, pfns: Pfns) -> None:
        self.set_content(pfns, ZeroContent(), np.zeros(len(pfns), np.int64))
        self.flags[pfns] = 0
        self.anon_vma[pfns] = 0
        self._vacant.extend(pfns[self.tracked[pfns] == 0].tolist())

    # --- contents ---------------------------------------------------------------------------

    def set_content(self, pfns: Pfns, content: Content, indices: Indices) -> None:
        """Frame `pfns[i]` now holds page `indices[i]` of `content`. `pfns` has no repetitions."""
        if len(pfns):
            number = self._number_of(content)
            self._users[number] += len(pfns)
            self._drop_contents(pfns)
            self._content[pfns] = number
            self._page[pfns] = indices
            self.flags[pfns] &= ~np.uint8(HASHED)

    def copy_content(self, sources: Pfns, targets: Pfns) -> None:
        """Copy the content of frame `sources[i]` to `targets[i]`, as it is at this moment."""
        for number, chosen in self._by_content(sources):
            content = self._contents[number]
            assert content is not None
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
            return self._content_at(int(numbers[0])).rows(pages)
        rows = np.empty((len(pfns), PAGE_SIZE), np.uint8)
        for number, chosen in self._by_content(pfns):
            rows[chosen] = self._content_at(number).rows(pages[chosen])
        return rows

    def checksums(self, pfns: Pfns) -> Checksums:
        """The checksums of the frames' present contents; computed only where not known."""
        unknown = pfns[self.flags[pfns] & HASHED == 0]
        for number, chosen in self._by_content(unknown):
            content = self._content_at(number)
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

    def _addresses(self, pfns: Pfns) -> npt.NDArray[np.int64]:
        """Where the bytes of the frames are stored in our own memory; 0 if they are not."""
        addresses = np.zeros(len(pfns), np.int64)
        for number, chosen in self._by_content(pfns):
            content = self._content_at(number)
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

    def _content_at(self, number: int) -> Content:
        content = self._contents[number]
        assert content is not None
        return content

    def _number_of(self, content: Content) -> int:
        number = self._content_of.get(content)
        if number is None:
            if self._vacant_contents:
                number = self._vacant_contents.pop()
                self._contents[number] = content
                self._users[number] = 0
            else:
                number = len(self._contents)
                self._contents.append(content)
                self._users.append(0)
            self._content_of[content] = number
        return number

    def _drop_contents(self, pfns: Pfns) -> None:
        for number, chosen in self._by_content(pfns):
            self._users[number] -= len(chosen)
            if not self._users[number]:
                del self._content_of[self._content_at(number)]
                self._contents[number] = None
                self._vacant_contents.append(number)

    # --- invariants -------------------------------------------------------------------------

    def check_invariants(self, mapped: dict[int, int]) -> None:
        """Assert that the books agree with `mapped`, the page-table entries of each pfn."""
        vacant = set(self._vacant)
        assert len(vacant) == len(self._vacant), "a frame is vacant twice"
        users = np.bincount(self._content[HUGE_PAGES : self._end], minlength=len(self._users))
        users[0] += 1  # the zero page
        assert users.tolist() == self._users, "contents have other users than counted"
        for pfn in range(HUGE_PAGES, self._end):
            assert self.mapcount[pfn] == mapped.get(pfn, 0), f"frame {pfn} is mapped otherwise"
            assert self.tracked[pfn] >= 0
            named = self.in_use(pfn) or bool(self.tracked[pfn])
            assert named != (pfn in vacant), f"frame {pfn} is both vacant and named, or neither"


def huge_head(pfn: int) -> int:
    """The first pfn of the huge page that `pfn` is part of."""
    return pfn - pfn % HUGE_PAGES
