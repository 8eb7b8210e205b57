"""Page faults: what happens to the page tables when a process reads or writes its memory.

`access` is a load or store by the process itself, which also sets the accessed and dirty bits
that the hardware sets; `populate` is what mlock does, which only faults.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.memory.address_space import AddressSpace
from dksmfs.kernel.memory.entries import (
    ACCESSED,
    DIRTY,
    PRESENT,
    WRITE,
    WRITTEN,
    HugePage,
    PageTable,
    Run,
    area_end,
    area_start,
)
from dksmfs.kernel.memory.frames import home
from dksmfs.kernel.memory.page_cache import NO_PAGE, File
from dksmfs.kernel.memory.page_tables import PIECE_PAGES, PIECE_PARTS
from dksmfs.kernel.memory.vma import Kind, Prot, Vma
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import distinct, numbers
from dksmfs.kernel.units import HUGE_PAGES, ZERO_PFN, Mask, Pfns, Pgoff, Vpn

_FAULT_AROUND_PAGES = 16  # fault_around_bytes is 64 KiB

Positions = npt.NDArray[np.int64]  # entries of a page table


def access(mm: AddressSpace, start: Vpn, end: Vpn, *, write: bool) -> Work[None]:
    """The process loads from, or stores to, each page of the range, which must allow that."""
    for _ in accessed(mm, start, end, write=write):
        yield


def accessed(mm: AddressSpace, start: Vpn, end: Vpn, *, write: bool) -> Iterator[tuple[Vpn, Vpn]]:
    """Like `access`: yields the pages that have just been accessed."""
    mm.frames.require(end - start)  # before anything happens
    bits = ACCESSED | DIRTY if write else ACCESSED
    while start < end:
        vma = mm.vmas.at(start)
        assert vma is not None
        limit = min(vma.end, end)
        for low, high in _populated(mm, vma, start, limit, write):
            mm.tables.add_bits(low, high, bits)
            yield low, high
        start = limit


def reach(mm: AddressSpace, start: Vpn, end: Vpn, *, write: bool) -> Work[tuple[Vpn, str | None]]:
    """How far accesses from `start` on get: the page of the first one that is fatal, or `end`;
    and the signal it gets: SIGSEGV, or SIGBUS behind the end of a file."""
    vpn = start
    while vpn < end:
        vma = mm.vmas.at(vpn)
        if vma is None or vma.prot is Prot.NONE or (write and not vma.writable):
            return vpn, "SIGSEGV"
        limit = min(vma.end, end)
        accessible = end_of_file(vma)
        if accessible < limit:
            return max(accessible, vpn), "SIGBUS"
        vpn = limit
        yield
    return end, None


def fault_behind_end(mm: AddressSpace, vpn: Vpn, *, write: bool) -> None:
    """What the fault of a page behind the end of its file leaves, before it becomes a SIGBUS.

    A read maps what is near (do_read_fault), a write to a private mapping prepares it for
    anonymous pages (do_cow_fault).
    """
    vma = mm.vmas.at(vpn)
    assert vma is not None
    assert vma.file is not None
    if write:
        if not vma.shared:
            mm.prepare_anon_vma(vma)
        return
    area = vpn // HUGE_PAGES
    at = np.array([vpn % HUGE_PAGES])
    near = _cached_near(vma, vma.file, area, at)
    if len(near):
        _map_file_pages(mm, vma, area, mm.table(area), near)


def end_of_file(vma: Vma) -> Vpn:
    """The first virtual page of the mapping behind the end of its file."""
    if vma.file is None:
        return vma.end
    return min(Vpn(vma.start + max(vma.file.page_count - vma.pgoff, 0)), vma.end)


def populate(mm: AddressSpace, vma: Vma, start: Vpn, end: Vpn, *, write: bool) -> Work[None]:
    """Fault in the pages of a range within `vma`, for a read or a write."""
    for _ in _populated(mm, vma, start, end, write):
        yield


def _populated(
    mm: AddressSpace, vma: Vma, start: Vpn, end: Vpn, write: bool
) -> Iterator[tuple[Vpn, Vpn]]:
    """Like `populate`, a millisecond's work at a time: yields the pages that are present now."""
    wanted = PRESENT | WRITE if write else PRESENT
    in_runs = vma.kind is Kind.ANON and not mm.huge_possible(vma)
    while start < end:
        stop = _served(mm, start, end, wanted)
        if stop == start and write:
            stop = _reused(mm, start, end)
        if stop == start:
            fresh = _absent(mm, start, end) if in_runs else start
            if fresh > start:
                stop = fresh
                _map_fresh(mm, vma, start, stop, write)
            else:
                stop = min(area_end(start), end)
                _fault(mm, vma, start, stop, write)
        yield start, stop
        start = stop


