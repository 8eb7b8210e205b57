"""The reference model, part 2: page faults, one page at a time, and fork.

See `model` for what this is for. Addresses are virtual page numbers (vpn).
"""

from tests.kernel.model_memory import (
    AREA,
    HUGE_ZERO,
    ZERO,
    AnonVma,
    Compound,
    Frame,
    Huge,
    Mapping,
    Mm,
    Pte,
    Table,
)

AROUND = 16  # pages that a read of a file page maps along with it (fault_around_bytes)


class Died(Exception):  # noqa: N818 (it is a signal)
    """The access would kill the process."""


def access(mm: Mm, vpn: int, thp: str, *, write: bool) -> Frame:
    """The process loads from a page or stores to it; the frame that it then reaches."""
    mapping = mm.find(vpn)
    if mapping is None or not mapping.prot or (write and "w" not in mapping.prot):
        raise Died("SIGSEGV")
    while True:
        entry = mm.entry(vpn)
        if entry is None:
            _fault_absent(mm, mapping, vpn, thp, write=write)
        elif write and not entry.writable:
            _fault_read_only(mm, mapping, vpn, entry)
        else:
            entry.accessed = True
            if isinstance(entry, Huge):
                return entry.frames[vpn % AREA]
            if write:
                entry.dirty = True
            return entry.frame


def populate(mm: Mm, mapping: Mapping, start: int, end: int, thp: str) -> None:
    """populate_vma_page_range: what mlock does to a mapping. Entries that will do stay as is."""
    if not mapping.prot:
        raise Died("EFAULT")
    write = mapping.private and "w" in mapping.prot
    for vpn in range(start, end):
        entry = mm.entry(vpn)
        if entry is None or (write and not entry.writable):
            access(mm, vpn, thp, write=write)


def _prepare_anon_vma(mm: Mm, mapping: Mapping) -> None:
    """anon_vma_prepare: before its first anonymous page a mapping gets an anon_vma."""
    if mapping.anon_vma is not None:
        return
    after, before = mm.find(mapping.end), mm.find(mapping.start - 1)
    found = None
    if after is not None and _reusable(after, mapping, after):
        found = after.anon_vma
    elif before is not None and _reusable(before, before, mapping):
        found = before.anon_vma
    mapping.anon_vma = AnonVma() if found is None else found
    mapping.chain = [mapping.anon_vma]


def _reusable(neighbour: Mapping, left: Mapping, right: Mapping) -> bool:
    """anon_vma_compatible and reusable_anon_vma: they may differ in protection only."""
    return (
        (left.kind, left.file, left.locked, left.advice, left.accounted)
        == (right.kind, right.file, right.locked, right.advice, right.accounted)
        and left.offset_of(right.start) == right.pgoff
        and neighbour.anon_vma is not None
        and len(neighbour.chain) == 1
    )


def _anonymous(mm: Mm, mapping: Mapping, vpn: int, like: Frame | None = None) -> Pte:
    """A new anonymous page, a copy of another one or zeros, and an entry for it."""
    _prepare_anon_vma(mm, mapping)
    assert mapping.anon_vma is not None
    frame = Frame(family=mapping.anon_vma.root, index=mapping.offset_of(vpn))
    if like is not None:
        frame.stored = like.data()
    writable = "w" in mapping.prot
    return Pte(frame, writable, accessed=True, dirty=True, soft_dirty=True)


