"""The page tables of an address space.

What an area has is kept in one of three forms:

  * nothing at all: the area has no page table;
  * a `PageTable`, or a `HugePage`: the area is opened;
  * a `Run`, or several. Most regions are one run from their first touch to their end, whatever
    their size. An area that a run reaches into has a page table; entries that no run covers are
    absent.

The last two never are in the same area: runs are opened, that is written out as page tables,
wherever somebody needs single entries.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from dksmfs.kernel.linear import Numbers, Selection, compact, numbers
from dksmfs.kernel.memory.entries import Flags, HugePage, PageTable, Part, Run, span_of, spans
from dksmfs.kernel.units import HUGE_PAGES, ZERO_PFN

_SHORTEST_RUN: Final = 8  # pages that are worth one, where there was a table or another run
_EVERYTHING: Final = 1 << 40  # more areas than there are


class PageTables:
    """The page tables of one address space."""

    def __init__(self) -> None:
        self._areas: dict[int, PageTable | HugePage] = {}
        self._runs: list[Run] = []  # ascending, none in an area that is in _areas

    # --- single areas -----------------------------------------------------------------------

    def get(self, area: int) -> PageTable | HugePage | None:
        """The table of an area, or its huge page; None if it has neither. Opens runs."""
        table = self._areas.get(area)
        if table is None and self._has_run(area):
            self._open(area, area + 1)
            table = self._areas[area]
        return table

    def huge(self, area: int) -> HugePage | None:
        """The huge page of an area, if one entry maps it."""
        table = self._areas.get(area)
        return table if isinstance(table, HugePage) else None

    def __contains__(self, area: int) -> bool:
        return area in self._areas or self._has_run(area)

    def __setitem__(self, area: int, table: PageTable | HugePage) -> None:
        """Let an area have another table than before."""
        if area not in self._areas:
            self.drop(area, area + 1)
        self._areas[area] = table

    def drop(self, first: int, end: int) -> None:
        """Let areas `first` to `end` - 1 have no tables."""
        for area in self._opened(first, end):
            del self._areas[area]
        start, stop = first * HUGE_PAGES, end * HUGE_PAGES
        self._cut(start)
        self._cut(stop)
        low, high = self._index(start), self._index(stop)
        del self._runs[low:high]

    # --- ranges -----------------------------------------------------------------------------

    def parts(self, start: int, end: int) -> list[Part]:
        """What the range has, ascending: runs, and spans with their tables. Runs that reach
        beyond the range are cut, so that each may be changed."""
        self._cut(start)
        self._cut(end)
        return self.look(start, end)

    def look(self, start: int, end: int) -> list[Part]:
        """Like `parts`, to be looked at only: nothing is cut."""
        if start >= end:
            return []
        first, last = start // HUGE_PAGES, -(-end // HUGE_PAGES)
        found: list[tuple[int, Part]] = [
            (area * HUGE_PAGES, (span_of(area, start, end), self._areas[area]))
            for area in self._opened(first, last)
        ]
        for run in self._runs_in(start, end):
            inside = start <= run.start and run.end <= end
            found.append((run.start, run if inside else run.clipped(start, end)))
        return [part for _, part in sorted(found, key=lambda one: one[0])]

    def everything(self) -> list[Part]:
        """All that there is, to be looked at only."""
        return self.look(0, _EVERYTHING * HUGE_PAGES)

    def stretches(self, start: int, end: int, pages: int) -> list[tuple[int, int]]:
        """The parts of a range whose areas have tables: as few as possible, of at most `pages`
        pages (a multiple of 512) each."""
        areas: list[tuple[int, int]] = []  # ranges of areas
        first, last = start // HUGE_PAGES, -(-end // HUGE_PAGES)
        parts = self.look(first * HUGE_PAGES, last * HUGE_PAGES) if start < end else []
        for part in parts:
            if isinstance(part, Run):
                low, high = part.start // HUGE_PAGES, -(-part.end // HUGE_PAGES)
            else:
                low, high = part[0].area, part[0].area + 1
            if areas and low <= areas[-1][1]:
                areas[-1] = areas[-1][0], high
            else:
                areas.append((low, high))
        limit = pages // HUGE_PAGES
        return [
            (max(at * HUGE_PAGES, start), min(min(at + limit, high) * HUGE_PAGES, end))
            for low, high in areas
            for at in range(low, high, limit)
        ]

    def present_areas(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of the range whose areas have a table: start and end page of each."""
        return self.stretches(start, end, _EVERYTHING)

    def absent_areas(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of the range whose areas have no table: start and end page of each."""
        gaps, at = [], start
        for low, high in self.present_areas(start, end):
            if at < low:
                gaps.append((at, low))
            at = high
        if at < end:
            gaps.append((at, end))
        return gaps

    def entry(self, vpn: int) -> tuple[int, int]:
        """The pfn and the flags of a page; (0, 0) if it is absent."""
        pfns, flags = self.entries(vpn, vpn + 1)
        return int(pfns[0]), int(flags[0])

    def entries(self, start: int, end: int) -> tuple[Numbers, Flags]:
        """The pfns and the flags of virtual pages `start` to `end` - 1; 0 and 0 where absent."""
        pfns = np.zeros(end - start, np.int64)
        flags = np.zeros(end - start, np.uint8)
        for part in self.look(start, end):
            if isinstance(part, Run):
                here = slice(part.start - start, part.end - start)
                pfns[here], flags[here] = part.entries(), part.flags
                continue
            span, table = part
            if isinstance(table, HugePage):
                table = table.split()
            here = slice(span.start - start, span.end - start)
            pfns[here] = table.pfn[span.low : span.high]
            flags[here] = table.flags[span.low : span.high]
        return pfns, flags

    def entries_at(self, vpns: Numbers) -> tuple[Numbers, Flags]:
        """The pfns and the flags of single pages; 0 and 0 where absent, or where `vpns` is -1."""
        pfns, flags = np.zeros(len(vpns), np.int64), np.zeros(len(vpns), np.uint8)
        asked = np.flatnonzero(vpns >= 0)
        areas = np.unique(vpns[asked] // HUGE_PAGES)
        for adjacent in np.split(areas, np.flatnonzero(np.diff(areas) > 1) + 1):
            if len(adjacent):
                start, end = int(adjacent[0]) * HUGE_PAGES, int(adjacent[-1] + 1) * HUGE_PAGES
                here = asked[(vpns[asked] >= start) & (vpns[asked] < end)]
                found = self.entries(start, end)
                pfns[here] = found[0][vpns[here] - start]
                flags[here] = found[1][vpns[here] - start]
        return pfns, flags

    def opened_entries(self, start: int, end: int) -> tuple[Numbers, Numbers]:
        """The pfns of the pages of the range that are in no run, and their positions in it."""
        pfns, positions = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for part in self.look(start, end):
            if isinstance(part, Run):
                continue
            span, table = part
            table = table.split() if isinstance(table, HugePage) else table
            pfns.append(table.pfn[span.low : span.high].astype(np.int64))
            positions.append(np.arange(span.start - start, span.end - start))
        return np.concatenate(pfns), np.concatenate(positions)

    def present_frames(self, start: int, end: int) -> Numbers:
        """The frames of the range's present pages, zero pages left out, a pfn for each entry."""
        runs = [part.entries() for part in self.look(start, end) if isinstance(part, Run)]
        pfns, _ = self.opened_entries(start, end)
        pfns = np.concatenate([*runs, pfns])
        return pfns[pfns >= HUGE_PAGES]

    def present_count(self, start: int, end: int) -> int:
        """How many pages of the range are present, zero pages left out."""
        count = 0
        for part in self.look(start, end):
            if isinstance(part, Run):
                count += part.pages if part.pfn >= HUGE_PAGES else 0
            else:
                span, table = part
                if isinstance(table, PageTable):
                    count += int(np.count_nonzero(table.pfn[span.low : span.high] >= HUGE_PAGES))
                elif not table.zero:
                    count += span.high - span.low
        return count

    # --- changes ----------------------------------------------------------------------------

    def store(self, start: int, pfns: Selection, flags: int) -> None:
        """Set the entries from page `start` on: as one run, if they are alike."""
        end = start + len(pfns)
        step = _step(pfns)
        if step is not None and not self._opened(start // HUGE_PAGES, -(-end // HUGE_PAGES)):
            self.add_run(Run(start, end, int(pfns[0]), step, flags))
            return
        pfns = numbers(pfns)
        for span in spans(start, end):
            table = self.get(span.area)
            if table is None:
                table = self._areas[span.area] = PageTable()
            assert isinstance(table, PageTable)
            table.pfn[span.low : span.high] = pfns[span.start - start : span.end - start]
            table.flags[span.low : span.high] = flags

    def set_entries(self, vpns: Numbers, pfns: Numbers, flags: int) -> None:
        """Set the entries of pages, which ascend, in areas that have tables."""
        if len(vpns) >= _SHORTEST_RUN and (np.diff(vpns) == 1).all():
            self.store(int(vpns[0]), compact(pfns), flags)
            return
        areas = vpns // HUGE_PAGES
        starts = np.flatnonzero(np.diff(areas, prepend=-1))
        touched = areas[starts].tolist()
        for first, last in _adjacent(touched):
            self._open(first, last)
        ends = [*starts[1:].tolist(), len(vpns)]
        where = vpns % HUGE_PAGES
        for area, low, high in zip(touched, starts.tolist(), ends, strict=False):
            table = self._areas[area]
            assert isinstance(table, PageTable)
            here = where[low:high]
            table.pfn[here], table.flags[here] = pfns[low:high], flags

    def join(self, start: int, end: int) -> None:
        """Let the range, all of which is present, be one run if its entries are alike, and there
        are no others in its areas."""
        first, last = start // HUGE_PAGES, -(-end // HUGE_PAGES)
        if not self._opened(first, last):
            return
        pfns, flags = self.entries(first * HUGE_PAGES, last * HUGE_PAGES)
        here = slice(start - first * HUGE_PAGES, end - first * HUGE_PAGES)
        line, bits = compact(pfns[here]), flags[here]
        step = _step(line)
        alone = np.count_nonzero(flags) == end - start
        if step is not None and alone and (bits == bits[0]).all():
            self.drop(first, last)
            self.add_run(Run(start, end, int(line[0]), step, int(bits[0])))

    def add_bits(self, start: int, end: int, bits: int) -> None:
        """Set bits of all entries of the range, which are present."""
        for part in self.look(start, end):
            if isinstance(part, Run):
                if part.flags & bits != bits:
                    self.add_run(replace(part, flags=part.flags | bits))
                continue
            span, table = part
            if isinstance(table, HugePage):
                table.flags |= bits
            else:
                table.flags[span.low : span.high] |= np.uint8(bits)

    def ensure(self, start: int, end: int) -> None:
        """Let the areas of the range have tables, even if there is nothing in them."""
        for low, high in self.absent_areas(start, end):
            self.add_run(Run(low, high, ZERO_PFN, 0, 0))

    def add_run(self, run: Run) -> None:
        """Set entries, none of which is in an area that was opened."""
        self._cut(run.start)
        self._cut(run.end)
        low, high = self._index(run.start), self._index(run.end)
        if low and run.continues(self._runs[low - 1]):
            low -= 1
            run = replace(run, start=self._runs[low].start, pfn=self._runs[low].pfn)
        self._runs[low:high] = [run]

    # --- runs -------------------------------------------------------------------------------

    def _index(self, vpn: int) -> int:
        """The position of the first run that starts at `vpn` or behind it."""
        return bisect_right(self._runs, vpn - 1, key=lambda run: run.start)

    def _cut(self, vpn: int) -> None:
        """Let no run reach across the border before page `vpn`."""
        at = self._index(vpn)
        if at and self._runs[at - 1].end > vpn:
            run = self._runs[at - 1]
            self._runs[at - 1 : at] = [run.clipped(run.start, vpn), run.clipped(vpn, run.end)]

    def _has_run(self, area: int) -> bool:
        return bool(self._runs_in(area * HUGE_PAGES, (area + 1) * HUGE_PAGES))

    def _runs_in(self, start: int, end: int) -> list[Run]:
        """The runs that reach into virtual pages `start` to `end` - 1."""
        low = self._index(start)
        if low and self._runs[low - 1].end > start:
            low -= 1
        return self._runs[low : self._index(end)]

    def _opened(self, first: int, last: int) -> list[int]:
        """The areas in the range that have a table of their own, ascending."""
        if last - first > len(self._areas):
            return sorted(area for area in self._areas if first <= area < last)
        return [area for area in range(first, last) if area in self._areas]

    def _open(self, first: int, last: int) -> None:
        """Write the runs that reach into areas `first` to `last` - 1 out as page tables."""
        if not self._runs:
            return
        self._cut(first * HUGE_PAGES)
        self._cut(last * HUGE_PAGES)
        low, high = self._index(first * HUGE_PAGES), self._index(last * HUGE_PAGES)
        runs = self._runs[low:high]
        del self._runs[low:high]
        for run in runs:
            entries = run.entries()
            for span in spans(run.start, run.end):
                table = self._areas.get(span.area)
                if table is None:
                    table = self._areas[span.area] = PageTable()
                assert isinstance(table, PageTable)
                here = slice(span.start - run.start, span.end - run.start)
                table.pfn[span.low : span.high] = entries[here]
                table.flags[span.low : span.high] = run.flags

    def check_invariants(self) -> None:
        """Assert that runs are in order, and not in opened areas."""
        at = 0
        for run in self._runs:
            assert at <= run.start < run.end, "runs overlap"
            assert run.step in (0, 1)
            assert (run.pfn == ZERO_PFN) <= (run.step == 0)
            assert run.flags or not run.pfn, "an absent page has a frame"
            assert not self._opened(run.start // HUGE_PAGES, -(-run.end // HUGE_PAGES))
            at = run.end


def _adjacent(areas: list[int]) -> Iterator[tuple[int, int]]:
    """The ranges that ascending areas make up: first and end of each."""
    for at, area in enumerate(areas):
        if not at or areas[at - 1] != area - 1:
            first = area
        if at + 1 == len(areas) or areas[at + 1] != area + 1:
            yield first, area + 1


def _step(pfns: Selection) -> int | None:
    """The step of a run with these frames; None if they cannot be one."""
    if isinstance(pfns, range):
        return 1
    return 0 if (pfns == pfns[0]).all() else None
