"""System calls that change an address space: mmap, munmap, mprotect, mremap, mlock, fork.

Ranges are virtual pages `start` to `end` - 1. Each function raises OSError as the call would fail,
after having done as much as the kernel does before it fails.
"""

import errno
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from dksmfs.kernel.calls import faults
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.memory.address_space import AddressSpace
from dksmfs.kernel.memory.entries import (
    ACCESSED,
    PROTNONE,
    SOFT_DIRTY,
    WRITE,
    area_end,
    area_start,
    get_frames,
)
from dksmfs.kernel.memory.page_cache import File
from dksmfs.kernel.memory.vma import AnonVma, Kind, Prot, Vma, VmaFlag
from dksmfs.kernel.pausing import Work, finished
from dksmfs.kernel.units import HUGE_PAGES, PAGE_SIZE, TASK_PAGES, Pgoff, Vpn

_MMAP_BASE: Final = Vpn(0x7FFFF7FFF)
"""Where mmap places the first mapping; on a real machine it is at a random address below this."""

_EVERY_BIT: Final = 0xFF
_ALL_BUT_LOCKED: Final = ~VmaFlag.LOCKED


def mmap(
    mm: AddressSpace, start: Vpn | None, pages: int, prot: Prot, kind: Kind, file: File | None
) -> Work[Vpn]:
    """Map `pages` pages at page `start` (MAP_FIXED), or where there is room; returns the start."""
    if kind is Kind.HUGETLB:
        pages = -(-pages // HUGE_PAGES) * HUGE_PAGES
        if start is not None and start % HUGE_PAGES:
            raise kernel_error(errno.EINVAL, "a hugetlb mapping starts at a multiple of 2 MiB")
    start = _place(mm, pages, kind) if start is None else start
    end = Vpn(start + pages)
    if end > TASK_PAGES:
        raise kernel_error(errno.ENOMEM, "the mapping does not fit below the end of user memory")
    yield from munmap(mm, start, end)
    mm.vmas.require_room()
    if kind is Kind.SHARED_ANON:
        file = File(pages)
    private = kind in (Kind.ANON, Kind.FILE_PRIVATE)
    flags = VmaFlag.ACCOUNT if private and prot & Prot.WRITE else VmaFlag.NONE
    pgoff = Pgoff(start if kind is Kind.ANON else 0)
    vma = Vma(start, end, pgoff, prot, kind, flags, file)
    if mm.vmas.merge(vma) is None:
        mm.vmas.insert(vma)
    return start


def _place(mm: AddressSpace, pages: int, kind: Kind) -> Vpn:
    start = mm.vmas.gap_below(_MMAP_BASE, pages)
    if start is not None and kind is Kind.HUGETLB and start % HUGE_PAGES:
        roomy = mm.vmas.gap_below(_MMAP_BASE, pages + HUGE_PAGES)
        start = None if roomy is None else Vpn(-(-roomy // HUGE_PAGES) * HUGE_PAGES)
    if start is None:
        raise kernel_error(errno.ENOMEM, "no room in the address space")
    return start


def munmap(mm: AddressSpace, start: Vpn, end: Vpn) -> Work[None]:
    """Unmap what is mapped in the range."""
    outermost = _first_and_last(mm, start, end)
    for vma in outermost:
        check_boundaries(vma, start, end)
    for vma in outermost:
        mm.vmas.isolate(vma, max(start, vma.start), min(end, vma.end))
    yield from mm.remove(start, end)


def _first_and_last(mm: AddressSpace, start: Vpn, end: Vpn) -> list[Vma]:
    """The mappings of the range that may reach beyond it."""
    touched = mm.vmas.overlapping(start, end)
    return touched[:1] + touched[1:][-1:]


def check_boundaries(vma: Vma, start: Vpn, end: Vpn) -> None:
    """A hugetlb mapping can be split at multiples of 2 MiB only (hugetlb_vm_op_split)."""
    inside = [vpn for vpn in (start, end) if vma.start < vpn < vma.end]
    if vma.kind is Kind.HUGETLB and any(vpn % HUGE_PAGES for vpn in inside):
        raise kernel_error(errno.EINVAL, "a hugetlb mapping is split at multiples of 2 MiB only")


def _mapped(mm: AddressSpace, start: Vpn, end: Vpn) -> Iterator[tuple[Vma, Vpn, Vpn]]:
    """The mappings of the range, each with the part of it that is; ENOMEM at the first page that
    is not mapped. The consumer may change a mapping before it asks for the next one."""
    while start < end:
        vma = mm.vmas.at(start)
        if vma is None:
            raise kernel_error(errno.ENOMEM, f"nothing is mapped at {start * PAGE_SIZE:#x}")
        limit = min(vma.end, end)
        check_boundaries(vma, start, limit)
        yield vma, start, limit
        start = limit


def mprotect(mm: AddressSpace, start: Vpn, end: Vpn, prot: Prot) -> Work[None]:
    """Change the protection; entries become read-only, as only a fault makes them writable."""
    for vma, low, high in _mapped(mm, start, end):
        if vma.prot != prot:
            yield from _mprotect_mapping(mm, vma, low, high, prot)
        yield


def _mprotect_mapping(mm: AddressSpace, vma: Vma, low: Vpn, high: Vpn, prot: Prot) -> Work[None]:
    locked = not vma.shared and not vma.writable and bool(vma.flags & VmaFlag.LOCKED)
    flags = vma.flags
    if prot & Prot.WRITE and vma.kind in (Kind.ANON, Kind.FILE_PRIVATE):
        flags |= VmaFlag.ACCOUNT
    vma = mm.vmas.set_attributes(vma, low, high, prot, flags)
    yield from _change_protection(mm, vma, low, high)
    if locked and prot & Prot.WRITE:  # mprotect_fixup: break COW now, not at the access
        accessible = min(high, faults.end_of_file(vma))
        yield from faults.populate(mm, vma, low, accessible, write=True)
        if accessible < high:
            faults.fault_behind_end(mm, accessible, write=True)


def _change_protection(mm: AddressSpace, vma: Vma, start: Vpn, end: Vpn) -> Work[None]:
    """change_protection: pte_modify keeps accessed, dirty and soft-dirty."""
    protection = PROTNONE if vma.prot is Prot.NONE else 0
    if vma.shared and vma.writable:
        protection |= WRITE
    for parts in mm.pieces(start, end):
        for part in parts:
            part.change(_EVERY_BIT & ~(WRITE | PROTNONE), protection)
        yield


def mlock(mm: AddressSpace, start: Vpn, end: Vpn) -> Work[None]:
    """Lock pages: each is faulted in, for writing where the mapping is private and writable."""
    mm.frames.require(end - start)
    yield from _set_locked(mm, start, end, VmaFlag.LOCKED)
    for vma in mm.vmas.overlapping(start, end):
        low, high = max(start, vma.start), min(end, vma.end)
        accessible = low if vma.prot is Prot.NONE else min(high, faults.end_of_file(vma))
        write = vma.writable and not vma.shared
        yield from faults.populate(mm, vma, low, accessible, write=write)
        if accessible < high:
            if vma.prot is not Prot.NONE:
                faults.fault_behind_end(mm, accessible, write=write)
            raise kernel_error(
                errno.ENOMEM, f"the page at {accessible * PAGE_SIZE:#x} has no access"
            )


def munlock(mm: AddressSpace, start: Vpn, end: Vpn) -> Work[None]:
    """Undo `mlock`; the pages stay."""
    yield from _set_locked(mm, start, end, VmaFlag.NONE)


def _set_locked(mm: AddressSpace, start: Vpn, end: Vpn, locked: VmaFlag) -> Work[None]:
    for vma, low, high in _mapped(mm, start, end):
        flags = vma.flags & _ALL_BUT_LOCKED | locked
        if flags != vma.flags and vma.kind is not Kind.HUGETLB:
            mm.vmas.set_attributes(vma, low, high, vma.prot, flags)
        yield


def mremap(mm: AddressSpace, start: Vpn, pages: int, target: Vpn) -> Work[None]:
    """Move pages to page `target`, unmapping what is there (MREMAP_FIXED, same size)."""
    end, target_end = Vpn(start + pages), Vpn(target + pages)
    if target_end > TASK_PAGES or (end > target and target_end > start):
        raise kernel_error(errno.EINVAL, "the target overlaps, or lies outside user memory")
    yield from munmap(mm, target, target_end)
    vma = mm.vmas.at(start)
    if vma is None:
        raise kernel_error(errno.EFAULT, f"nothing is mapped at {start * 4096:#x}")
    if vma.kind is Kind.HUGETLB:
        raise kernel_error(errno.EINVAL, "a hugetlb mapping cannot be moved")
    if pages > vma.end - start:
        raise kernel_error(errno.EFAULT, "the range is not within one mapping")
    untouched = vma.kind is Kind.ANON and vma.anon_vma is None
    pgoff = Pgoff(target) if untouched else vma.linear_page_index(start)
    moved = replace(vma, start=target, end=target_end, pgoff=pgoff)
    if mm.vmas.merge(moved) is None:  # copy_vma
        mm.vmas.insert(moved)
    yield from _move_page_tables(mm, start, end, target - start)
    yield from munmap(mm, start, end)


def _move_page_tables(mm: AddressSpace, start: Vpn, end: Vpn, distance: int) -> Work[None]:
    """move_page_tables: whole tables where source and target lie alike in their areas."""
    first, last = area_end(start - 1), area_start(end)
    if distance % HUGE_PAGES or first >= last:
        first = last = end
    yield from _move_ptes(mm, start, first, distance)
    for low, high in mm.tables.pieces(first, last):
        low, high = area_start(low), area_end(high - 1)
        if mm.tables.first(Vpn(low + distance), Vpn(high + distance)) is None:
            mm.tables.move(low, high, distance)
            yield
        else:
            yield from _move_ptes(mm, low, high, distance)
    yield from _move_ptes(mm, last, end, distance)


def _move_ptes(mm: AddressSpace, start: Vpn, end: Vpn, distance: int) -> Work[None]:
    """Move entry by entry; the target gets page tables wherever the source has one."""
    done = start
    for low, high in mm.tables.pieces(area_start(start), area_end(end - 1)):
        low, done = done, min(area_end(high - 1), end)
        for at, stop in mm.tables.present_areas(low, done):
            mm.tables.ensure(Vpn(at + distance), Vpn(stop + distance))
        mm.split_huge_pages(low, done)
        for part in mm.tables.parts(low, done):
            moved = part.copy(distance)
            moved.change(_EVERY_BIT, SOFT_DIRTY)  # move_soft_dirty_pte
            mm.tables.add(moved)
        mm.tables.clear(low, done)
        yield


def fork(parent: AddressSpace) -> Work[AddressSpace]:
    """The address space of a child (dup_mmap): pages are shared until one side writes.

    Page tables are copied, empty ones too, of mappings that have a family; of others a fault
    finds the pages again.
    """
    child = AddressSpace(parent.memory)
    try:
        for vma in parent.vmas:
            yield from _copy_mapping(parent, child, vma)
    except GeneratorExit:
        finished(child.remove(Vpn(0), TASK_PAGES))
        raise
    return child


def _copy_mapping(parent: AddressSpace, child: AddressSpace, vma: Vma) -> Work[None]:
    copy = replace(vma, flags=vma.flags & _ALL_BUT_LOCKED)
    if vma.anon_vma is not None:
        copy.anon_vma, copy.inherited = AnonVma(vma.anon_vma.root), True
    child.vmas.insert(copy)
    if vma.anon_vma is not None or vma.kind is Kind.HUGETLB:
        yield from _copy_page_range(parent, child, vma)
    yield


def _copy_page_range(parent: AddressSpace, child: AddressSpace, vma: Vma) -> Work[None]:
    for parts in parent.pieces(vma.start, vma.end):
        get_frames(parent.frames, parts)
        for part in parts:
            part.change(_EVERY_BIT & ~WRITE, 0)
            copy = part.copy(0)
            copy.change(_EVERY_BIT & ~ACCESSED, 0)
            child.tables.add(copy)
        yield
    for vpn in {vma.start, Vpn(vma.end - 1)}:  # areas that may have a table for other mappings
        if vpn // HUGE_PAGES in parent.tables and vpn // HUGE_PAGES not in child.tables:
            child.tables.ensure(vpn, Vpn(vpn + 1))
