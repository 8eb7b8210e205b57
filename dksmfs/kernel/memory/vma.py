"""Virtual memory areas: which addresses of a process are mapped, and how.

`VmaList` keeps the mappings of one address space in order and follows the kernel in when adjacent
ones become one (vma_merge) and when one is split. Numbers are pages: a mapping covers the virtual
pages `start` to `end` - 1, and `pgoff` is the page offset of its first page.
"""

import errno
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, IntFlag
from operator import attrgetter
from typing import Final

from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.memory.page_cache import File
from dksmfs.kernel.units import Pgoff, Vpn

MAX_MAP_COUNT = 65530

_START: Final = attrgetter("start")
_END: Final = attrgetter("end")


class Prot(IntFlag):
    """Protection of a mapping (PROT_* of mmap(2))."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXEC = 4


_PROT_LETTERS: Final = {"r": Prot.READ, "w": Prot.WRITE, "x": Prot.EXEC}


def parse_prot(text: str) -> Prot:
    """The protection that `text` names: "none", or letters of "rwx"; ValueError otherwise."""
    if text == "none":
        return Prot.NONE
    if not text or set(text) - set(_PROT_LETTERS) or len(set(text)) < len(text):
        raise ValueError(f'protection {text!r}: expected "none" or letters of "rwx"')
    return Prot(sum(_PROT_LETTERS[letter] for letter in text))


def prot_text(prot: Prot) -> str:
    """The text that `parse_prot` makes this protection of."""
    letters = [letter for letter, bit in _PROT_LETTERS.items() if prot & bit]
    return "".join(letters) or "none"


class Kind(Enum):
    """What a mapping maps."""

    ANON = "anon"
    SHARED_ANON = "shared-anon"
    FILE_PRIVATE = "file-private"
    FILE_SHARED = "file-shared"
    HUGETLB = "hugetlb"


class VmaFlag(IntFlag):
    """The VM_* flags that keep adjacent mappings apart."""

    NONE = 0
    LOCKED = 1
    HUGEPAGE = 2
    NOHUGEPAGE = 4
    ACCOUNT = 8  # was private and writable at some time; counts for overcommit


@dataclass(frozen=True, eq=False)
class AnonVma:
    """A family of anonymous pages; `root` is shared by all that descend from one by fork."""

    root: int


@dataclass(eq=False)
class Vma:
    """One mapping.

    `anon_vma` is set once a page of it became anonymous. `inherited` says that its anon_vma_chain
    has more than one link, which is so after a fork.
    """

    start: Vpn
    end: Vpn
    pgoff: Pgoff
    prot: Prot
    kind: Kind
    flags: VmaFlag = VmaFlag.NONE
    file: File | None = None
    anon_vma: AnonVma | None = None
    inherited: bool = False

    @property
    def shared(self) -> bool:
        """MAP_SHARED: a write reaches everybody who maps the page."""
        return self.kind in (Kind.SHARED_ANON, Kind.FILE_SHARED)

    @property
    def writable(self) -> bool:
        """Whether writes are allowed."""
        return bool(self.prot & Prot.WRITE)

    def linear_page_index(self, vpn: Vpn) -> Pgoff:
        """The page offset of virtual page `vpn` (linear_page_index)."""
        return Pgoff(self.pgoff + vpn - self.start)


class VmaList:
    """The mappings of one address space, in ascending order, without overlaps."""

    def __init__(self, boundary: Callable[[Vpn], None]) -> None:
        """`boundary(vpn)` is called before a mapping gets a new limit inside itself."""
        self._vmas: list[Vma] = []
        self._boundary = boundary
        self._searched: dict[int, Vpn] = {}
        """For each n the page above which no gap has 2**n pages, as far as that is known."""

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._vmas)

    def find(self, vpn: Vpn) -> Vma | None:
        """The first mapping that ends after `vpn` (find_vma)."""
        at = self._index(vpn)
        return self._vmas[at] if at < len(self._vmas) else None

    def at(self, vpn: Vpn) -> Vma | None:
        """The mapping that covers `vpn` (vma_lookup)."""
        vma = self.find(vpn)
        return vma if vma is not None and vma.start <= vpn else None

    def overlapping(self, start: Vpn, end: Vpn, limit: int | None = None) -> list[Vma]:
        """The mappings that have a page in the range, the first `limit` of them."""
        low, high = self._index(start), bisect_left(self._vmas, end, key=_START)
        return self._vmas[low : high if limit is None else min(high, low + limit)]

    def gap_below(self, limit: Vpn, pages: int) -> Vpn | None:
        """The highest start of `pages` unmapped pages below `limit`; None if there is no room."""
        large = pages.bit_length() - 1
        limit = min(limit, self._searched.get(large, limit))
        passed = True  # whether all gaps so far have less than 2**large pages
        for at in range(bisect_left(self._vmas, limit, key=_START) - 1, -1, -1):
            vma = self._vmas[at]
            gap = limit - vma.end
            if passed and gap >= 1 << large:
                passed, self._searched[large] = False, limit
            if gap >= pages:
                break
            limit = min(limit, vma.start)
        if passed:
            self._searched[large] = limit
        return Vpn(limit - pages) if limit > pages else None

    def neighbours(self, start: Vpn, end: Vpn) -> tuple[Vpn, Vpn | None]:
        """The end of the last mapping before the range, and the start of the first one after it."""
        at, behind = self._index(start), bisect_left(self._vmas, end, key=_START)
        before = self._vmas[at - 1].end if at else Vpn(0)
        after = self._vmas[behind].start if behind < len(self._vmas) else None
        return before, after

    def _index(self, vpn: int) -> int:
        """The position of the first mapping that ends after `vpn`."""
        return bisect_right(self._vmas, vpn, key=_END)

    # --- changes ----------------------------------------------------------------------------

    def require_room(self) -> None:
        """ENOMEM if no mapping may be added (sysctl_max_map_count)."""
        if len(self._vmas) >= MAX_MAP_COUNT:
            raise kernel_error(errno.ENOMEM, f"a process has at most {MAX_MAP_COUNT} mappings")

    def insert(self, vma: Vma) -> None:
        """Add a mapping where nothing is mapped."""
        self._vmas.insert(self._index(vma.start), vma)
        if vma.file is not None:
            vma.file.mappings += 1

    def remove(self, first: Vma, last: Vma) -> None:
        """Take the mappings from `first` to `last` out."""
        low, high = self._index(first.start), self._index(last.start) + 1
        assert self._vmas[low] is first
        assert self._vmas[high - 1] is last
        for vma in self._vmas[low:high]:
            if vma.file is not None:
                vma.file.mappings -= 1
        del self._vmas[low:high]
        gap_end = self._vmas[low].start if low < len(self._vmas) else None
        for large, searched in list(self._searched.items()):
            if gap_end is None or searched < gap_end:
                del self._searched[large]

    def split(self, vma: Vma, vpn: Vpn) -> Vma:
        """Cut `vma` before `vpn`; `vma` keeps the pages below, the new mapping has the rest."""
        self.require_room()
        self._boundary(vpn)
        upper = replace(vma, start=vpn, pgoff=vma.linear_page_index(vpn))
        vma.end = vpn
        self.insert(upper)
        return upper

    def isolate(self, vma: Vma, start: Vpn, end: Vpn) -> Vma:
        """Split `vma` so that a mapping covers exactly the given part of it."""
        if start > vma.start:
            vma = self.split(vma, start)
        if end < vma.end:
            self.split(vma, end)
        return vma

    def set_attributes(self, vma: Vma, start: Vpn, end: Vpn, prot: Prot, flags: VmaFlag) -> Vma:
        """Give the part of `vma` from `start` to `end` other attributes; returns its mapping."""
        part = replace(
            vma, start=start, end=end, pgoff=vma.linear_page_index(start), prot=prot, flags=flags
        )
        merged = self.merge(part)
        if merged is None:
            merged = self.isolate(vma, start, end)
            merged.prot, merged.flags = prot, flags
        return merged

    def merge(self, new: Vma) -> Vma | None:
        """Extend a neighbour over the range of `new`, if it fits (vma_merge).

        `new` is not in the list; mappings that lie in its range are taken over. Returns the
        mapping that covers the range now, or None if no neighbour fits.
        """
        at = self._index(new.start - 1)
        prev = None
        if at < len(self._vmas) and self._vmas[at].start < new.start:
            prev, at = self._vmas[at], at + 1
        if at < len(self._vmas) and self._vmas[at].end == new.end:
            at += 1
        nxt = self._vmas[at] if at < len(self._vmas) else None
        if nxt is not None and not (nxt.start == new.end and _fits_before(new, nxt)):
            nxt = None
        if prev is not None and prev.end == new.start and _fits_after(prev, new):
            joins = nxt is not None and _same_anon_vma(prev.anon_vma, nxt.anon_vma, None)
            return self._grow(prev, prev.start, nxt.end if joins and nxt else new.end)
        if nxt is not None:
            return self._grow(nxt, new.start, nxt.end)
        return None

    def _grow(self, vma: Vma, start: Vpn, end: Vpn) -> Vma:
        """Extend `vma`, over others if need be (__vma_adjust)."""
        for other in self.overlapping(start, end):
            if other is vma:
                continue
            if vma.anon_vma is None:
                vma.anon_vma, vma.inherited = other.anon_vma, other.inherited
            if other.start < start:
                self._boundary(start)
                other.end = start
            elif other.end > end:
                self._boundary(end)
                other.start, other.pgoff = end, other.linear_page_index(end)
            else:
                self.remove(other, other)
        vma.start, vma.pgoff, vma.end = start, vma.linear_page_index(start), end
        return vma

    def reusable_anon_vma(self, vma: Vma) -> AnonVma | None:
        """The family that `vma` can share with a neighbour (find_mergeable_anon_vma)."""
        at = self._index(vma.start)
        for owner, low, high in (
            *((nxt, vma, nxt) for nxt in self._vmas[at + 1 : at + 2]),
            *((prev, prev, vma) for prev in self._vmas[max(at - 1, 0) : at]),
        ):
            if owner.anon_vma and not owner.inherited and _compatible(low, high):
                return owner.anon_vma
        return None

    def check_invariants(self) -> None:
        """Assert order, and that no mapping is empty or overlaps another."""
        for vma in self._vmas:
            assert vma.start < vma.end, "empty mapping"
            assert not vma.inherited or vma.anon_vma is not None
        for low, high in itertools.pairwise(self._vmas):
            assert low.end <= high.start, "mappings overlap"


def _continues(low: Vma, high: Vma) -> bool:
    return (
        low.file is high.file
        and Kind.HUGETLB not in (low.kind, high.kind)
        and low.shared == high.shared
        and low.flags == high.flags
        and high.pgoff == low.pgoff + high.start - low.start
    )


def _compatible(low: Vma, high: Vma) -> bool:
    """anon_vma_compatible: adjacent and alike but for the protection."""
    return low.end == high.start and _continues(low, high)


def _fits_after(prev: Vma, new: Vma) -> bool:
    """can_vma_merge_after."""
    return (
        _continues(prev, new)
        and prev.prot == new.prot
        and _same_anon_vma(new.anon_vma, prev.anon_vma, prev)
    )


def _fits_before(new: Vma, nxt: Vma) -> bool:
    """can_vma_merge_before."""
    return (
        _continues(new, nxt)
        and new.prot == nxt.prot
        and _same_anon_vma(new.anon_vma, nxt.anon_vma, nxt)
    )


def _same_anon_vma(one: AnonVma | None, other: AnonVma | None, vma: Vma | None) -> bool:
    """is_mergeable_anon_vma: the chain of `vma` must not come from a fork, nor be empty."""
    singular = vma is None or (vma.anon_vma is not None and not vma.inherited)
    if (one is None or other is None) and singular:
        return True
    return one is other
