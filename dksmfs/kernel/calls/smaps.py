"""What the mappings of a process hold, as /proc/PID/smaps counts it."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dksmfs.kernel.memory.address_space import AddressSpace
from dksmfs.kernel.memory.entries import HugePage
from dksmfs.kernel.memory.vma import Vma, prot_text
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.units import PAGE_SIZE, TASK_PAGES, Vpn

_PSS_SHIFT = 12  # fixed-point bits of the kernel's proportional sizes
_PAGE_KB = PAGE_SIZE // 1024
_NONE: Final = np.empty(0, np.int64)


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


def mappings_info(mm: AddressSpace) -> Work[list[MappingInfo]]:
    """The mappings, in ascending order. Those that change in a pause are shown as they were when
    they were come to, or not at all."""
    found: list[MappingInfo] = []
    vma = mm.vmas.find(Vpn(0))
    while vma is not None:
        end = vma.end
        found.append((yield from _mapping_info(mm, vma)))
        yield
        vma = mm.vmas.find(end)
    return found


def _mapping_info(mm: AddressSpace, vma: Vma) -> Work[MappingInfo]:
    """Sizes of one mapping; the zero page and hugetlb pages count nowhere (smaps_account)."""
    shown = replace(vma)
    rss = proportional = anonymous = huge = 0
    for low, high in mm.tables.pieces(shown.start, shown.end):
        parts = [part for part in mm.tables.look(low, high) if part.resident]
        held = np.concatenate([_NONE, *(part.present_frames() for part in parts)])
        rss += len(held)
        proportional += int(((PAGE_SIZE << _PSS_SHIFT) // mm.frames.mapcounts(held)).sum())
        anonymous += int(np.count_nonzero(mm.frames.anonymous(held)))
        huge += sum(part.pages for part in parts if isinstance(part, HugePage))
        yield
    return MappingInfo(
        shown.start * PAGE_SIZE,
        shown.end * PAGE_SIZE,
        prot_text(shown.prot),
        shown.kind.value,
        rss * _PAGE_KB,
        proportional >> (10 + _PSS_SHIFT),
        anonymous * _PAGE_KB,
        huge * _PAGE_KB,
    )


def present_pages(mm: AddressSpace) -> Work[int]:
    """Pages that the process has in memory, hugetlb and zero pages left out."""
    count = 0
    for low, high in mm.tables.pieces(Vpn(0), TASK_PAGES):
        count += sum(part.resident for part in mm.tables.look(low, high))
        yield
    return count
