"""Memory of the machine, and the address spaces that map it.

`AddressSpace` is the state of one process (mm_struct): mappings and page tables. What happens to
it is in `faults` (accesses), `mmap` (system calls that map) and `madvise`.
"""

from enum import Enum
from functools import partial

import numpy as np

from dksmfs.kernel.memory.entries import PRESENT, HugePage, PageTable, Run
from dksmfs.kernel.memory.frames import Frames, Pfns
from dksmfs.kernel.memory.page_cache import File
from dksmfs.kernel.memory.page_tables import PageTables
from dksmfs.kernel.memory.vma import AnonVma, Kind, Vma, VmaFlag, VmaList
from dksmfs.kernel.units import HUGE_PAGES, ZERO_PFN


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

    def new_anon_vma(self) -> AnonVma:
        """A family of its own."""
        self._families += 1
        return AnonVma(self._families)


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
            table = self.tables[area] = PageTable()
        elif isinstance(table, HugePage):
            table = _split_huge(self.frames, self.tables, area, table)
        return table

    def zap(self, start: int, end: int) -> None:
        """Make the pages absent; tables stay, except for huge pages that go as a whole."""
        dropped: list[Pfns] = []
        for part in self.tables.parts(start, end):
            if isinstance(part, Run):
                self._zap_run(part)
                continue
            span, table = part
            if isinstance(table, HugePage) and span.whole:
                if not table.zero:
                    self.frames.put_huge(table.pfn)
                self.tables.drop(span.area, span.area + 1)
                continue
            table = self.table(span.area)
            pfns, flags = table.pfn[span.low : span.high], table.flags[span.low : span.high]
            dropped.append(pfns[(flags & PRESENT != 0) & (pfns != ZERO_PFN)].astype(np.int64))
            pfns[:] = ZERO_PFN
            flags[:] = 0
        if dropped:
            self.frames.put(np.concatenate(dropped))

    def split_huge_pages(self, start: int, end: int) -> None:
        """Let the huge pages that the range reaches into be mapped by entries."""
        for part in self.tables.look(start, end):
            if not isinstance(part, Run):
                self.table(part[0].area)

    def get_run(self, run: Run) -> None:
        """Count the entries of a run that is about to be mapped."""
        if run.step:
            self.frames.get(run.frames)
        elif run.pfn != ZERO_PFN:
            self.frames.add_mappings(run.pfn, run.pages)

    def _zap_run(self, run: Run) -> None:
        if run.step:
            self.frames.put(run.frames)
        elif run.pfn != ZERO_PFN:
            self.frames.drop_mappings(run.pfn, run.pages)
        run.pfn, run.step, run.flags = ZERO_PFN, 0, 0

    def remove(self, vmas: list[Vma]) -> None:
        """Unmap mappings, which are all in a range, with the page tables that only they used
        (unmap_region)."""
        if not vmas:
            return
        start, end = vmas[0].start, vmas[-1].end
        self.zap(start, end)
        self.vmas.remove(vmas[0], vmas[-1])
        for vma in vmas:
            self.close(vma.file)
        self._free_tables(start, end)

    def close(self, file: File | None) -> None:
        """Release a file that nobody maps and nobody can open any more."""
        if file is not None and not file.mappings and not file.linked:
            file.release(self.frames)

    def _free_tables(self, start: int, end: int) -> None:
        """Free tables whose whole area lies between the mappings that remain (free_pgtables)."""
        floor, ceiling = self.vmas.neighbours(start, end)
        first, last = start // HUGE_PAGES, -(-end // HUGE_PAGES)
        first = max(first, -(-floor // HUGE_PAGES))
        last = last if ceiling is None else min(last, ceiling // HUGE_PAGES)
        if first < last:
            self.tables.drop(first, last)

    def check_invariants(self) -> None:
        """Assert that every present page lies in a mapping."""
        self.vmas.check_invariants()
        self.tables.check_invariants()
        for part in self.tables.everything():
            if isinstance(part, Run):
                self._check_run(part)
                continue
            (area, _, _), table = part
            if isinstance(table, HugePage):
                vma = self.vmas.at(area * HUGE_PAGES)
                assert vma is not None
                assert vma.end >= (area + 1) * HUGE_PAGES
                continue
            assert ((table.flags != 0) == (table.flags & PRESENT != 0)).all()
            assert (table.pfn[table.flags == 0] == ZERO_PFN).all()
            for at in np.flatnonzero(table.flags).tolist():
                assert self.vmas.at(area * HUGE_PAGES + at) is not None, "page without a mapping"

    def _check_run(self, run: Run) -> None:
        assert not self.frames.compound(run.frames).any()
        assert (run.pfn == ZERO_PFN) or self.frames.anonymous(run.frames).all()
        for vpn in range(run.start, run.end) if run.flags else ():
            assert self.vmas.at(vpn) is not None, "page without a mapping"


def _split_huge_at(frames: Frames, tables: PageTables, vpn: int) -> None:
    """A mapping ends at `vpn` from now on: a huge page that spans it is split."""
    huge = tables.huge(vpn // HUGE_PAGES)
    if vpn % HUGE_PAGES and huge is not None:
        _split_huge(frames, tables, vpn // HUGE_PAGES, huge)


def _split_huge(frames: Frames, tables: PageTables, area: int, huge: HugePage) -> PageTable:
    if not huge.zero:
        frames.split_huge_mapping(huge.pfn)
    table = tables[area] = huge.split()
    return table
