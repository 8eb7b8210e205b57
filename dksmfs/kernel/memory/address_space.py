"""Memory of the machine, and the address spaces that map it.

`AddressSpace` is the state of one process (mm_struct): mappings and page tables. What happens to
it is in `faults` (accesses), `mapping` (system calls that map) and `madvise`.
"""

from collections.abc import Iterator
from enum import Enum
from functools import partial
from typing import Final

import numpy as np

from dksmfs.kernel.memory.entries import (
    PRESENT,
    HugePage,
    PageTable,
    Part,
    Run,
    get_frames,
    put_frames,
)
from dksmfs.kernel.memory.frames import Frames
from dksmfs.kernel.memory.page_cache import File
from dksmfs.kernel.memory.page_tables import PageTables
from dksmfs.kernel.memory.vma import AnonVma, Kind, Vma, VmaFlag, VmaList
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import numbers
from dksmfs.kernel.units import HUGE_PAGES, ZERO_PFN, Vpn

_MAPPINGS: Final = 256  # that are taken out of the list together


class Thp(Enum):
    """/sys/kernel/mm/transparent_hugepage/enabled."""

    ALWAYS = "always"
    MADVISE = "madvise"
    NEVER = "never"


class Memory:
    """What all processes of a machine share: frames, the huge page mode, the families."""

    def __init__(self, thp: Thp, checksum_bits: int) -> None:
        self.frames = Frames(checksum_bits)
        self.thp = thp
        self._families = 0
        self._unused: list[File] = []  # whose frames are being released

    def new_anon_vma(self) -> AnonVma:
        """A family of its own."""
        self._families += 1
        return AnonVma(self._families)

    def close(self, file: File | None) -> None:
        """Mark a file for `release_unused` if it has no mapping and no name."""
        if file is not None and not file.mappings and not file.linked:
            self._unused.append(file)

    def release_unused(self) -> Work[None]:
        """Release files, also those that a call before this left when it was interrupted."""
        while self._unused:
            yield from self._unused[-1].release(self.frames)
            self._unused.pop()


class AddressSpace:
    """The mappings and page tables of one process; numbers are virtual pages."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.tables = PageTables()
        # Not a method of this: a process that is gone is freed at once, not by the collector.
        self.vmas = VmaList(partial(_split_huge_at, memory.frames, self.tables))

    @property
    def frames(self) -> Frames:
        """The machine's frames."""
        return self.memory.frames

    def huge_allowed(self, vma: Vma, area: int) -> bool:
        """Whether a fault may map a huge page: the area must be inside an anonymous mapping.

        transhuge_vma_suitable and __transparent_hugepage_enabled.
        """
        if not vma.start <= area * HUGE_PAGES <= vma.end - HUGE_PAGES:
            return False
        return self.frames.has_huge_page and self.huge_possible(vma)

    def huge_possible(self, vma: Vma) -> bool:
        """Whether a mapping may have huge pages, where there is room for them."""
        if vma.kind is not Kind.ANON or vma.flags & VmaFlag.NOHUGEPAGE:
            return False
        if -(-vma.start // HUGE_PAGES) >= vma.end // HUGE_PAGES:
            return False
        if self.memory.thp is Thp.MADVISE:
            return bool(vma.flags & VmaFlag.HUGEPAGE)
        return self.memory.thp is Thp.ALWAYS

    def prepare_anon_vma(self, vma: Vma) -> int:
        """Give `vma` a family before it gets an anonymous page; returns the family's root."""
        if vma.anon_vma is None:
            shared = self.vmas.reusable_anon_vma(vma)
            vma.anon_vma = shared or self.memory.new_anon_vma()
        return vma.anon_vma.root

    def table(self, area: int) -> PageTable:
        """The page table of `area`, made if there is none; a huge page is split into entries."""
        table = self.tables.get(area)
        if table is None:
            table = PageTable.empty(area)
            self.tables.set(table)
        elif isinstance(table, HugePage):
            table = _split_huge(self.frames, self.tables, table)
        return table

    def zap(self, start: Vpn, end: Vpn) -> Work[None]:
        """Make the pages absent; tables stay, except for huge pages that go as a whole."""
        for parts in self.pieces(start, end):
            put_frames(self.frames, parts)
            self.tables.clear(parts[0].start, parts[-1].end)
            yield

    def pieces(self, start: Vpn, end: Vpn) -> Iterator[list[Part]]:
        """What the range has, to be changed, in pieces; huge pages that reach across its borders
        are split."""
        for border in (start, end):
            _split_huge_at(self.frames, self.tables, border)
        for low, high in self.tables.pieces(start, end):
            yield self.tables.parts(low, high)
            self.tables.join_runs(low, high)

    def split_huge_pages(self, start: Vpn, end: Vpn) -> None:
        """Split the huge pages that the range reaches into into entries."""
        for part in self.tables.look(start, end):
            if isinstance(part, HugePage):
                self.table(part.start // HUGE_PAGES)

    def get_run(self, run: Run) -> None:
        """Count the entries of a run that is about to be mapped."""
        get_frames(self.frames, [run])

    def remove(self, start: Vpn, end: Vpn) -> Work[None]:
        """Unmap the mappings of the range, which do not reach beyond it, with the page tables that
        only they used (unmap_region)."""
        while vmas := self.vmas.overlapping(start, end, _MAPPINGS):
            low, high = vmas[0].start, vmas[-1].end
            yield from self.zap(low, high)
            self.vmas.remove(vmas[0], vmas[-1])
            for file in dict.fromkeys(vma.file for vma in vmas):
                self.memory.close(file)
            yield
            yield from self._free_tables(low, high)
        yield from self.memory.release_unused()

    def _free_tables(self, start: Vpn, end: Vpn) -> Work[None]:
        """Free tables whose whole area lies between the mappings that remain (free_pgtables)."""
        floor, ceiling = self.vmas.neighbours(start, end)
        first, last = start // HUGE_PAGES, -(-end // HUGE_PAGES)
        first = max(first, -(-floor // HUGE_PAGES))
        last = last if ceiling is None else min(last, ceiling // HUGE_PAGES)
        for low, high in self.tables.pieces(Vpn(first * HUGE_PAGES), Vpn(last * HUGE_PAGES)):
            self.tables.drop(low // HUGE_PAGES, -(-high // HUGE_PAGES))
            yield

    def check_invariants(self) -> None:
        """Assert that every present page lies in a mapping."""
        self.vmas.check_invariants()
        self.tables.check_invariants()
        for part in self.tables.everything():
            pfns, present = numbers(part.pfns()), self.tables.entries(part.start, part.end)[1] != 0
            assert part.allows(PRESENT) or not present.all()
            assert (pfns[~present] == ZERO_PFN).all(), "an absent page has a frame"
            if isinstance(part, Run):
                assert not self.frames.compound(pfns).any()
                assert self.frames.anonymous(pfns[pfns != ZERO_PFN]).all()
            for at in np.flatnonzero(present).tolist():
                assert self.vmas.at(Vpn(part.start + at)) is not None, "page without a mapping"


def _split_huge_at(frames: Frames, tables: PageTables, vpn: Vpn) -> None:
    """A mapping ends at `vpn` from now on: a huge page that spans it is split."""
    huge = tables.huge(vpn // HUGE_PAGES) if vpn % HUGE_PAGES else None
    if huge is not None:
        _split_huge(frames, tables, huge)


def _split_huge(frames: Frames, tables: PageTables, huge: HugePage) -> PageTable:
    if not huge.zero:
        frames.split_huge_mapping(huge.pfn)
    table = huge.split()
    tables.set(table)
    return table
