"""Page-table entries (pte), in the forms that they are kept in.

An area is 2 MiB of addresses, numbered: virtual page `vpn` is in area `vpn // 512`. It has a page
table with an entry for each page, or one entry for a whole huge page; or its entries are alike,
and part of a run, which may reach across any number of areas.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.linear import Numbers
from dksmfs.kernel.units import HUGE_PAGES, ZERO_PFN

# Bits of an entry. An absent page has none of them.
PRESENT: Final = 1
WRITE: Final = 2
ACCESSED: Final = 4
DIRTY: Final = 8
SOFT_DIRTY: Final = 16
PROTNONE: Final = 32  # present, but every access faults

WRITTEN: Final = WRITE | ACCESSED | DIRTY | SOFT_DIRTY  # what a write fault leaves (pte_mkdirty)

Flags = npt.NDArray[np.uint8]


@dataclass(slots=True, eq=False)
class PageTable:
    """512 entries: `pfn` and `flags` of each."""

    pfn: npt.NDArray[np.uint32] = field(default_factory=lambda: np.zeros(HUGE_PAGES, np.uint32))
    flags: Flags = field(default_factory=lambda: np.zeros(HUGE_PAGES, np.uint8))


@dataclass(slots=True, eq=False)
class HugePage:
    """An area that one entry maps: a compound page from frame `pfn` on, or the huge zero page."""

    pfn: int
    flags: int

    @property
    def zero(self) -> bool:
        """Whether it is the huge zero page."""
        return self.pfn == ZERO_PFN

    def split(self) -> PageTable:
        """The same mapping as 512 entries (__split_huge_pmd_locked)."""
        first = np.uint32(self.pfn)
        span = np.zeros(HUGE_PAGES) if self.zero else np.arange(HUGE_PAGES)
        kept = self.flags & ~DIRTY
        return PageTable(first + span.astype(np.uint32), np.full(HUGE_PAGES, kept, np.uint8))


@dataclass(slots=True, eq=False)
class Run:
    """Virtual pages `start` to `end` - 1: page i is mapped to frame `pfn` + i * `step`, with
    `flags`. `step` is 1, or 0 if all map one frame; all are absent if `flags` is 0."""

    start: int
    end: int
    pfn: int
    step: int
    flags: int

    @property
    def pages(self) -> int:
        """How many pages."""
        return self.end - self.start

    @property
    def frames(self) -> range:
        """The frames that are mapped; one, if the step is 0."""
        return range(self.pfn, self.pfn + (self.pages if self.step else 1))

    def clipped(self, start: int, end: int) -> "Run":
        """The part of the run that is between two virtual pages."""
        start, end = max(start, self.start), min(end, self.end)
        return replace(self, start=start, end=end, pfn=self.pfn + (start - self.start) * self.step)

    def entries(self) -> Numbers:
        """The pfn of each page."""
        return self.pfn + self.step * np.arange(self.pages)

    def continues(self, other: "Run") -> bool:
        """Whether `other` and this one, behind it, are one run."""
        after = other.pfn + other.pages * other.step
        steady = (self.flags, self.step) == (other.flags, other.step)
        return steady and self.start == other.end and self.pfn == after


class Span(NamedTuple):
    """The part of an area that a range covers: entries `low` to `high` - 1."""

    area: int
    low: int
    high: int

    @property
    def start(self) -> int:
        """The first virtual page."""
        return self.area * HUGE_PAGES + self.low

    @property
    def end(self) -> int:
        """The virtual page behind the last one."""
        return self.area * HUGE_PAGES + self.high

    @property
    def whole(self) -> bool:
        """Whether it is the whole area."""
        return self.high - self.low == HUGE_PAGES


Part = Run | tuple[Span, PageTable | HugePage]


def spans(start: int, end: int) -> Iterator[Span]:
    """The areas that virtual pages `start` to `end` - 1 lie in, ascending."""
    if start >= end:
        return
    for area in range(start // HUGE_PAGES, -(-end // HUGE_PAGES)):
        yield span_of(area, start, end)


def span_of(area: int, start: int, end: int) -> Span:
    """The part of an area that virtual pages `start` to `end` - 1 cover."""
    first = area * HUGE_PAGES
    return Span(area, max(start - first, 0), min(end - first, HUGE_PAGES))
