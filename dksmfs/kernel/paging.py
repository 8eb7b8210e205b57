"""Page tables: an entry (pte) for each page of a 2 MiB area, or one entry for a whole huge page.

An area is numbered by its address: virtual page `vpn` is in area `vpn // 512`. An area without a
table is absent from `PageTables`; a table may be there with no page in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.frames import HUGE_PAGES, ZERO_PFN

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

    def copy(self) -> "PageTable":
        """A table with equal entries."""
        return PageTable(self.pfn.copy(), self.flags.copy())


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


def spans(start: int, end: int) -> Iterator[Span]:
    """The areas that virtual pages `start` to `end` - 1 lie in, ascending."""
    if start >= end:
        return
    for area in range(start // HUGE_PAGES, -(-end // HUGE_PAGES)):
        first = area * HUGE_PAGES
        yield Span(area, max(start - first, 0), min(end - first, HUGE_PAGES))


class PageTables(dict[int, PageTable | HugePage]):
    """The tables of one address space by area number."""

    def existing(self, start: int, end: int) -> Iterator[tuple[Span, PageTable | HugePage]]:
        """The spans of the range whose area has a table; does not walk areas that have none."""
        first, last = start // HUGE_PAGES, -(-end // HUGE_PAGES) if start < end else 0
        areas = range(first, last)
        if last - first > len(self):
            areas_there = sorted(area for area in self if area in areas)
        else:
            areas_there = [area for area in areas if area in self]
        for area in areas_there:
            base = area * HUGE_PAGES
            yield Span(area, max(start - base, 0), min(end - base, HUGE_PAGES)), self[area]

    def present_frames(self, start: int, end: int) -> npt.NDArray[np.int64]:
        """The frames of the range's present pages, zero pages left out, a pfn for each entry."""
        parts = [np.empty(0, np.uint32)]
        for span, table in self.existing(start, end):
            entries = table.split() if isinstance(table, HugePage) else table
            parts.append(entries.pfn[span.low : span.high])
        pfns = np.concatenate(parts).astype(np.int64)
        return pfns[pfns >= HUGE_PAGES]

    def entry(self, vpn: int) -> tuple[int, int]:
        """The pfn and the flags of a page; (0, 0) if it is absent."""
        table = self.get(vpn // HUGE_PAGES)
        if table is None:
            return 0, 0
        at = vpn % HUGE_PAGES
        if isinstance(table, HugePage):
            return (table.pfn + at if not table.zero else ZERO_PFN), table.flags
        return int(table.pfn[at]), int(table.flags[at])

    def entries(self, start: int, end: int) -> tuple[npt.NDArray[np.int64], Flags]:
        """The pfns and the flags of virtual pages `start` to `end` - 1; 0 and 0 where absent."""
        pfns = np.zeros(end - start, np.int64)
        flags = np.zeros(end - start, np.uint8)
        for span, table in self.existing(start, end):
            if isinstance(table, HugePage):
                table = table.split()
            here = slice(span.start - start, span.start - start + span.high - span.low)
            pfns[here] = table.pfn[span.low : span.high]
            flags[here] = table.flags[span.low : span.high]
        return pfns, flags
