"""Physical memory: the frame table (mem_map). A frame is known by its page frame number (pfn).

Each column of the table has one owner, which alone reads and writes it:

  * `Frames` (here): `mapcount`, the page-table entries that map a frame; `tracked`, the page
    descriptors that name it; `flags`; and `home`, where an anonymous frame was mapped first;
  * `FrameContents`: the page of a content that the frame holds;
  * `KeptHashes`: the hash that was found last, and whether it is known to be right.

A frame that nothing maps is free. A page descriptor holds no reference, and may outlive its frame;
the number of a free frame is not used again while a descriptor names it. Frame 0 is the kernel's
shared zero page.
"""

import errno
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.content.described import ZeroContent
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.memory.columns import Column, LinearColumn
from dksmfs.kernel.memory.frame_contents import FrameContents
from dksmfs.kernel.memory.hashing.hashes import FrameHashes
from dksmfs.kernel.memory.hashing.kept import KeptHashes
from dksmfs.kernel.memory.vacancies import Vacancies
from dksmfs.kernel.memory.version import Version
from dksmfs.kernel.selection import Selection, at, compact, distinct, numbers, part
from dksmfs.kernel.units import HUGE_PAGES, PAGE_SIZE, Mask, Numbers, Pfn, Pfns, Pgoff

FRAME_LIMIT: Final = (1 << 28) + HUGE_PAGES
"""Frames of a machine: 1 TiB of memory beside the zero page. Its books take 1.3 GiB of ours where
regions stay in one piece, and some 8 GiB at the most."""

# Flags of a frame.
COMPOUND: Final = 1  # part of a huge page
CACHED: Final = 2  # held by a file's page cache
ANONYMOUS: Final = 4  # mapped by a private mapping; its home says where first
NAMED: Final = 8  # free, but a page descriptor named it when it was freed

MANY: Final = 255
"""Page descriptors that a frame counts; with more, it counts as tracked until DKSM is stopped."""

_SWEPT_FRAMES: Final = 1 << 20  # looked at together for frames that are not named any more

_COUNTED: Final = 1 << 30  # entries of one frame in its column, which has 32 bits

_PGOFF_BITS: Final = 35  # of a page offset: user addresses have 47 bits, pages 12
_ONE: Final = np.int32(1)  # of the type of the counts: a plain 1 makes `add.at` 40 times slower
_ZERO: Final = ZeroContent()


def home(anon_vma: int, pgoff: Pgoff) -> int:
    """The place at page offset `pgoff` of a family (root anon_vma): what page->mapping and
    page->index say. The places of adjacent pages are adjacent numbers."""
    return anon_vma << _PGOFF_BITS | pgoff


def home_pgoff(place: int, anon_vma: int) -> Pgoff | None:
    """The page offset of a place in the family; None for one in another family."""
    return Pgoff(place & ((1 << _PGOFF_BITS) - 1)) if place >> _PGOFF_BITS == anon_vma else None