def _served(mm: AddressSpace, start: Vpn, end: Vpn, wanted: int) -> Vpn:
    """How far the entries from `start` on allow the access as they are."""
    limit = min(end, _piece_end(start))
    for part in mm.tables.look(start, limit, PIECE_PARTS):
        if part.start > start or not part.allows(wanted):
            break
        start = part.end
    return start


def _piece_end(start: Vpn) -> Vpn:
    """Where a piece that begins at `start` ends, at the latest."""
    return area_start(start + PIECE_PAGES)


def _reused(mm: AddressSpace, start: Vpn, end: Vpn) -> Vpn:
    """How far the pages from `start` on are a run of frames without any other mapping; they become
    writable in place, as those of `_write_fault_private` do."""
    limit = min(end, _piece_end(start))
    run = next(iter(mm.tables.look(start, limit, 1)), None)
    if not isinstance(run, Run) or run.start > start or not run.step:
        return start
    if (mm.frames.mapcounts(numbers(run.frames)) != 1).any():
        return start
    mm.tables.add_bits(start, run.end, WRITTEN)
    return run.end


def _absent(mm: AddressSpace, start: Vpn, end: Vpn) -> Vpn:
    """How far there are no page tables from `start` on."""
    part = mm.tables.first(area_start(start), end)
    limit = end if part is None else area_start(part.start)
    return max(min(limit, _piece_end(start)), start)


def _map_fresh(mm: AddressSpace, vma: Vma, start: Vpn, end: Vpn, write: bool) -> None:
    """do_anonymous_page for all pages of areas without a page table, at once: each gets a frame
    of its own, or the zero page."""
    if write:
        place = home(mm.prepare_anon_vma(vma), vma.linear_page_index(start))
        pfns = mm.frames.allocate_anonymous(end - start, place)
        mm.tables.store(start, pfns, PRESENT | WRITTEN)
    else:
        mm.tables.add_run(Run(start, end, ZERO_PFN, 0, PRESENT | ACCESSED))


def _fault(mm: AddressSpace, vma: Vma, start: Vpn, end: Vpn, write: bool) -> None:
    """The pages, which are in one area, are accessed one after the other."""
    area = start // HUGE_PAGES
    if vma.kind is Kind.HUGETLB:
        _fault_hugetlb(mm, area, write)
    elif not _fault_huge(mm, vma, area, write):
        table = mm.table(area)
        every = np.arange(start % HUGE_PAGES, start % HUGE_PAGES + end - start)
        if not write:
            _read_fault(mm, vma, area, table, every[table.flags[every] == 0])
            return
        at = every[table.flags[every] & WRITE == 0]
        if vma.shared:
            _write_fault_shared(mm, vma, area, table, at)
        elif len(at):
            _write_fault_private(mm, vma, area, table, at)


# --- huge pages -----------------------------------------------------------------------------


def _fault_huge(mm: AddressSpace, vma: Vma, area: int, write: bool) -> bool:
    """Serve the fault by a huge page, if it can be (create_huge_pmd, do_huge_pmd_wp_page)."""
    if area not in mm.tables and mm.huge_allowed(vma, area):
        mm.tables.set(_new_huge(mm, vma, area, write))
        return True
    huge = mm.tables.huge(area)
    if huge is None:
        return False
    if write and not huge.flags & WRITE:
        parts = mm.frames.mapcounts(huge.pfn + np.arange(HUGE_PAGES))
        if huge.zero or parts.max() > 1:
            return False
        huge.flags |= WRITTEN
    return True


def _new_huge(mm: AddressSpace, vma: Vma, area: int, write: bool) -> HugePage:
    family = mm.prepare_anon_vma(vma)
    if not write:
        return HugePage.of(area, ZERO_PFN, PRESENT | ACCESSED)
    head = mm.frames.allocate_huge()
    place = home(family, vma.linear_page_index(Vpn(area * HUGE_PAGES)))
    mm.frames.make_anonymous(range(head, head + HUGE_PAGES), range(place, place + HUGE_PAGES))
    mm.frames.get_huge(head)
    return HugePage.of(area, head, PRESENT | WRITTEN)


def _fault_hugetlb(mm: AddressSpace, area: int, write: bool) -> None:
    """hugetlb_fault: pages of 2 MiB, copied as a whole."""
    huge = mm.tables.get(area)
    assert not isinstance(huge, PageTable)
    if huge is not None and (not write or huge.flags & WRITE):
        return
    if huge is not None and mm.frames.mapcounts(np.array([huge.pfn]))[0] == 1:
        huge.flags |= WRITTEN
        return
    head = mm.frames.allocate_huge()
    mm.frames.get_huge(head)
    if huge is not None:
        every = np.arange(HUGE_PAGES)
        mm.frames.contents.copy(huge.pfn + every, head + every)
        mm.frames.put_huge(huge.pfn)
    flags = PRESENT | (WRITTEN if write else ACCESSED)
    mm.tables.set(HugePage.of(area, head, flags, hugetlb=True))


