"""The reference model, part 1: frames, page-table entries, mappings, and how they are taken apart.

One object for each thing, one loop turn for each page. See `model` for what this is for.
Addresses are virtual page numbers (vpn), lengths are pages.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from dksmfs.kernel.content.content import Content
from dksmfs.kernel.units import PAGE_SIZE

AREA = 512  # pages of a 2 MiB area, which is what a page table maps


class AnonVma:
    """What a frame remembers of the mapping it was first mapped in; a family has one root."""

    def __init__(self, root: "AnonVma | None" = None) -> None:
        self.root: AnonVma = self if root is None else root


@dataclass(eq=False)
class Compound:
    """A huge page; `references` counts its entries, of either size."""

    references: int = 0


@dataclass(eq=False)
class Frame:
    """A page frame. Frames are never used again, so the object itself is its number."""

    source: tuple[Content, int] | None = None  # memory that a client may go on writing
    stored: bytes = bytes(PAGE_SIZE)
    mapped: int = 0  # entries that map it
    family: AnonVma | None = None  # anonymous if there is one
    index: int = 0  # the page offset that it was first mapped under
    compound: Compound | None = None
    zero: bool = False  # the kernel's own page of zeros

    def data(self) -> bytes:
        if self.source is None:
            return self.stored
        return page_of(*self.source)

    def put(self, content: Content, page: int) -> None:
        """The frame gets page `page` of a content."""
        if content.stable:
            self.source, self.stored = None, _stable_page(content, page)
        else:
            self.source = (content, page)

    def poke(self, offset: int, data: bytes) -> None:
        old = self.data()
        self.source, self.stored = None, old[:offset] + data + old[offset + len(data) :]

    def references(self) -> int:
        """page_count(): of a part of a huge page, that of the whole."""
        return self.mapped if self.compound is None else self.compound.references


@lru_cache(maxsize=4096)
def _stable_page(content: Content, page: int) -> bytes:
    return page_of(content, page)


def page_of(content: Content, page: int) -> bytes:
    return content.rows(np.array([page])).tobytes()


ZERO = Frame(zero=True)
HUGE_ZERO = Frame(zero=True, compound=Compound())


@dataclass(eq=False)
class Pte:
    """A page-table entry that is present. What is absent has no entry."""

    frame: Frame
    writable: bool = False
    accessed: bool = True
    dirty: bool = False
    soft_dirty: bool = False


@dataclass(eq=False)
class Table:
    """The page table of an area."""

    ptes: dict[int, Pte] = field(default_factory=dict)  # by vpn


@dataclass(eq=False)
class Huge:
    """An area that is mapped by one huge entry."""

    frames: list[Frame]
    writable: bool
    accessed: bool = True
    soft_dirty: bool = False


@dataclass(eq=False)
class File:
    """A file in memory, or what is behind a shared anonymous mapping: `pages[i]` may be a hole."""

    pages: list[Frame | None]


@dataclass(eq=False)
class Mapping:
    """A mapping (vm_area_struct)."""

    start: int
    end: int
    kind: str
    prot: frozenset[str]
    pgoff: int
    file: File | None = None
    locked: bool = False
    advice: str = ""  # "hugepage" or "nohugepage"
    accounted: bool = False  # VM_ACCOUNT: was writable and private at some time
    anon_vma: AnonVma | None = None
    chain: list[AnonVma] = field(default_factory=list)  # own and inherited anon_vmas

    @property
    def private(self) -> bool:
        return self.kind in ("anon", "file-private", "hugetlb")

    @property
    def flags(self) -> tuple[object, ...]:
        """vm_flags and vm_file, which have to be equal for mappings to become one."""
        return (self.kind, self.prot, self.locked, self.advice, self.accounted, self.file)

    def copy(self) -> "Mapping":
        return replace(self, chain=list(self.chain))

    def offset_of(self, vpn: int) -> int:
        return self.pgoff + vpn - self.start


class Mm:
    """The address space of a process."""

    def __init__(self) -> None:
        self.mappings: list[Mapping] = []  # ascending
        self.areas: dict[int, Table | Huge] = {}  # by vpn // AREA

    def find(self, vpn: int) -> Mapping | None:
        for mapping in self.mappings:
            if mapping.start <= vpn < mapping.end:
                return mapping
        return None

    def overlapping(self, start: int, end: int) -> list[Mapping]:
        return [m for m in self.mappings if m.start < end and start < m.end]

    def add(self, mapping: Mapping) -> None:
        self.mappings.append(mapping)
        self.mappings.sort(key=lambda m: m.start)

    def entry(self, vpn: int) -> Pte | Huge | None:
        area = self.areas.get(vpn // AREA)
        return area.ptes.get(vpn) if isinstance(area, Table) else area

    def table(self, vpn: int) -> Table:
        """The page table for `vpn`; it comes into being if there is none."""
        area = self.areas.setdefault(vpn // AREA, Table())
        assert isinstance(area, Table)
        return area

    def frame(self, vpn: int) -> Frame | None:
        entry = self.entry(vpn)
        if isinstance(entry, Huge):
            return entry.frames[vpn % AREA]
        return None if entry is None else entry.frame

    def set_pte(self, vpn: int, pte: Pte) -> None:
        """Map a frame where nothing is mapped."""
        self.table(vpn).ptes[vpn] = pte
        pte.frame.mapped += 1
        if pte.frame.compound is not None:
            pte.frame.compound.references += 1

    def clear_pte(self, vpn: int) -> None:
        pte = self.table(vpn).ptes.pop(vpn)
        pte.frame.mapped -= 1
        if pte.frame.compound is not None:
            pte.frame.compound.references -= 1

    def set_huge(self, area: int, huge: Huge) -> None:
        assert area not in self.areas
        self.areas[area] = huge
        for frame in huge.frames:
            frame.mapped += 1
        compound = huge.frames[0].compound
        assert compound is not None
        compound.references += 1

    def clear_huge(self, area: int) -> Huge:
        huge = self.areas.pop(area)
        assert isinstance(huge, Huge)
        for frame in huge.frames:
            frame.mapped -= 1
        compound = huge.frames[0].compound
        assert compound is not None
        compound.references -= 1
        return huge

    def split_huge(self, vpn: int) -> None:
        """__split_huge_pmd: the huge page is mapped by a page table from now on."""
        area = vpn // AREA
        if not isinstance(self.areas.get(area), Huge):
            return
        huge = self.clear_huge(area)
        for at, frame in enumerate(huge.frames, area * AREA):
            if frame.zero:
                self.set_pte(at, Pte(ZERO))
            else:
                pte = Pte(frame, huge.writable, huge.accessed, soft_dirty=huge.soft_dirty)
                self.set_pte(at, pte)

    # --- taking apart -----------------------------------------------------------------------

    def split(self, vpn: int) -> None:
        """split_vma: a border at `vpn`, which no huge entry may straddle."""
        mapping = self.find(vpn)
        if mapping is None or mapping.start == vpn:
            return
        if vpn % AREA and mapping.kind != "hugetlb":
            self.split_huge(vpn)
        tail = mapping.copy()
        tail.start, tail.pgoff = vpn, mapping.offset_of(vpn)
        mapping.end = vpn
        self.add(tail)

    def zap(self, start: int, end: int) -> None:
        """The pages of a range become absent; page tables stay, huge entries do not."""
        for vpn in range(start, end):
            area = self.areas.get(vpn // AREA)
            first = vpn // AREA * AREA
            if isinstance(area, Huge):
                if start <= first and first + AREA <= end:
                    self.clear_huge(vpn // AREA)
                    continue
                self.split_huge(vpn)
                area = self.table(vpn)
            if area is not None and vpn in area.ptes:
                self.clear_pte(vpn)

    def munmap(self, start: int, end: int) -> None:
        """Mappings and pages go, and the page tables of areas where no mapping remains."""
        self.split(start)
        self.split(end)
        gone = self.overlapping(start, end)
        for mapping in gone:
            self.zap(mapping.start, mapping.end)
            self.mappings.remove(mapping)
        for mapping in gone:
            for area in range(mapping.start // AREA, (mapping.end - 1) // AREA + 1):
                if not self.overlapping(area * AREA, (area + 1) * AREA):
                    self.areas.pop(area, None)

    # --- putting together -------------------------------------------------------------------

    def merge(self, start: int, end: int, like: Mapping) -> bool:
        """vma_merge: give [start, end) to the neighbours that are `like` it, if there are any.

        The range is in a hole or in one mapping; `like` has the flags, anon_vma and page offset
        that it is to have.
        """
        area = self.find(start)
        before = self.find(start - 1)
        after = self.find(end)
        before_fits = (
            before is not None
            and before is not area
            and _fits(before, like)
            and before.offset_of(start) == like.pgoff
        )
        after_fits = (
            after is not None
            and after is not area
            and _fits(after, like)
            and after.pgoff == like.pgoff + end - start
        )
        if before_fits:
            assert before is not None
            both = after_fits and after is not None and _same_anon_vma(before, after)
            self._take_over(before, area, start, end)
            if both and after is not None:
                before.end = after.end
                _inherit(before, after)
                self.mappings.remove(after)
            return True
        if after_fits:
            assert after is not None
            self._take_over(after, area, start, end)
            return True
        return False

    def _take_over(self, taker: Mapping, area: Mapping | None, start: int, end: int) -> None:
        """`taker`, a neighbour of [start, end), grows over it; `area` is what was there."""
        for border in (start, end):
            if border % AREA:
                self.split_huge(border)
        if area is not None:
            _inherit(taker, area)
            if (area.start, area.end) == (start, end):
                self.mappings.remove(area)
            elif area.start == start:
                area.pgoff = area.offset_of(end)
                area.start = end
            else:
                area.end = start
        if taker.end == start:
            taker.end = end
        else:
            taker.pgoff -= end - start
            taker.start = start


def _inherit(taker: Mapping, giver: Mapping) -> None:
    """A mapping that takes over pages has to have an anon_vma if they had one."""
    if taker.anon_vma is None and giver.anon_vma is not None:
        taker.anon_vma, taker.chain = giver.anon_vma, list(giver.chain)


def _fits(neighbour: Mapping, like: Mapping) -> bool:
    """is_mergeable_vma and is_mergeable_anon_vma."""
    if neighbour.kind == "hugetlb" or neighbour.flags != like.flags:
        return False
    if neighbour.anon_vma is like.anon_vma:
        return True
    # Not one that a fork cloned, and (an oddity of 5.15) not one that has none itself.
    either_none = neighbour.anon_vma is None or like.anon_vma is None
    return either_none and len(neighbour.chain) == 1


def _same_anon_vma(one: Mapping, other: Mapping) -> bool:
    return one.anon_vma is other.anon_vma or one.anon_vma is None or other.anon_vma is None