def _fault_absent(mm: Mm, mapping: Mapping, vpn: int, thp: str, *, write: bool) -> None:
    if mapping.kind == "hugetlb":
        _map_huge(mm, mapping, vpn // AREA)
    elif mapping.kind != "anon":
        _fault_file(mm, mapping, vpn, write=write)
    elif vpn // AREA not in mm.areas and _huge_enabled(mapping, thp) and _whole(mapping, vpn):
        _prepare_anon_vma(mm, mapping)
        if write:
            _map_huge(mm, mapping, vpn // AREA)
        else:
            mm.set_huge(vpn // AREA, Huge([HUGE_ZERO] * AREA, writable=False))
    elif write:
        mm.set_pte(vpn, _anonymous(mm, mapping, vpn))
    else:
        mm.set_pte(vpn, Pte(ZERO))


def _huge_enabled(mapping: Mapping, thp: str) -> bool:
    if mapping.advice == "nohugepage":
        return False
    return thp == "always" or (thp == "madvise" and mapping.advice == "hugepage")


def _whole(mapping: Mapping, vpn: int) -> bool:
    first = vpn // AREA * AREA
    return mapping.start <= first and first + AREA <= mapping.end


def _map_huge(mm: Mm, mapping: Mapping, area: int) -> None:
    family = AnonVma() if mapping.anon_vma is None else mapping.anon_vma.root
    compound, first = Compound(), mapping.offset_of(area * AREA)
    frames = [Frame(family=family, index=first + i, compound=compound) for i in range(AREA)]
    mm.set_huge(area, Huge(frames, writable=True, soft_dirty=True))


def _fault_file(mm: Mm, mapping: Mapping, vpn: int, *, write: bool) -> None:
    assert mapping.file is not None
    pages, page = mapping.file.pages, mapping.offset_of(vpn)
    copy = write and mapping.private
    if copy:
        _prepare_anon_vma(mm, mapping)
    if not write:
        _fault_around(mm, mapping, vpn)
        if mm.entry(vpn) is not None:
            return
    if page >= len(pages):
        raise Died("SIGBUS")
    cached = pages[page]
    if cached is None:
        cached = pages[page] = Frame()
    if copy:
        mm.set_pte(vpn, _anonymous(mm, mapping, vpn, cached))
    else:
        mm.set_pte(vpn, Pte(cached, write, dirty=write, soft_dirty=write))


def _fault_around(mm: Mm, mapping: Mapping, vpn: int) -> None:
    """do_fault_around: map what the file has in memory near `vpn`."""
    assert mapping.file is not None
    first = max(vpn // AROUND * AROUND, mapping.start)
    end = min(first + AROUND, first // AREA * AREA + AREA, mapping.end)
    for near in range(first, end):
        page = mapping.offset_of(near)
        cached = mapping.file.pages[page] if page < len(mapping.file.pages) else None
        if cached is not None and mm.entry(near) is None:
            mm.set_pte(near, Pte(cached))


def _fault_read_only(mm: Mm, mapping: Mapping, vpn: int, entry: Pte | Huge) -> None:
    """A store through an entry that is not writable: copy, unless nobody else has the page."""
    if isinstance(entry, Huge):
        if not entry.frames[0].zero and all(frame.mapped == 1 for frame in entry.frames):
            entry.writable = entry.soft_dirty = True
        else:
            mm.split_huge(vpn)
        return
    frame = entry.frame
    alone = frame.family is not None and frame.references() == 1
    if alone or not mapping.private:
        entry.writable = entry.accessed = entry.dirty = entry.soft_dirty = True
        return
    pte = _anonymous(mm, mapping, vpn, frame)
    mm.clear_pte(vpn)
    mm.set_pte(vpn, pte)


def fork(parent: Mm) -> Mm:
    """The address space of a new child."""
    child = Mm()
    for mapping in parent.mappings:
        copy = mapping.copy()
        copy.locked = False
        if mapping.anon_vma is not None:
            copy.anon_vma = AnonVma(mapping.anon_vma.root)
            copy.chain.append(copy.anon_vma)
        child.add(copy)
        if mapping.anon_vma is not None or mapping.kind == "hugetlb":
            _copy_pages(parent, child, mapping)
    return child


def _copy_pages(parent: Mm, child: Mm, mapping: Mapping) -> None:
    for number in range(mapping.start // AREA, (mapping.end - 1) // AREA + 1):
        area = parent.areas.get(number)
        if isinstance(area, Huge):
            area.writable = False
            huge = Huge(area.frames, writable=False, accessed=False, soft_dirty=area.soft_dirty)
            child.set_huge(number, huge)
        elif isinstance(area, Table):
            child.areas.setdefault(number, Table())
            first, end = max(number * AREA, mapping.start), min(number * AREA + AREA, mapping.end)
            for vpn in range(first, end):
                if vpn in area.ptes:
                    _copy_pte(child, mapping, vpn, area.ptes[vpn])


def _copy_pte(child: Mm, mapping: Mapping, vpn: int, pte: Pte) -> None:
    """copy_present_pte: private pages become read-only on both sides."""
    if mapping.private:
        pte.writable = False
    dirty = pte.dirty and mapping.private
    child.set_pte(vpn, Pte(pte.frame, pte.writable, False, dirty, pte.soft_dirty))
