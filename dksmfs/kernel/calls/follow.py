"""An address space that follows that of a real process.

The caller knows what the real one looks like: which mappings it has, and what is in each page.
Here the simulated one is brought to the same state, by the faults and calls that a process would
have made, so that page tables, families and huge pages come out by the machine's own rules.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.calls import faults
from dksmfs.kernel.calls import mapping as calls
from dksmfs.kernel.content.content import Content, Indices
from dksmfs.kernel.memory.address_space import AddressSpace
from dksmfs.kernel.memory.entries import PROTNONE, WRITE, area_ranges
from dksmfs.kernel.memory.page_cache import File
from dksmfs.kernel.memory.vma import Kind, Prot, Vma, VmaFlag
from dksmfs.kernel.pausing import Work, finished
from dksmfs.kernel.selection import numbers
from dksmfs.kernel.units import HUGE_PAGES, Mask, Pfns, Vpn

States = npt.NDArray[np.uint8]  # a State for each page

_MAPPINGS_AT_ONCE = 256  # looked at between pauses
_HUGE_FLAGS = VmaFlag.HUGEPAGE | VmaFlag.NOHUGEPAGE


class State(IntEnum):
    """What is at a page of the real address space."""

    ABSENT = 0
    ZERO = 1
    """The kernel's zero page: it was read, never written."""
    FILE = 2
    """A page of a file, or of shared memory."""
    ANON = 3


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping of the real process, in virtual pages; `flags` has HUGEPAGE, NOHUGEPAGE or none."""

    start: Vpn
    end: Vpn
    prot: Prot
    kind: Kind
    flags: VmaFlag = VmaFlag.NONE


@dataclass(frozen=True, slots=True)
class Area:
    """What is in the pages `start` and up of one 2 MiB area of the real address space.

    `changed` marks pages that have another frame than when they were last looked at. Page i is
    page `indices[i]` of `content`.
    """

    start: Vpn
    states: States
    changed: Mask
    content: Content
    indices: Indices

    @property
    def end(self) -> Vpn:
        """The virtual page behind the last one."""
        return Vpn(self.start + len(self.states))


def follow_mappings(mm: AddressSpace, wanted: Sequence[Mapping]) -> Work[None]:
    """Map exactly what is `wanted` (in ascending order); what stays mapped keeps its pages."""
    unwanted = yield from _unwanted(mm, wanted)
    for start, end in unwanted:
        yield from calls.munmap(mm, start, end)
    for mapping in wanted:
        for start, end in list(_gaps(mm, mapping)):
            file = File(end - start) if mapping.kind is Kind.FILE_PRIVATE else None
            yield from calls.mmap(mm, start, end - start, mapping.prot, mapping.kind, file)
        yield from calls.mprotect(mm, mapping.start, mapping.end, mapping.prot)
        _advise_huge(mm, mapping)
        yield


def _unwanted(mm: AddressSpace, wanted: Sequence[Mapping]) -> Work[list[tuple[Vpn, Vpn]]]:
    """The mapped ranges where nothing, or something of another kind, is to be."""
    found = []
    first = 0  # of the wanted mappings, the first that does not end before the vma
    for count, vma in enumerate(mm.vmas, 1):
        vpn = vma.start
        while first < len(wanted) and wanted[first].end <= vma.start:
            first += 1
        at = first
        while at < len(wanted) and wanted[at].start < vma.end:
            if wanted[at].kind is vma.kind:
                if vpn < wanted[at].start:
                    found.append((vpn, wanted[at].start))
                vpn = wanted[at].end
            at += 1
        if vpn < vma.end:
            found.append((vpn, vma.end))
        if count % _MAPPINGS_AT_ONCE == 0:
            yield
    return found


def _gaps(mm: AddressSpace, mapping: Mapping) -> Iterator[tuple[Vpn, Vpn]]:
    vpn = mapping.start
    for vma in mm.vmas.overlapping(mapping.start, mapping.end):
        if vpn < vma.start:
            yield vpn, vma.start
        vpn = vma.end
    if vpn < mapping.end:
        yield vpn, mapping.end


def _advise_huge(mm: AddressSpace, mapping: Mapping) -> None:
    for vma in mm.vmas.overlapping(mapping.start, mapping.end):
        if vma.kind is Kind.ANON and vma.flags & _HUGE_FLAGS != mapping.flags:
            low, high = max(vma.start, mapping.start), min(vma.end, mapping.end)
            flags = vma.flags & ~_HUGE_FLAGS | mapping.flags
            mm.vmas.set_attributes(vma, low, high, vma.prot, flags)


def follow_pages(mm: AddressSpace, real: Area) -> None:
    """Bring the pages of an area to the state they have in the real address space."""
    for vma in mm.vmas.overlapping(real.start, real.end):
        if vma.kind is Kind.HUGETLB:
            continue
        for low, high in area_ranges(max(vma.start, real.start), min(vma.end, real.end)):
            here = slice(low - real.start, high - real.start)
            _follow_area(mm, vma, _part(real, here))


def _part(real: Area, here: slice) -> Area:
    return Area(
        Vpn(real.start + here.start),
        real.states[here],
        real.changed[here],
        real.content,
        real.indices[here],
    )


def _follow_area(mm: AddressSpace, vma: Vma, real: Area) -> None:
    states, area = real.states, real.start // HUGE_PAGES
    if vma.shared:
        states = np.where(states == State.ANON, State.FILE, states).astype(np.uint8)
    if not states.any() and area not in mm.tables:
        return
    gone = len(states) == HUGE_PAGES and not states.any()
    if mm.tables.huge(area) is not None and not gone:
        return  # all of it is present, also what the real process has not touched
    _drop(mm, states, real)
    pfns, flags = mm.tables.entries(real.start, real.end)
    anonymous = mm.frames.anonymous(pfns)
    wanted = states == State.ANON
    small = ~mm.frames.compound(pfns)
    differs = wanted & anonymous & small
    differs[differs] = _differs(mm, pfns[differs], real.content, real.indices[differs])
    written = wanted & (~anonymous | differs)
    for low, high in _ranges(real.start, written):
        _populate(mm, vma, low, high, write=True)
    if written.any():
        _set_written(mm, vma, written, real)
    read = (flags == 0) & ((states == State.ZERO) | (states == State.FILE))
    for low, high in _ranges(real.start, read):
        _populate(mm, vma, low, high, write=False)


def _populate(mm: AddressSpace, vma: Vma, start: Vpn, end: Vpn, *, write: bool) -> None:
    finished(faults.populate(mm, vma, start, end, write=write))


def _drop(mm: AddressSpace, states: States, real: Area) -> None:
    """Unmap pages that went, or have another frame: a write after a fork, or a drop and a fault."""
    pfns, flags = mm.tables.entries(real.start, real.end)
    anonymous = mm.frames.anonymous(pfns)
    small = ~mm.frames.compound(pfns)
    gone = (flags != 0) & small
    gone &= (states == State.ABSENT) | (anonymous & ((states != State.ANON) | real.changed))
    if len(states) == HUGE_PAGES and not states.any():
        gone = flags != 0
    for low, high in _ranges(real.start, gone):
        finished(mm.zap(low, high))


def _differs(mm: AddressSpace, pfns: Pfns, content: Content, indices: Indices) -> Mask:
    """Whether frame `pfns[i]` holds other bytes than page `indices[i]` of `content`."""
    differs: Mask = ~mm.frames.contents.refers_to(pfns, content, indices)
    if differs.any():
        pfns, indices = pfns[differs], indices[differs]
        differs[differs] = (mm.frames.contents.rows(pfns) != content.rows(indices)).any(axis=1)
    return differs


def _set_written(mm: AddressSpace, vma: Vma, written: Mask, real: Area) -> None:
    """Give freshly written pages their content, and the mapping's protection."""
    pfns, _ = mm.tables.entries(real.start, real.end)
    mm.frames.contents.set(pfns[written], real.content, real.indices[written])
    if vma.writable or mm.tables.huge(real.start // HUGE_PAGES) is not None:
        return
    added = PROTNONE if vma.prot is Prot.NONE else 0
    for low, high in _ranges(real.start, written):
        for part in mm.tables.parts(low, high):
            part.change(0xFF & ~WRITE, added)


def take_over(mm: AddressSpace, lost: Content, content: Content, first: int) -> None:
    """Replace the content `lost` of frames that this address space maps: the frame of virtual
    page `first` + i gets page i of `content`."""
    for part in mm.tables.everything():
        pfns = numbers(part.pfns())
        at = np.flatnonzero(mm.frames.contents.holds(pfns, lost))
        indices = part.start + at - first
        within = (indices >= 0) & (indices < 1 << 32)
        _, once = np.unique(pfns[at], return_index=True)
        chosen = once[within[once]]
        mm.frames.contents.set(pfns[at[chosen]], content, indices[chosen])


def _ranges(start: Vpn, mask: Mask) -> list[tuple[Vpn, Vpn]]:
    """The pages that the mask, which begins at page `start`, is True for, as ranges."""
    edges = start + np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