class Frames:
    """All page frames of a machine; `contents` is what they hold."""

    def __init__(self, checksum_bits: int) -> None:
        self.version = Version()
        kept = KeptHashes()
        self.contents = FrameContents(kept, self.version, self.any_tracked)
        self.hashes = FrameHashes(self.contents, kept, checksum_bits)
        self._mapcount = Column(np.int32)  # page-table entries, as far as `_more` does not count
        self._tracked = Column(np.uint8)  # page descriptors, up to MANY
        self._flags = Column(np.uint8)
        self._home = LinearColumn()  # of anonymous frames: where they were mapped first
        # 0 to 511 are the zero page, small or huge.
        self._end = HUGE_PAGES  # the first number never used
        self._vacant = Vacancies()
        self._vacant_huge: list[Pfn] = []  # first pfns of free huge pages
        self._named = 0  # free frames that a page descriptor names
        self._released = 0  # those of them that none names any more; they are from `_swept` on
        self._swept = HUGE_PAGES
        self._huge_references: dict[Pfn, int] = {}  # entries that map each huge page, by first pfn
        self._mappings = 0  # entries of all frames together
        self._more: dict[Pfn, int] = {}  # entries of a frame beside those in its column

    # --- allocation -------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Frames that are left."""
        small = FRAME_LIMIT - self._end + len(self._vacant) + self._released
        return small + HUGE_PAGES * len(self._vacant_huge)

    @property
    def has_huge_page(self) -> bool:
        """Whether 512 frames in a row are left, on which a huge page can be."""
        return bool(self._vacant_huge) or FRAME_LIMIT - self._end >= HUGE_PAGES

    def require(self, count: int) -> None:
        """ENOMEM if there is no room for `count` frames more."""
        if count > self.room:
            limit = FRAME_LIMIT * PAGE_SIZE >> 30
            raise kernel_error(errno.ENOMEM, f"a machine has {limit} GiB of memory")

    def allocate(self, count: int) -> Pfns | range:
        """`count` frames with zero content, not mapped yet; ENOMEM if there are none."""
        self.require(count)
        while self._released and count > len(self._vacant):
            self._sweep()
        while self._vacant_huge and count > FRAME_LIMIT - self._end + len(self._vacant):
            head = self._vacant_huge.pop()
            self._vacant.add(range(head, head + HUGE_PAGES))
        reused = min(count, len(self._vacant))
        pfns = self._vacant.take(reused)
        if reused < count:
            fresh = self._extend(count - reused)
            pfns = compact(np.concatenate([numbers(pfns), numbers(fresh)])) if reused else fresh
        self.contents.give(pfns, _ZERO, range(count))
        return pfns

    def allocate_anonymous(self, count: int, first_home: int) -> Pfns | range:
        """Like `allocate`, for anonymous pages that are mapped once, at adjacent places."""
        pfns = self.allocate(count)
        self.make_anonymous(pfns, range(first_home, first_home + count))
        self._mapcount.values[at(pfns)] = 1
        self._mappings += count
        return pfns

    def allocate_huge(self) -> Pfn:
        """The first pfn of a compound page of 512 frames with zero content; ENOMEM if no frames in
        a row are left."""
        if not self.has_huge_page:
            raise kernel_error(errno.ENOMEM, "no huge page is left")
        if self._vacant_huge:
            head = self._vacant_huge.pop()
        else:
            self._vacant.add(self._extend(-self._end % HUGE_PAGES))
            head = Pfn(self._extend(HUGE_PAGES).start)
        parts = range(head, head + HUGE_PAGES)
        self.contents.give(parts, _ZERO, range(HUGE_PAGES))
        self._flags.values[at(parts)] = COMPOUND
        self._huge_references[head] = 0
        return head

    def _extend(self, count: int) -> range:
        first, self._end = self._end, self._end + count
        self._reach(self._end)
        return range(first, self._end)

    def _reach(self, end: int) -> None:
        """Have rows for the frames below `end`."""
        length = len(self._mapcount)
        if end <= length:
            return
        while length < end:
            length *= 2
        for column in (self._mapcount, self._tracked, self._flags, self._home):
            column.grow(length)
        self.contents.grow(length)

    def make_anonymous(self, pfns: Pfns | range, homes: Selection) -> None:
        """Note where anonymous frames are mapped first."""
        self._flags.values[at(pfns)] |= np.uint8(ANONYMOUS)
        self._home.set(pfns, homes)

    # --- what kind of frames they are -------------------------------------------------------

    def mapcounts(self, pfns: Pfns) -> npt.NDArray[np.signedinteger[Any]]:
        """The page-table entries that map each frame."""
        counts: npt.NDArray[np.signedinteger[Any]] = self._mapcount.values[pfns]
        if self._more:
            counts = counts.astype(np.int64)
            for pfn, more in self._more.items():
                counts[pfns == pfn] += more
        return counts

    def mapcount(self, pfn: Pfn) -> int:
        """The page-table entries that map one frame."""
        return int(self._mapcount.values[pfn]) + self._more.get(pfn, 0)

    def anonymous(self, pfns: Pfns | range) -> Mask:
        """Whether each frame is anonymous; the zero page is not."""
        found: Mask = self._flags.values[at(pfns)] & ANONYMOUS != 0
        return found

    def compound(self, pfns: Pfns | range) -> Mask:
        """Whether each frame is part of a huge page."""
        found: Mask = self._flags.values[at(pfns)] & COMPOUND != 0
        return found

    def cached(self, pfns: Pfns | range) -> Mask:
        """Whether a page cache holds each frame."""
        found: Mask = self._flags.values[at(pfns)] & CACHED != 0
        return found

    def homes(self, pfns: Pfns | range) -> Numbers:
        """The `home` of each anonymous frame."""
        return self._home.get(pfns)

    def home(self, pfn: Pfn) -> int:
        """The `home` of one anonymous frame."""
        return int(self._home.get(np.array([pfn]))[0])

    def first_home(self, pfns: range) -> int | None:
        """The home of the first, if those of all are known to be adjacent."""
        return self._home.first_of_line(pfns)

    # --- references -------------------------------------------------------------------------

    def get(self, pfns: Pfns | range) -> None:
        """Count one more page-table entry for each of `pfns` (repeated ones count each time)."""
        if isinstance(pfns, range):
            self._mapcount.values[at(pfns)] += _ONE
        else:
            np.add.at(self._mapcount.values, pfns, _ONE)
        self._mappings += len(pfns)
        if self._mappings > _COUNTED:
            self._spill(pfns)
        self._count_huge(pfns, 1)

    def add_mappings(self, pfn: Pfn, count: int) -> None:
        """Count `count` more page-table entries for one small frame; fewer, if it is negative."""
        self._mappings += count
        self._set_mappings(pfn, self.mapcount(pfn) + count)

    def _set_mappings(self, pfn: Pfn, count: int) -> None:
        self._mapcount.values[pfn] = min(count, _COUNTED)
        if count > _COUNTED:
            self._more[pfn] = count - _COUNTED
        else:
            self._more.pop(pfn, None)

    def _spill(self, pfns: Pfns | range) -> None:
        """Keep the counts in the column far from overflow, for `pfns`, and far from 0, for frames
        with more. No call changes the count of a frame by _COUNTED / 2."""
        large = part(pfns, self._mapcount.values[at(pfns)] > _COUNTED)
        for pfn in {*distinct(numbers(large)).tolist(), *self._more}:
            self.add_mappings(pfn, 0)

    def put(self, pfns: Pfns | range) -> None:
        """Count one entry less for each of `pfns`, and free the frames that no entry maps now."""
        self._mappings -= len(pfns)
        if isinstance(pfns, range):
            counts = self._mapcount.values[at(pfns)]
            counts -= _ONE
            if not counts.any() and not (self._flags.values[at(pfns)] & (CACHED | COMPOUND)).any():
                self._free(pfns)
                return
        else:
            np.subtract.at(self._mapcount.values, pfns, _ONE)
        if self._more:
            self._spill(range(0))
        small = self._flags.values[at(pfns)] & (CACHED | COMPOUND) == 0
        self._count_huge(pfns, -1)
        unused = (self._mapcount.values[at(pfns)] == 0) & small
        self._free(self._without_repetitions(part(pfns, unused)))

    def drop_mappings(self, pfn: Pfn, count: int) -> None:
        """Count `count` entries less for one small frame, and free it if no entry maps it now."""
        self.add_mappings(pfn, 1 - count)
        self.put(range(pfn, pfn + 1))

    def _without_repetitions(self, pfns: Pfns | range) -> Pfns | range:
        pfns = compact(pfns)
        if isinstance(pfns, range):
            return pfns
        places = np.empty(self._end, np.int32)  # only what is written of it becomes real memory
        every = np.arange(len(pfns), dtype=np.int32)
        places[pfns] = every
        kept: Pfns = pfns[places[pfns] == every]
        return kept

    def _count_huge(self, pfns: Pfns | range, change: int) -> None:
        huge = np.flatnonzero(self.compound(pfns))
        for pfn in numbers(part(pfns, huge)).tolist() if len(huge) else ():
            self._change_huge_reference(huge_head(pfn), change)

    def _change_huge_reference(self, head: Pfn, change: int) -> None:
        self._huge_references[head] += change
        if not self._huge_references[head]:
            del self._huge_references[head]
            self._clear(range(head, head + HUGE_PAGES))
            self._vacant_huge.append(head)

    def get_huge(self, head: Pfn) -> None:
        """Count a mapping of the whole huge page: one reference, every part of it mapped."""
        self._mapcount.values[head : head + HUGE_PAGES] += _ONE
        self._mappings += HUGE_PAGES
        self._change_huge_reference(head, 1)

    def put_huge(self, head: Pfn) -> None:
        """Undo `get_huge`."""
        self._mapcount.values[head : head + HUGE_PAGES] -= _ONE
        self._mappings -= HUGE_PAGES
        self._change_huge_reference(head, -1)

    def split_huge_mapping(self, head: Pfn) -> None:
        """One mapping of the whole huge page becomes 512 entries; each counts a reference."""
        self._huge_references[head] += HUGE_PAGES - 1

    def references(self, pfn: Pfn) -> int:
        """page_count() without transient references: of the whole huge page if `pfn` is in one."""
        if self._flags.values[pfn] & COMPOUND:
            return self._huge_references[huge_head(pfn)]
        return self.mapcount(pfn)

    def cache(self, pfns: Pfns | range) -> None:
        """Count `pfns` as held by a file's page cache."""
        self._flags.values[at(pfns)] |= np.uint8(CACHED)

    def uncache(self, pfns: Pfns) -> None:
        """Undo `cache`, and free those that no entry maps."""
        self._flags.values[pfns] &= np.uint8(0xFF & ~CACHED)
        self._free(pfns[self._mapcount.values[pfns] == 0])

    def _free(self, pfns: Pfns | range) -> None:
        tracked = self._tracked.values[at(pfns)] != 0
        self._clear(pfns)
        if tracked.any():
            self.version.change()
            named = part(pfns, tracked)
            self._flags.values[at(named)] = NAMED
            self._named += len(named)
            pfns = part(pfns, ~tracked)
        self._vacant.add(pfns)

    def _clear(self, pfns: Pfns | range) -> None:
        self.contents.drop(pfns)
        self._flags.values[at(pfns)] = 0

    # --- page descriptors -------------------------------------------------------------------

    def tracked(self, pfns: Pfns | range) -> Mask:
        """Whether a page descriptor names each frame."""
        tracked: Mask = self._tracked.values[at(pfns)] != 0
        return tracked

    def any_tracked(self, pfns: Pfns | range) -> bool:
        """Whether a page descriptor names one of the frames."""
        return bool(self._tracked.values[at(pfns)].any())

    def track(self, pfns: Pfns | range) -> None:
        """Count a page descriptor for each of `pfns`; a frame that reaches `MANY` stays there."""
        tracked = self._tracked.values
        if len(self._without_repetitions(pfns)) == len(pfns):
            counts = tracked[at(pfns)]
            tracked[at(pfns)] = counts + (counts < MANY)
        else:
            named, times = np.unique(numbers(pfns), return_counts=True)
            tracked[named] = np.minimum(tracked[named] + times, MANY)

    def untrack(self, pfns: Pfns) -> None:
        """Count a page descriptor less for each of `pfns` (repeated ones count each time)."""
        named, times = np.unique(pfns, return_counts=True)
        counted = self._tracked.values[named] != MANY
        named, times = named[counted], times[counted]
        self._tracked.values[named] -= times.astype(np.uint8)
        self._named -= len(self._vacate(named))

    def untrack_all(self) -> None:
        """All page descriptors are gone. The free frames that they named are looked for later,
        when frames are needed (`_sweep`)."""
        self._tracked.clear()
        self._released += self._named
        self._named, self._swept = 0, HUGE_PAGES

    def _sweep(self) -> None:
        """Go on looking for free frames that no page descriptor names any more."""
        end = min(self._swept + _SWEPT_FRAMES, self._end)
        self._released -= len(self._vacate(np.arange(self._swept, end)))
        self._swept = end

    def _vacate(self, pfns: Pfns) -> Pfns:
        """Make those of the frames vacant that are free and were kept for a page descriptor that
        is gone now; returns them."""
        kept = self._flags.values[pfns] & NAMED != 0
        unnamed: Pfns = pfns[kept & (self._tracked.values[pfns] == 0)]
        self._flags.values[unnamed] = 0
        self._vacant.add(unnamed)
        return unnamed

    def in_use(self, pfn: Pfn) -> bool:
        """False for a free frame."""
        return bool(self._mapcount.values[pfn] or self._flags.values[pfn] & (CACHED | COMPOUND))

    # --- invariants -------------------------------------------------------------------------

    def check_invariants(self, mapped: dict[int, int]) -> None:
        """Assert that the books agree with `mapped`, the page-table entries of each pfn."""
        vacant = self._vacant.all()
        vacant += [head + at for head in self._vacant_huge for at in range(HUGE_PAGES)]
        assert len(vacant) == len(set(vacant)), "a frame is vacant twice"
        free = set(vacant)
        every = [Pfn(pfn) for pfn in range(HUGE_PAGES, self._end)]
        used = [pfn for pfn in every if self.in_use(pfn)]
        self.contents.check_invariants(np.array(used, np.int64))
        counts = self.mapcounts(np.arange(self._end)).tolist()
        assert self._mappings == sum(counts)
        for pfn in every:
            assert counts[pfn] == mapped.get(pfn, 0), f"frame {pfn} is mapped wrong"
            taken = self.in_use(pfn) or bool(self._flags.values[pfn] & NAMED)
            assert taken != (pfn in free), f"frame {pfn} is both vacant and taken, or neither"
        named = np.flatnonzero(self._flags.values[: self._end] & NAMED)
        still = int(np.count_nonzero(self._tracked.values[named]))
        assert (still, len(named) - still) == (self._named, self._released)
        assert (named[self._tracked.values[named] == 0] >= self._swept).all()

    def check_tracked(self, descriptors: dict[int, int]) -> None:
        """Assert that each frame counts its `descriptors`, given by pfn."""
        for pfn, count in enumerate(self._tracked.values[: self._end].tolist()):
            expected = descriptors.get(pfn, 0)
            assert count == expected or (count == MANY and expected >= 0), (
                f"frame {pfn} counts {count} descriptors, there are {expected}"
            )


def huge_head(pfn: Pfn) -> Pfn:
    """The first pfn of the huge page that `pfn` is part of."""
    return Pfn(pfn - pfn % HUGE_PAGES)
