"""System calls that change an address space: mmap, munmap, mprotect, mremap, mlock, fork.

Ranges are virtual pages `start` to `end` - 1. Each function raises OSError as the call would fail,
after having done as much as the kernel does before it fails.
"""

import errno
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dksmfs.kernel.calls import faults
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.memory.address_space import AddressSpace
from dksmfs.kernel.memory.entries import (
    ACCESSED,
    PRESENT,
    PROTNONE,
    SOFT_DIRTY,
    WRITE,
    HugePage,
    PageTable,
    Run,
)
from dksmfs.kernel.memory.page_cache import File
from dksmfs.kernel.memory.vma import AnonVma, Kind, Prot, Vma, VmaFlag
from dksmfs.kernel.units import HUGE_PAGES, ZERO_PFN

TASK_PAGES = 0x7FFFFFFFF  # user addresses end at 2**47 - 4096 (TASK_SIZE of x86-64)
_MMAP_BASE = 0x7FFFF7FFF  # where mmap places the first mapping; real ones are random below this


def mmap(
    mm: AddressSpace, start: int | None, pages: int, prot: Prot, kind: Kind, file: File | None
) -> int:
    """Map `pages` pages at page `start` (MAP_FIXED), or where there is room; returns the start."""
    if kind is Kind.HUGETLB:
        pages = -(-pages // HUGE_PAGES) * HUGE_PAGES
        if start is not None and start % HUGE_PAGES:
            raise kernel_error(errno.EINVAL, "a hugetlb mapping starts at a multiple of 2 MiB")
    start = _place(mm, pages, kind) if start is None else start
    if start + pages > TASK_PAGES:
        raise kernel_error(errno.ENOMEM, "the mapping does not fit below the end of user memory")
    munmap(mm, start, start + pages)
    mm.vmas.require_room()
    if kind is Kind.SHARED_ANON:
        file = File(pages)
    private = kind in (Kind.ANON, Kind.FILE_PRIVATE)
    flags = VmaFlag.ACCOUNT if private and prot & Prot.WRITE else VmaFlag.NONE
    pgoff = start if kind is Kind.ANON else 0
    vma = Vma(start, start + pages, pgoff, prot, kind, flags, file)
    if mm.vmas.merge(vma) is None:
        mm.vmas.insert(vma)
    return start


def _place(mm: AddressSpace, pages: int, kind: Kind) -> int:
    start = mm.vmas.gap_below(_MMAP_BASE, pages)
    if start is not None and kind is Kind.HUGETLB and start % HUGE_PAGES:
        roomy = mm.vmas.gap_below(_MMAP_BASE, pages + HUGE_PAGES)
        start = None if roomy is None else -(-roomy // HUGE_PAGES) * HUGE_PAGES
    if start is None:
        raise kernel_error(errno.ENOMEM, "no room in the address space")
    return start


def munmap(mm: AddressSpace, start: int, end: int) -> None:
    """Unmap what is mapped in the range."""
    touched = mm.vmas.overlapping(start, end)
    for vma in touched:
        check_boundaries(vma, start, end)
    mm.remove([mm.vmas.isolate(vma, max(start, vma.start), min(end, vma.end)) for vma in touched])


def check_boundaries(vma: Vma, start: int, end: int) -> None:
    """A hugetlb mapping can be split at multiples of 2 MiB only (hugetlb_vm_op_split)."""
    inside = [vpn for vpn in (start, end) if vma.start < vpn < vma.end]
    if vma.kind is Kind.HUGETLB and any(vpn % HUGE_PAGES for vpn in inside):
        raise kernel_error(errno.EINVAL, "a hugetlb mapping is split at multiples of 2 MiB only")


def _for_each_mapping(
    mm: AddressSpace, start: int, end: int, change: Callable[[Vma, int, int], None]
) -> None:
    """Call `change(vma, low, high)` for each mapping; ENOMEM at the first unmapped page."""
    vpn = start
    while vpn < end:
        vma = mm.vmas.at(vpn)
        if vma is None:
            raise kernel_error(errno.ENOMEM, f"nothing is mapped at {vpn * 4096:#x}")
        limit = min(vma.end, end)
        check_boundaries(vma, vpn, limit)
        change(vma, vpn, limit)
        vpn = limit


def mprotect(mm: AddressSpace, start: int, end: int, prot: Prot) -> None:
    """Change the protection; entries become read-only, as only a fault makes them writable."""

    def change(vma: Vma, low: int, high: int) -> None:
        if vma.prot == prot:
            return
        locked = not vma.shared and not vma.writable and bool(vma.flags & VmaFlag.LOCKED)
        flags = vma.flags
        if prot & Prot.WRITE and vma.kind in (Kind.ANON, Kind.FILE_PRIVATE):
            flags |= VmaFlag.ACCOUNT
        vma = mm.vmas.set_attributes(vma, low, high, prot, flags)
        _change_protection(mm, vma, low, high)
        if locked and prot & Prot.WRITE:  # mprotect_fixup: break COW now, not at the access
            accessible = min(high, faults.end_of_file(vma))
            faults.populate(mm, vma, low, accessible, write=True)
            if accessible < high:
                faults.fault_behind_end(mm, accessible, write=True)

    _for_each_mapping(mm, start, end, change)


def _change_protection(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    """change_protection: pte_modify keeps accessed, dirty and soft-dirty."""
    protection = PROTNONE if vma.prot is Prot.NONE else 0
    if vma.shared and vma.writable:
        protection |= WRITE
    keep = np.uint8(0xFF & ~(WRITE | PROTNONE))
    for part in mm.tables.parts(start, end):
        if isinstance(part, Run):
            if part.flags:
                part.flags = part.flags & int(keep) | protection
            continue
        span, table = part
        if isinstance(table, HugePage):
            if span.whole:
                table.flags = table.flags & int(keep) | protection
                continue
            table = mm.table(span.area)
        flags = table.flags[span.low : span.high]
        present = flags & PRESENT != 0
        flags[present] = flags[present] & keep | np.uint8(protection)


def mlock(mm: AddressSpace, start: int, end: int) -> None:
    """Lock pages: each is faulted in, for writing where the mapping is private and writable."""
    mm.frames.require(end - start)
    _set_locked(mm, start, end, VmaFlag.LOCKED)
    for vma in mm.vmas.overlapping(start, end):
        low, high = max(start, vma.start), min(end, vma.end)
        accessible = low if vma.prot is Prot.NONE else min(high, faults.end_of_file(vma))
        write = vma.writable and not vma.shared
        faults.populate(mm, vma, low, accessible, write=write)
        if accessible < high:
            if vma.prot is not Prot.NONE:
                faults.fault_behind_end(mm, accessible, write=write)
            raise kernel_error(errno.ENOMEM, f"the page at {accessible * 4096:#x} has no access")


def munlock(mm: AddressSpace, start: int, end: int) -> None:
    """Undo `mlock`; the pages stay."""
    _set_locked(mm, start, end, VmaFlag.NONE)


def _set_locked(mm: AddressSpace, start: int, end: int, locked: VmaFlag) -> None:
    def change(vma: Vma, low: int, high: int) -> None:
        flags = vma.flags & ~VmaFlag.LOCKED | locked
        if flags != vma.flags and vma.kind is not Kind.HUGETLB:
            mm.vmas.set_attributes(vma, low, high, vma.prot, flags)

    _for_each_mapping(mm, start, end, change)


def mremap(mm: AddressSpace, start: int, pages: int, target: int) -> None:
    """Move pages to page `target`, unmapping what is there (MREMAP_FIXED, same size)."""
    if target + pages > TASK_PAGES or (start + pages > target and target + pages > start):
        raise kernel_error(errno.EINVAL, "the target overlaps, or lies outside user memory")
    munmap(mm, target, target + pages)
    vma = mm.vmas.at(start)
    if vma is None:
        raise kernel_error(errno.EFAULT, f"nothing is mapped at {start * 4096:#x}")
    if vma.kind is Kind.HUGETLB:
        raise kernel_error(errno.EINVAL, "a hugetlb mapping cannot be moved")
    if pages > vma.end - start:
        raise kernel_error(errno.EFAULT, "the range is not within one mapping")
    untouched = vma.kind is Kind.ANON and vma.anon_vma is None
    pgoff = target if untouched else vma.linear_page_index(start)
    moved = replace(vma, start=target, end=target + pages, pgoff=pgoff)
    if mm.vmas.merge(moved) is None:  # copy_vma
        mm.vmas.insert(moved)
    _move_page_tables(mm, start, start + pages, target - start)
    munmap(mm, start, start + pages)


def _move_page_tables(mm: AddressSpace, start: int, end: int, distance: int) -> None:
    """move_page_tables: in pieces that cross no border of an area, on either side."""
    vpn = start
    while vpn < end:
        target = vpn + distance
        count = min(HUGE_PAGES - vpn % HUGE_PAGES, HUGE_PAGES - target % HUGE_PAGES, end - vpn)
        area, new_area = vpn // HUGE_PAGES, target // HUGE_PAGES
        table = mm.tables.get(area)
        if table is not None and count == HUGE_PAGES and new_area not in mm.tables:
            mm.tables.drop(area, area + 1)
            mm.tables[new_area] = table  # move_normal_pmd, move_huge_pmd
            if isinstance(table, HugePage):
                table.flags |= SOFT_DIRTY
        elif table is not None:
            _move_ptes(mm.table(area), vpn, mm.table(new_area), target, count)
        vpn += count


def _move_ptes(old: PageTable, vpn: int, new: PageTable, target: int, count: int) -> None:
    source = slice(vpn % HUGE_PAGES, vpn % HUGE_PAGES + count)
    goal = slice(target % HUGE_PAGES, target % HUGE_PAGES + count)
    present = old.flags[source] & PRESENT
    new.pfn[goal] = old.pfn[source]
    new.flags[goal] = old.flags[source] | present * np.uint8(SOFT_DIRTY)
    old.pfn[source] = ZERO_PFN
    old.flags[source] = 0


def fork(parent: AddressSpace) -> AddressSpace:
    """The address space of a child (dup_mmap): pages are shared until one side writes.

    Page tables are copied, empty ones too, of mappings that have a family; of others a fault
    finds the pages again.
    """
    child = AddressSpace(parent.memory)
    for vma in parent.vmas:
        copy = replace(vma, flags=vma.flags & ~VmaFlag.LOCKED)
        if vma.anon_vma is not None:
            copy.anon_vma, copy.inherited = AnonVma(vma.anon_vma.root), True
        child.vmas.insert(copy)
        if vma.anon_vma is not None or vma.kind is Kind.HUGETLB:
            _copy_page_range(parent, child, vma)
    return child


def _copy_page_range(parent: AddressSpace, child: AddressSpace, vma: Vma) -> None:
    frames = parent.frames
    write_protect = np.uint8(0xFF & ~WRITE)
    for entries in parent.tables.parts(vma.start, vma.end):
        if isinstance(entries, Run):
            _copy_run(child, entries)
            continue
        span, table = entries
        if isinstance(table, HugePage):
            table.flags &= int(write_protect)
            child.tables[span.area] = HugePage(table.pfn, table.flags & ~ACCESSED)
            if not table.zero:
                frames.get_huge(table.pfn)
        else:
            part = slice(span.low, span.high)
            table.flags[part] &= write_protect
            copy = child.table(span.area)
            copy.pfn[part] = table.pfn[part]
            copy.flags[part] = table.flags[part] & np.uint8(0xFF & ~ACCESSED)
            pfns = table.pfn[part]
            frames.get(pfns[pfns != ZERO_PFN].astype(np.int64))
    for start, end in parent.tables.present_areas(vma.start, vma.end):
        child.tables.ensure(start, end)


def _copy_run(child: AddressSpace, run: Run) -> None:
    run.flags &= ~WRITE
    child.tables.add_run(replace(run, flags=run.flags & ~ACCESSED))
    child.get_run(run)
