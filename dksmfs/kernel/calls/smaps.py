"""What the mappings of a process hold, as /proc/PID/smaps counts it."""

from dataclasses import dataclass

import numpy as np

from dksmfs.kernel.memory.address_space import AddressSpace
from dksmfs.kernel.memory.entries import HugePage
from dksmfs.kernel.memory.page_tables import PageTables
from dksmfs.kernel.memory.vma import Kind, Vma, prot_text
from dksmfs.kernel.units import HUGE_PAGES, PAGE_SIZE

_PSS_SHIFT = 12  # fixed-point bits of the kernel's proportional sizes
_PAGE_KB = PAGE_SIZE // 1024


@dataclass(frozen=True, slots=True)
class MappingInfo:
    """One mapping: `start` and `end` in bytes, sizes in kB, rounded as the kernel rounds them."""

    start: int
    end: int
    prot: str
    kind: str
    rss_kb: int
    pss_kb: int
    anonymous_kb: int
    anon_huge_kb: int


def mapping_info(mm: AddressSpace, vma: Vma) -> MappingInfo:
    """Sizes of one mapping; the zero page and hugetlb pages count nowhere (smaps_account)."""
    frames = mm.frames
    tables = PageTables() if vma.kind is Kind.HUGETLB else mm.tables
    held = tables.present_frames(vma.start, vma.end)
    proportional = (PAGE_SIZE << _PSS_SHIFT) // frames.mapcounts(held).astype(np.int64)
    huge = [
        part
        for part in tables.look(vma.start, vma.end)
        if isinstance(part, tuple) and isinstance(part[1], HugePage) and not part[1].zero
    ]
    return MappingInfo(
        vma.start * PAGE_SIZE,
        vma.end * PAGE_SIZE,
        prot_text(vma.prot),
        vma.kind.value,
        len(held) * _PAGE_KB,
        int(proportional.sum()) >> (10 + _PSS_SHIFT),
        int(np.count_nonzero(frames.anonymous(held))) * _PAGE_KB,
        len(huge) * HUGE_PAGES * _PAGE_KB,
    )


def present_pages(mm: AddressSpace) -> int:
    """Pages that the process has in memory, hugetlb and zero pages left out."""
    small = [vma for vma in mm.vmas if vma.kind is not Kind.HUGETLB]
    return sum(mm.tables.present_count(vma.start, vma.end) for vma in small)