# --- page-table entries ---------------------------------------------------------------------


def _read_fault(mm: AddressSpace, vma: Vma, area: int, table: PageTable, absent: Positions) -> None:
    if vma.file is None:
        table.flags[absent] = PRESENT | ACCESSED  # do_anonymous_page: the zero page
    elif len(absent):
        # do_read_fault: maps what the page cache has nearby (do_fault_around), then the page.
        near = _cached_near(vma, vma.file, area, absent)
        _map_file_pages(mm, vma, area, table, np.union1d(near, absent))


def _map_file_pages(mm: AddressSpace, vma: Vma, area: int, table: PageTable, at: Positions) -> None:
    """Map those that are absent, as a read does."""
    _map_absent(mm, vma, area, table, at[table.flags[at] == 0], _file_entry(vma))


def _cached_near(vma: Vma, file: File, area: int, at: Positions) -> Positions:
    """The entries around those at `at` whose page is in the page cache."""
    base = Vpn(area * HUGE_PAGES)
    windows = distinct(at // _FAULT_AROUND_PAGES) * _FAULT_AROUND_PAGES
    near = (windows[:, np.newaxis] + np.arange(_FAULT_AROUND_PAGES)).ravel()
    near = near[(near >= vma.start - base) & (near < end_of_file(vma) - base)]
    cached: Positions = near[file.frames_of(vma.linear_page_index(base) + near) != NO_PAGE]
    return cached


def _file_entry(vma: Vma) -> int:
    writable = vma.shared and vma.writable
    return PRESENT | ACCESSED | (WRITE if writable else 0)


def _map_absent(
    mm: AddressSpace, vma: Vma, area: int, table: PageTable, at: Positions, flags: int
) -> None:
    """Map pages of the mapping's file at absent entries; holes become zero-filled pages."""
    assert vma.file is not None
    if len(at):
        pfns = vma.file.pages(mm.frames, vma.linear_page_index(Vpn(area * HUGE_PAGES)) + at)
        mm.frames.get(pfns)
        table.pfn[at], table.flags[at] = pfns, flags


def _write_fault_shared(
    mm: AddressSpace, vma: Vma, area: int, table: PageTable, at: Positions
) -> None:
    absent = table.flags[at] == 0
    table.flags[at[~absent]] |= WRITTEN
    _map_absent(mm, vma, area, table, at[absent], PRESENT | WRITTEN)


def _write_fault_private(
    mm: AddressSpace, vma: Vma, area: int, table: PageTable, at: Positions
) -> None:
    """do_wp_page, do_anonymous_page, do_cow_fault: in place for the only user of a page."""
    pfns = table.pfn[at].astype(np.int64)
    anonymous = mm.frames.anonymous(pfns)
    reused = np.zeros(len(at), np.bool_)
    if anonymous.any():
        reused[anonymous] = _sole_user(mm, pfns[anonymous])
        table.flags[at[reused]] |= WRITTEN
    _copy_pages(mm, vma, area, table, at[~reused])


def _sole_user(mm: AddressSpace, pfns: Pfns) -> Mask:
    """Which of the writes to `pfns`, one after the other, finds itself the only user of its frame.

    A frame that is mapped by several of the entries, and by no others, is copied for all but the
    last.
    """
    sole: Mask = mm.frames.mapcounts(pfns) == 1
    _, last, counts = np.unique(pfns[::-1], return_index=True, return_counts=True)
    last = len(pfns) - 1 - last
    sole[last[mm.frames.mapcounts(pfns[last]) == counts]] = True
    compound = mm.frames.compound(pfns)
    for head in distinct(pfns[compound] // HUGE_PAGES * HUGE_PAGES).tolist():
        members = np.flatnonzero(pfns // HUGE_PAGES * HUGE_PAGES == head)
        sole[members] = False
        sole[members[-1]] = mm.frames.references(head) == len(members)
    return sole


def _copy_pages(mm: AddressSpace, vma: Vma, area: int, table: PageTable, at: Positions) -> None:
    """Give each entry a writable frame of its own (wp_page_copy)."""
    if not len(at):
        return
    family = mm.prepare_anon_vma(vma)
    index = vma.linear_page_index(Vpn(area * HUGE_PAGES)) + at
    old = table.pfn[at].astype(np.int64)
    source = old.copy()
    absent = table.flags[at] == 0
    if vma.file is not None and absent.any():
        source[absent] = vma.file.pages(mm.frames, index[absent])
    new = numbers(mm.frames.allocate(len(at)))
    copied = source != ZERO_PFN
    mm.frames.contents.copy(source[copied], new[copied])
    mm.frames.make_anonymous(new, home(family, Pgoff(0)) + index)
    mm.frames.get(new)
    table.pfn[at], table.flags[at] = new, PRESENT | WRITTEN
    mm.frames.put(old[old != ZERO_PFN])
