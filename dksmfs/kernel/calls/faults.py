"""Page faults: what happens to the page tables when a process reads or writes its memory.

`access` is a load or store by the process itself, which also sets the accessed and dirty bits
that the hardware sets; `populate` is what mlock does, which only faults.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.linear import numbers
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
    Span,
    spans,
)
from dksmfs.kernel.memory.frames import Pfns, home
from dksmfs.kernel.memory.page_cache import NO_PAGE, File
from dksmfs.kernel.memory.vma import Kind, Prot, Vma
from dksmfs.kernel.units import HUGE_PAGES, ZERO_PFN

_FAULT_AROUND_PAGES = 16  # fault_around_bytes is 64 KiB

Positions = npt.NDArray[np.int64]  # entries of a page table


def access(mm: AddressSpace, start: int, end: int, *, write: bool) -> None:
    """The process loads from, or stores to, each page of the range, which must allow that."""
    mm.frames.require(end - start)  # before anything happens
    vpn = start
    while vpn < end:
        vma = mm.vmas.at(vpn)
        assert vma is not None
        limit = min(vma.end, end)
        populate(mm, vma, vpn, limit, write=write)
        vpn = limit
    mm.tables.add_bits(start, end, ACCESSED | DIRTY if write else ACCESSED)


def reach(mm: AddressSpace, start: int, end: int, *, write: bool) -> tuple[int, str | None]:
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
    return end, None


def fault_behind_end(mm: AddressSpace, vpn: int, *, write: bool) -> None:
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
    for span in spans(vpn, vpn + 1):
        near = _cached_near(vma, vma.file, span, span.low)
        if len(near):
            _map_file_pages(mm, vma, vma.file, span, mm.table(span.area), near)


def end_of_file(vma: Vma) -> int:
    """The first virtual page of the mapping behind the end of its file."""
    if vma.file is None:
        return vma.end
    return min(vma.start + max(vma.file.page_count - vma.pgoff, 0), vma.end)


def populate(mm: AddressSpace, vma: Vma, start: int, end: int, *, write: bool) -> None:
    """Fault in the pages of a range within `vma`, for a read or a write."""
    if vma.kind is Kind.ANON:
        _map_fresh(mm, vma, start, end, write)
    for low, high in _not_served(mm, start, end, write):
        for span in spans(low, high):
            _fault(mm, vma, span, write)


def _map_fresh(mm: AddressSpace, vma: Vma, start: int, end: int, write: bool) -> None:
    """do_anonymous_page for all pages in areas without a page table, at once: each gets a frame
    of its own, or the zero page."""
    for low, high in mm.tables.absent_areas(start, end):
        if mm.huge_possible(vma):
            continue
        if write:
            place = home(mm.prepare_anon_vma(vma), vma.linear_page_index(low))
            pfns = mm.frames.allocate_anonymous(high - low, place)
            mm.tables.store(low, pfns, PRESENT | WRITTEN)
        else:
            mm.tables.add_run(Run(low, high, ZERO_PFN, 0, PRESENT | ACCESSED))


def _not_served(mm: AddressSpace, start: int, end: int, write: bool) -> Iterator[tuple[int, int]]:
    """The range without the runs whose entries allow the access as they are."""
    wanted = PRESENT | WRITE if write else PRESENT
    for part in mm.tables.look(start, end):
        if isinstance(part, Run) and part.flags & wanted == wanted:
            if start < part.start:
                yield start, part.start
            start = part.end
    if start < end:
        yield start, end


def _fault(mm: AddressSpace, vma: Vma, span: Span, write: bool) -> None:
    if vma.kind is Kind.HUGETLB:
        _fault_hugetlb(mm, span.area, write)
    elif not _fault_huge(mm, vma, span.area, write):
        table = mm.table(span.area)
        if not write:
            _read_fault(mm, vma, span, table)
        elif vma.shared:
            _write_fault_shared(mm, vma, span, table)
        else:
            _write_fault_private(mm, vma, span, table)


# --- huge pages -----------------------------------------------------------------------------


def _fault_huge(mm: AddressSpace, vma: Vma, area: int, write: bool) -> bool:
    """Serve the fault by a huge page, if it can be (create_huge_pmd, do_huge_pmd_wp_page)."""
    if area not in mm.tables and mm.huge_allowed(vma, area):
        mm.tables[area] = _new_huge(mm, vma, area, write)
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
        return HugePage(ZERO_PFN, PRESENT | ACCESSED)
    head = mm.frames.allocate_huge()
    place = home(family, vma.linear_page_index(area * HUGE_PAGES))
    mm.frames.make_anonymous(range(head, head + HUGE_PAGES), range(place, place + HUGE_PAGES))
    mm.frames.get_huge(head)
    return HugePage(head, PRESENT | WRITTEN)


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
    mm.tables[area] = HugePage(head, PRESENT | (WRITTEN if write else ACCESSED))


# --- page-table entries ---------------------------------------------------------------------


def _read_fault(mm: AddressSpace, vma: Vma, span: Span, table: PageTable) -> None:
    absent = span.low + np.flatnonzero(table.flags[span.low : span.high] & PRESENT == 0)
    if vma.file is None:
        table.flags[absent] = PRESENT | ACCESSED  # do_anonymous_page: the zero page
        return
    for at in absent.tolist():
        if not table.flags[at]:
            _read_fault_file(mm, vma, vma.file, span, table, at)


def _read_fault_file(
    mm: AddressSpace, vma: Vma, file: File, span: Span, table: PageTable, at: int
) -> None:
    """do_read_fault: maps what the page cache has nearby (do_fault_around), then the page."""
    _map_file_pages(mm, vma, file, span, table, _cached_near(vma, file, span, at))
    _map_file_pages(mm, vma, file, span, table, np.array([at]))


def _map_file_pages(
    mm: AddressSpace, vma: Vma, file: File, span: Span, table: PageTable, at: Positions
) -> None:
    """Map those that are absent, as a read does."""
    for position in at[table.flags[at] == 0].tolist():
        _map_file_page(mm, vma, file, span, table, position, _file_entry(vma))


def _cached_near(vma: Vma, file: File, span: Span, at: int) -> Positions:
    """The entries around `at` whose page is in the page cache."""
    base = span.area * HUGE_PAGES
    first = max(at - at % _FAULT_AROUND_PAGES, vma.start - base)
    last = min(first + _FAULT_AROUND_PAGES, HUGE_PAGES, end_of_file(vma) - base)
    near = np.arange(first, last)
    cached: Positions = near[file.frames_of(vma.linear_page_index(base) + near) != NO_PAGE]
    return cached


def _file_entry(vma: Vma) -> int:
    writable = vma.shared and vma.writable
    return PRESENT | ACCESSED | (WRITE if writable else 0)


def _map_file_page(
    mm: AddressSpace, vma: Vma, file: File, span: Span, table: PageTable, at: int, flags: int
) -> None:
    pfn = file.page(mm.frames, vma.linear_page_index(span.area * HUGE_PAGES + at))
    mm.frames.get(np.array([pfn]))
    table.pfn[at], table.flags[at] = pfn, flags


def _write_fault_shared(mm: AddressSpace, vma: Vma, span: Span, table: PageTable) -> None:
    assert vma.file is not None
    for at in _not_writable(span, table).tolist():
        if table.flags[at]:
            table.flags[at] |= WRITTEN
        else:
            _map_file_page(mm, vma, vma.file, span, table, at, PRESENT | WRITTEN)


def _write_fault_private(mm: AddressSpace, vma: Vma, span: Span, table: PageTable) -> None:
    """do_wp_page, do_anonymous_page, do_cow_fault: in place if nobody else has the page."""
    at = _not_writable(span, table)
    if not len(at):
        return
    pfns = table.pfn[at].astype(np.int64)
    anonymous = mm.frames.anonymous(pfns)
    reused = np.zeros(len(at), np.bool_)
    if anonymous.any():
        reused[anonymous] = _sole_user(mm, pfns[anonymous])
        table.flags[at[reused]] |= WRITTEN
    _copy_pages(mm, vma, span, table, at[~reused])


def _not_writable(span: Span, table: PageTable) -> Positions:
    return span.low + np.flatnonzero(table.flags[span.low : span.high] & WRITE == 0)


def _sole_user(mm: AddressSpace, pfns: Pfns) -> npt.NDArray[np.bool_]:
    """Which of the writes to `pfns`, one after the other, finds itself the only user of its frame.

    A frame that several of the entries map, and nobody else, is copied for all but the last.
    """
    sole: npt.NDArray[np.bool_] = mm.frames.mapcounts(pfns) == 1
    _, last, counts = np.unique(pfns[::-1], return_index=True, return_counts=True)
    last = len(pfns) - 1 - last
    sole[last[mm.frames.mapcounts(pfns[last]) == counts]] = True
    compound = mm.frames.compound(pfns)
    for head in np.unique(pfns[compound] // HUGE_PAGES * HUGE_PAGES).tolist():
        members = np.flatnonzero(pfns // HUGE_PAGES * HUGE_PAGES == head)
        sole[members] = False
        sole[members[-1]] = mm.frames.references(head) == len(members)
    return sole


def _copy_pages(mm: AddressSpace, vma: Vma, span: Span, table: PageTable, at: Positions) -> None:
    """Give each entry a writable frame of its own (wp_page_copy)."""
    if not len(at):
        return
    family = mm.prepare_anon_vma(vma)
    index = vma.linear_page_index(span.area * HUGE_PAGES) + at
    present = table.flags[at] != 0
    old = table.pfn[at].astype(np.int64)
    source = old.copy()
    if vma.file is not None:
        for position in np.flatnonzero(~present).tolist():
            source[position] = vma.file.page(mm.frames, int(index[position]))
    new = numbers(mm.frames.allocate(len(at)))
    copied = source != ZERO_PFN
    mm.frames.contents.copy(source[copied], new[copied])
    mm.frames.make_anonymous(new, home(family, 0) + index)
    mm.frames.get(new)
    table.pfn[at], table.flags[at] = new, PRESENT | WRITTEN
    mm.frames.put(old[old != ZERO_PFN])
