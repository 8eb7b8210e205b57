"""Page-table entries (pte), in the forms that they are kept in.

An area is 2 MiB of addresses, numbered: virtual page `vpn` is in area `vpn // 512`. It has a page
table with an entry for each page, or one entry for a whole huge page; or its entries are alike,
and part of a run, which may reach across any number of areas.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.memory.frames import Frames
from dksmfs.kernel.selection import numbers
from dksmfs.kernel.units import HUGE_PAGES, ZERO_PFN, Pfn, Pfns, Vpn

# Bits of an entry. An absent page has none of them.
PRESENT: Final = 1
WRITE: Final = 2
ACCESSED: Final = 4
DIRTY: Final = 8
SOFT_DIRTY: Final = 16
PROTNONE: Final = 32  # present, but every access faults

WRITTEN: Final = WRITE | ACCESSED | DIRTY | SOFT_DIRTY  # what a write fault leaves (pte_mkdirty)

Flags = npt.NDArray[np.uint8]

_SHORT: Final = 64  # pages of a run that is counted together with other entries
_NONE: Final[Pfns] = np.empty(0, np.int64)


class Part(ABC):
    """The entries of virtual pages `start` to `end` - 1, in one of three forms.

    `flags` are those of each page, or those that all have.
    """

    __slots__ = ("end", "start")
    start: Vpn
    end: Vpn
    flags: int | Flags

    @property
    def pages(self) -> int:
        """How many pages."""
        return self.end - self.start

    @abstractmethod
    def pfns(self) -> Pfns | range:
        """The pfn of each page; 0 where it is absent, or the zero page."""

    def present_frames(self) -> Pfns:
        """The frames of the present pages, zero pages left out, a pfn for each entry."""
        pfns = numbers(self.pfns())
        present: Pfns = pfns[pfns != ZERO_PFN]
        return present

    @property
    @abstractmethod
    def resident(self) -> int:
        """Pages that are in memory, as a process's memory is counted: the zero page is not, nor is
        hugetlb memory (rss)."""

    @abstractmethod
    def allows(self, wanted: int) -> bool:
        """Whether all entries have these bits."""

    @abstractmethod
    def clipped(self, start: Vpn, end: Vpn) -> "Part":
        """What is between two virtual pages, to be looked at only."""

    @abstractmethod
    def copy(self, distance: int) -> "Part":
        """The same entries for pages `distance` pages higher, to be changed apart from these."""

    @abstractmethod
    def change(self, keep: int, add: int) -> None:
        """Clear all bits but `keep` of the present entries, and set those of `add`."""

    @abstractmethod
    def clear(self) -> bool:
        """Make the pages absent; returns whether there is a page table left."""

    def move(self, distance: int) -> None:
        """Be the entries of pages `distance` pages higher, a multiple of 512 (move_normal_pmd)."""
        self.start, self.end = Vpn(self.start + distance), Vpn(self.end + distance)

    def continues(self, _before: "Part") -> bool:
        """Whether this and the part before are one run."""
        return False

    # Entries are counted all in one go, or are `singles`, counted together with those of others.

    @abstractmethod
    def get(self, frames: Frames) -> None:
        """Count the entries that are no `singles`."""

    @abstractmethod
    def put(self, frames: Frames) -> None:
        """Undo `get`, and free the frames that no entry maps now."""

    @abstractmethod
    def singles(self) -> Pfns:
        """The frames of entries that are counted one by one."""


@dataclass(slots=True, eq=False)
class PageTable(Part):
    """Entries of one area, all 512 or some: `pfn` and `flags` of each."""

    start: Vpn
    end: Vpn
    pfn: npt.NDArray[np.uint32]
    flags: Flags

    @classmethod
    def empty(cls, area: int) -> "PageTable":
        """The page table of an area where nothing is present."""
        pfn, flags = np.zeros(HUGE_PAGES, np.uint32), np.zeros(HUGE_PAGES, np.uint8)
        return cls(*area_range(area), pfn, flags)

    def pfns(self) -> Pfns:
        """The pfn of each page; 0 where it is absent, or the zero page."""
        return self.pfn.astype(np.int64)

    @property
    def resident(self) -> int:
        """Present pages but zero pages."""
        return int(np.count_nonzero(self.pfn))

    def allows(self, wanted: int) -> bool:
        """Whether all entries have these bits."""
        return bool((self.flags & np.uint8(wanted) == wanted).all())

    def clipped(self, start: Vpn, end: Vpn) -> "PageTable":
        """The entries between two virtual pages; a change of them changes the table."""
        start, end = max(start, self.start), min(end, self.end)
        here = slice(start - self.start, end - self.start)
        return PageTable(start, end, self.pfn[here], self.flags[here])

    def copy(self, distance: int) -> "PageTable":
        """The same entries for pages `distance` pages higher."""
        start, end = Vpn(self.start + distance), Vpn(self.end + distance)
        return PageTable(start, end, self.pfn.copy(), self.flags.copy())

    def set(self, pfns: Pfns | range | npt.NDArray[np.uint32], flags: int | Flags) -> None:
        """Set all entries."""
        self.pfn[:] = numbers(pfns) if isinstance(pfns, range) else pfns
        self.flags[:] = flags

    def change(self, keep: int, add: int) -> None:
        """Clear all bits but `keep` of the present entries, and set those of `add`."""
        self.flags &= np.uint8(keep)
        if add:
            self.flags |= (self.flags & PRESENT) * np.uint8(add)

    def clear(self) -> bool:
        """Make the pages absent."""
        self.pfn[:], self.flags[:] = ZERO_PFN, 0
        return True

    def get(self, frames: Frames) -> None:
        """Nothing: all are singles."""

    def put(self, frames: Frames) -> None:
        """Nothing: all are singles."""

    def singles(self) -> Pfns:
        """All that are present, zero pages left out."""
        return self.present_frames()


@dataclass(slots=True, eq=False)
class HugePage(Part):
    """An area that one entry maps: a compound page from frame `pfn` on, or the huge zero page."""

    start: Vpn
    end: Vpn
    pfn: Pfn
    flags: int
    hugetlb: bool = False

    @classmethod
    def of(cls, area: int, pfn: Pfn, flags: int, *, hugetlb: bool = False) -> "HugePage":
        """The entry of an area."""
        return cls(*area_range(area), pfn, flags, hugetlb)

    @property
    def zero(self) -> bool:
        """Whether it is the huge zero page."""
        return self.pfn == ZERO_PFN

    def pfns(self) -> Pfns | range:
        """The pfn of each page; 0 if it is the zero page."""
        if self.zero:
            return np.zeros(self.pages, np.int64)
        return range(self.pfn, self.pfn + self.pages)

    @property
    def resident(self) -> int:
        """All pages, but of the zero page and of hugetlb memory."""
        return 0 if self.zero or self.hugetlb else self.pages

    def allows(self, wanted: int) -> bool:
        """Whether the entry has these bits."""
        return self.flags & wanted == wanted

    def clipped(self, start: Vpn, end: Vpn) -> "HugePage":
        """The pages between two virtual pages."""
        start, end = max(start, self.start), min(end, self.end)
        pfn = ZERO_PFN if self.zero else Pfn(self.pfn + start - self.start)
        return HugePage(start, end, pfn, self.flags, self.hugetlb)

    def copy(self, distance: int) -> "HugePage":
        """The same entry for the area `distance` pages higher."""
        return replace(self, start=Vpn(self.start + distance), end=Vpn(self.end + distance))

    def change(self, keep: int, add: int) -> None:
        """Clear all bits but `keep`, and set those of `add`."""
        self.flags = self.flags & keep | add

    def clear(self) -> bool:
        """Leave nothing."""
        return False

    def move(self, distance: int) -> None:
        """Be the entry of an area `distance` pages higher (move_huge_pmd)."""
        self.start, self.end = Vpn(self.start + distance), Vpn(self.end + distance)
        self.flags |= SOFT_DIRTY

    def get(self, frames: Frames) -> None:
        """Count the entry."""
        if not self.zero:
            frames.get_huge(self.pfn)

    def put(self, frames: Frames) -> None:
        """Undo `get`."""
        if not self.zero:
            frames.put_huge(self.pfn)

    def singles(self) -> Pfns:
        """None."""
        return _NONE

    def split(self) -> PageTable:
        """The same mapping as 512 entries (__split_huge_pmd_locked)."""
        table = PageTable.empty(self.start // HUGE_PAGES)
        table.set(self.pfns(), self.flags & ~DIRTY)
        return table


@dataclass(slots=True, eq=False)
class Run(Part):
    """Entries that are alike, in any number of areas: page i is mapped to frame `pfn` + i * `step`,
    with `flags`. `step` is 1, or 0 if all map one frame; all are absent if `flags` is 0."""

    start: Vpn
    end: Vpn
    pfn: Pfn
    step: int
    flags: int

    @property
    def frames(self) -> range:
        """The frames that are mapped; one, if the step is 0."""
        return range(self.pfn, self.pfn + (self.pages if self.step else 1))

    def pfns(self) -> Pfns | range:
        """The pfn of each page; 0 where it is absent, or the zero page."""
        return self.frames if self.step else np.full(self.pages, self.pfn)

    @property
    def resident(self) -> int:
        """All pages, or none."""
        return self.pages if self.pfn else 0

    def allows(self, wanted: int) -> bool:
        """Whether the entries have these bits."""
        return self.flags & wanted == wanted

    def clipped(self, start: Vpn, end: Vpn) -> "Run":
        """The part of the run that is between two virtual pages."""
        start, end = max(start, self.start), min(end, self.end)
        pfn = Pfn(self.pfn + (start - self.start) * self.step)
        return Run(start, end, pfn, self.step, self.flags)

    def copy(self, distance: int) -> "Run":
        """The same entries for pages `distance` pages higher."""
        return replace(self, start=Vpn(self.start + distance), end=Vpn(self.end + distance))

    def change(self, keep: int, add: int) -> None:
        """Clear all bits but `keep` if the pages are present, and set those of `add`."""
        if self.flags:
            self.flags = self.flags & keep | add

    def clear(self) -> bool:
        """Make the pages absent."""
        self.pfn, self.step, self.flags = ZERO_PFN, 0, 0
        return True

    def continues(self, before: Part) -> bool:
        """Whether this and the part before are one run."""
        if not isinstance(before, Run) or self.start != before.end:
            return False
        steady = (self.flags, self.step) == (before.flags, before.step)
        return steady and self.pfn == before.pfn + before.pages * before.step

    @property
    def _short(self) -> bool:
        return self.pages < _SHORT

    def get(self, frames: Frames) -> None:
        """Count the entries of a run that is not short."""
        if self.step and not self._short:
            frames.get(self.frames)
        elif self.pfn and not self._short:
            frames.add_mappings(self.pfn, self.pages)

    def put(self, frames: Frames) -> None:
        """Undo `get`, and free the frames that no entry maps now."""
        if self.step and not self._short:
            frames.put(self.frames)
        elif self.pfn and not self._short:
            frames.drop_mappings(self.pfn, self.pages)

    def singles(self) -> Pfns:
        """The frames of a short run."""
        return self.present_frames() if self._short else _NONE


def get_frames(frames: Frames, parts: Iterable[Part]) -> None:
    """Count entries that are about to be mapped."""
    for part in parts:
        part.get(frames)
    frames.get(_all_singles(parts))


def put_frames(frames: Frames, parts: Iterable[Part]) -> None:
    """Uncount entries that are unmapped, and free the frames that no entry maps now."""
    for part in parts:
        part.put(frames)
    frames.put(_all_singles(parts))


def _all_singles(parts: Iterable[Part]) -> Pfns:
    return np.concatenate([_NONE, *(part.singles() for part in parts)])


def area_ranges(start: Vpn, end: Vpn) -> Iterator[tuple[Vpn, Vpn]]:
    """Virtual pages `start` to `end` - 1, cut where an area ends."""
    while start < end:
        stop = min(end, area_end(start))
        yield start, stop
        start = stop


def area_range(area: int) -> tuple[Vpn, Vpn]:
    """The first virtual page of an area, and the first one behind it."""
    return Vpn(area * HUGE_PAGES), Vpn((area + 1) * HUGE_PAGES)


def area_start(vpn: int) -> Vpn:
    """The first virtual page of the area that `vpn` is in."""
    return Vpn(vpn // HUGE_PAGES * HUGE_PAGES)


def area_end(vpn: int) -> Vpn:
    """The first virtual page behind the area that `vpn` is in."""
    return Vpn((vpn // HUGE_PAGES + 1) * HUGE_PAGES)
