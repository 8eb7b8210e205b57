"""The page tables of an address space.

What an area has is kept in one of three forms:

  * nothing at all: the area has no page table;
  * a `PageTable`, or a `HugePage`: the area is opened;
  * a `Run`, or several. Most regions of any size are one run from their first touch to their
    end. An area that a run reaches into has a page table; entries that no run covers are
    absent.

The last two never are in the same area: runs are opened, that is written out as page tables,
where single entries are needed.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final

import numpy as np

from dksmfs.kernel.memory.entries import (
    Flags,
    HugePage,
    PageTable,
    Part,
    Run,
    area_end,
    area_range,
    area_ranges,
    area_start,
)
from dksmfs.kernel.selection import by_block, compact, distinct, numbers
from dksmfs.kernel.units import HUGE_PAGES, ZERO_PFN, Pfn, Pfns, Vpn, Vpns

_SHORTEST_RUN: Final = 8  # pages that are worth one, where there was a table or another run
_EVERYTHING: Final = 1 << 40  # more areas than there are

PIECE_PAGES: Final = 64 * HUGE_PAGES
"""Pages of runs that are dealt with in half a millisecond."""

PIECE_PARTS: Final = 16
"""Page tables that are."""

_START: Final = attrgetter("start")
_END: Final = attrgetter("end")


class PageTables:
    """The page tables of one address space."""

    def __init__(self) -> None:
        self._parts: list[Part] = []  # ascending

    # --- single areas -----------------------------------------------------------------------

    def get(self, area: int) -> PageTable | HugePage | None:
        """The table of an area, or its huge page; None if it has neither. Opens runs."""
        part = self.first(*area_range(area))
        if isinstance(part, Run):
            self._open(area, area + 1)
            part = self.first(*area_range(area))
        assert isinstance(part, PageTable | HugePage | None)
        return part

    def huge(self, area: int) -> HugePage | None:
        """The huge page of an area, if one entry maps it."""
        part = self.first(*area_range(area))
        return part if isinstance(part, HugePage) else None

    def __contains__(self, area: int) -> bool:
        return self.first(*area_range(area)) is not None

    def set(self, table: PageTable | HugePage) -> None:
        """Put a table into its area, in place of what was there."""
        low, high = self._cut(table.start), self._cut(table.end)
        self._parts[low:high] = [table]

    def drop(self, first: int, end: int) -> None:
        """Remove what areas `first` to `end` - 1 have."""
        low, high = self._cut(Vpn(first * HUGE_PAGES)), self._cut(Vpn(end * HUGE_PAGES))
        del self._parts[low:high]

    # --- ranges -----------------------------------------------------------------------------

    def first(self, start: Vpn, end: Vpn) -> Part | None:
        """The first part that reaches into the range, all of it, to be looked at only."""
        at = self._at(start)
        if at < len(self._parts) and self._parts[at].start < end:
            return self._parts[at]
        return None

    def parts(self, start: Vpn, end: Vpn) -> list[Part]:
        """What the range has, ascending, to be changed: runs and page tables up to its borders,
        and the huge pages that it reaches into."""
        if start >= end:
            return []
        self._cut(end)
        low, high = self._cut(start), self._upto(end)
        return [
            part if isinstance(part, HugePage) else _within(part, start, end)
            for part in self._parts[low:high]
        ]

    def look(self, start: Vpn, end: Vpn, limit: int | None = None) -> list[Part]:
        """What the range has, ascending and up to its borders, to be looked at only; `limit` says
        how many parts at the most."""
        if start >= end:
            return []
        low, high = self._at(start), self._upto(end)
        if limit is not None:
            high = min(high, low + limit)
        return [_within(part, start, end) for part in self._parts[low:high]]

    def everything(self) -> list[Part]:
        """All that there is, to be looked at only."""
        return self._parts[:]

    def pieces(self, start: Vpn, end: Vpn) -> Iterator[tuple[Vpn, Vpn]]:
        """The parts of the range that have entries, in pieces that take half a millisecond or so
        to go over. Each is looked up when it is asked for: tables may change in between."""
        while parts := self.look(start, end, PIECE_PARTS):
            low, start = parts[0].start, _piece_end(parts)
            yield low, start

    def stretches(self, start: Vpn, end: Vpn, pages: int) -> list[tuple[Vpn, Vpn]]:
        """The parts of a range whose areas have tables: as few as possible, of at most `pages`
        pages (a multiple of 512) each."""
        areas: list[tuple[int, int]] = []  # ranges of areas
        first, last = start // HUGE_PAGES, -(-end // HUGE_PAGES)
        for part in (
            self.look(Vpn(first * HUGE_PAGES), Vpn(last * HUGE_PAGES)) if start < end else ()
        ):
            low, high = part.start // HUGE_PAGES, -(-part.end // HUGE_PAGES)
            if areas and low <= areas[-1][1]:
                areas[-1] = areas[-1][0], high
            else:
                areas.append((low, high))
        limit = pages // HUGE_PAGES
        return [
            (max(Vpn(at * HUGE_PAGES), start), min(Vpn(min(at + limit, high) * HUGE_PAGES), end))
            for low, high in areas
            for at in range(low, high, limit)
        ]

    def present_areas(self, start: Vpn, end: Vpn) -> list[tuple[Vpn, Vpn]]:
        """The parts of the range whose areas have a table: start and end page of each."""
        return self.stretches(start, end, _EVERYTHING)

    def absent_areas(self, start: Vpn, end: Vpn) -> list[tuple[Vpn, Vpn]]:
        """The parts of the range whose areas have no table: start and end page of each."""
        gaps, at = [], start
        for low, high in self.present_areas(start, end):
            if at < low:
                gaps.append((at, low))
            at = high
        if at < end:
            gaps.append((at, end))
        return gaps

    def entry(self, vpn: Vpn) -> tuple[Pfn, int]:
        """The pfn and the flags of a page; (0, 0) if it is absent."""
        pfns, flags = self.entries(vpn, Vpn(vpn + 1))
        return Pfn(int(pfns[0])), int(flags[0])

    def entries(self, start: Vpn, end: Vpn) -> tuple[Pfns, Flags]:
        """The pfns and the flags of virtual pages `start` to `end` - 1; 0 and 0 where absent."""
        pfns = np.zeros(end - start, np.int64)
        flags = np.zeros(end - start, np.uint8)
        for part in self.look(start, end):
            here = slice(part.start - start, part.end - start)
            pfns[here], flags[here] = numbers(part.pfns()), part.flags
        return pfns, flags

    def entries_at(self, vpns: Vpns) -> tuple[Pfns, Flags]:
        """The pfns and the flags of single pages; 0 and 0 where absent, or where `vpns` is -1."""
        pfns, flags = np.zeros(len(vpns), np.int64), np.zeros(len(vpns), np.uint8)
        asked = np.flatnonzero(vpns >= 0)
        areas = distinct(vpns[asked] // HUGE_PAGES)
        for adjacent in np.split(areas, np.flatnonzero(np.diff(areas) > 1) + 1):
            if len(adjacent):
                start, _ = area_range(int(adjacent[0]))
                _, end = area_range(int(adjacent[-1]))
                here = asked[(vpns[asked] >= start) & (vpns[asked] < end)]
                found = self.entries(start, end)
                pfns[here] = found[0][vpns[here] - start]
                flags[here] = found[1][vpns[here] - start]
        return pfns, flags

    def present_frames(self, start: Vpn, end: Vpn) -> Pfns:
        """The frames of the range's present pages, zero pages left out, a pfn for each entry."""
        found = [part.present_frames() for part in self.look(start, end)]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    # --- changes ----------------------------------------------------------------------------

    def store(self, start: Vpn, pfns: Pfns | range, flags: int) -> None:
        """Set the entries from page `start` on: as one run, if they are alike."""
        end = Vpn(start + len(pfns))
        step = _step(pfns)
        if step is not None:
            self.add(Run(start, end, Pfn(int(pfns[0])), step, flags))
            return
        pfns = numbers(pfns)
        for low, high in area_ranges(start, end):
            self._table(low).clipped(low, high).set(pfns[low - start : high - start], flags)

    def add(self, part: Part) -> None:
        """Set the entries of a part's pages."""
        if isinstance(part, Run):
            self.add_run(part)
        elif isinstance(part, HugePage):
            self.set(part)
        elif isinstance(part, PageTable):
            for low, high in area_ranges(part.start, part.end):
                here = part.clipped(low, high)
                self._table(low).clipped(low, high).set(here.pfn, here.flags)

    def add_run(self, run: Run) -> None:
        """Set entries that are alike: as a run where areas are not opened."""
        at = run.start
        for part in self.parts(run.start, run.end):
            if not isinstance(part, Run):
                assert isinstance(part, PageTable)
                self._place(run.clipped(at, part.start))
                part.set(run.clipped(part.start, part.end).pfns(), run.flags)
                at = part.end
        self._place(run.clipped(at, run.end))

    def _place(self, run: Run) -> None:
        if run.pages > 0:
            low, high = self._cut(run.start), self._cut(run.end)
            self._parts[low:high] = [run]
            self.join_runs(run.start, run.end)

    def set_entries(self, vpns: Vpns, pfns: Pfns, flags: int) -> None:
        """Set the entries of pages, which ascend, in areas that have tables."""
        if len(vpns) >= _SHORTEST_RUN and (np.diff(vpns) == 1).all():
            self.store(Vpn(int(vpns[0])), compact(pfns), flags)
            return
        touched = list(by_block(vpns, HUGE_PAGES))
        for first, last in _adjacent([area for area, _ in touched]):
            self._open(first, last)
        where = vpns % HUGE_PAGES
        for area, some in touched:
            table = self._parts[self._at(area * HUGE_PAGES)]
            assert isinstance(table, PageTable)
            here = where[some]
            table.pfn[here], table.flags[here] = pfns[some], flags

    def join(self, start: Vpn, end: Vpn) -> None:
        """Make one run of the range, all of which is present, if its entries are alike, and there
        are no others in its areas."""
        first, last = area_start(start), area_end(end - 1)
        if all(isinstance(part, Run) for part in self.look(first, last)):
            return
        pfns, flags = self.entries(first, last)
        here = slice(start - first, end - first)
        line, bits = compact(pfns[here]), flags[here]
        step = _step(line)
        alone = np.count_nonzero(flags) == end - start
        if step is not None and alone and (bits == bits[0]).all():
            self.drop(first // HUGE_PAGES, last // HUGE_PAGES)
            self.add_run(Run(start, end, Pfn(int(line[0])), step, int(bits[0])))

    def join_runs(self, start: Vpn, end: Vpn) -> None:
        """Join runs of the range, and those that end or start at its borders, that continue one
        another."""
        low = self._at(start - 1)
        high = bisect_right(self._parts, end, key=_START)
        if high - low > 1:
            self._parts[low:high] = _joined(self._parts[low:high])

    def add_bits(self, start: Vpn, end: Vpn, bits: int) -> None:
        """Set bits of all entries of the range, which are present."""
        if all(part.allows(bits) for part in self.look(start, end)):
            return
        for part in self.parts(start, end):
            part.change(0xFF, bits)
        self.join_runs(start, end)

    def clear(self, start: Vpn, end: Vpn) -> None:
        """Make pages absent: page tables stay, the huge pages that are in the range go."""
        for part in self.parts(start, end):
            if not part.clear():
                self.drop(part.start // HUGE_PAGES, part.end // HUGE_PAGES)
        self.join_runs(start, end)

    def move(self, start: Vpn, end: Vpn, distance: int) -> None:
        """Move the tables of whole areas `distance` pages up, to where there are none."""
        low, high = self._cut(start), self._cut(end)
        moved = self._parts[low:high]
        del self._parts[low:high]
        for part in moved:
            part.move(distance)
        start, end = Vpn(start + distance), Vpn(end + distance)
        at = self._at(start)
        self._parts[at:at] = moved
        self.join_runs(start, start)
        self.join_runs(end, end)

    def ensure(self, start: Vpn, end: Vpn) -> None:
        """Make page tables for those areas of the range that have none."""
        for low, high in self.absent_areas(start, end):
            self.add_run(Run(low, high, ZERO_PFN, 0, 0))

    # --- where things are -------------------------------------------------------------------

    def _at(self, vpn: int) -> int:
        """The position of the first part that ends behind page `vpn`."""
        return bisect_right(self._parts, vpn, key=_END)

    def _upto(self, vpn: int) -> int:
        """The position of the first part that starts at page `vpn` or behind it."""
        return bisect_left(self._parts, vpn, key=_START)

    def _cut(self, vpn: Vpn) -> int:
        """Cut the run that reaches across the border before page `vpn`; returns the position of
        what is behind that."""
        at = self._at(vpn)
        part = self._parts[at] if at < len(self._parts) else None
        if part is not None and part.start < vpn and isinstance(part, Run):
            self._parts[at : at + 1] = [part.clipped(part.start, vpn), part.clipped(vpn, part.end)]
            return at + 1
        return at

    def _table(self, vpn: Vpn) -> PageTable:
        """The page table that page `vpn` is in; it comes into being if there is none."""
        area = vpn // HUGE_PAGES
        table = self.get(area)
        if table is None:
            table = PageTable.empty(area)
            self.set(table)
        assert isinstance(table, PageTable)
        return table

    def _open(self, first: int, last: int) -> None:
        """Write the runs that reach into areas `first` to `last` - 1 out as page tables."""
        low, high = self._at(first * HUGE_PAGES), self._upto(last * HUGE_PAGES)
        if not any(isinstance(part, Run) for part in self._parts[low:high]):
            return
        low, high = self._cut(Vpn(first * HUGE_PAGES)), self._cut(Vpn(last * HUGE_PAGES))
        self._parts[low:high] = _opened(self._parts[low:high])

    def check_invariants(self) -> None:
        """Assert that parts are in order, tables whole, and runs not in their areas."""
        at = 0
        for part in self._parts:
            assert at <= part.start < part.end, "parts overlap"
            if isinstance(part, Run):
                assert part.step in (0, 1)
                assert (part.pfn == ZERO_PFN) <= (part.step == 0)
                assert part.flags or not part.pfn, "an absent page has a frame"
                at = part.end
            else:
                assert part.start % HUGE_PAGES == 0
                assert part.pages == HUGE_PAGES
                assert at <= part.start, "a run in the area of a table"
                at = part.end


def _within(part: Part, start: Vpn, end: Vpn) -> Part:
    return part if start <= part.start and part.end <= end else part.clipped(start, end)


def _piece_end(parts: list[Part]) -> Vpn:
    """Where a piece that begins with these parts ends: inside a run only where an area does."""
    left = PIECE_PAGES
    for part in parts:
        if part.pages > left:
            return max(area_start(part.start + left), part.start)
        left -= part.pages
    return parts[-1].end


def _joined(parts: Iterable[Part]) -> list[Part]:
    """The same parts, runs that continue one another as one."""
    joined: list[Part] = []
    for part in parts:
        if joined and part.continues(joined[-1]):
            joined[-1].end = part.end
        else:
            joined.append(part)
    return joined


def _opened(parts: Iterable[Part]) -> list[Part]:
    """The same entries, those of runs in page tables."""
    opened: list[Part] = []
    for part in parts:
        if not isinstance(part, Run):
            opened.append(part)
            continue
        for low, high in area_ranges(part.start, part.end):
            if not opened or opened[-1].end <= low:
                opened.append(PageTable.empty(low // HUGE_PAGES))
            table = opened[-1]
            assert isinstance(table, PageTable)
            table.clipped(low, high).set(part.clipped(low, high).pfns(), part.flags)
    return opened


def _adjacent(areas: list[int]) -> Iterator[tuple[int, int]]:
    """The ranges that ascending areas make up: first and end of each."""
    for at, area in enumerate(areas):
        if not at or areas[at - 1] != area - 1:
            first = area
        if at + 1 == len(areas) or areas[at + 1] != area + 1:
            yield first, area + 1


def _step(pfns: Pfns | range) -> int | None:
    """The step of a run with these frames; None if they cannot be one."""
    if isinstance(pfns, range):
        return 1
    return 0 if (pfns == pfns[0]).all() else None
