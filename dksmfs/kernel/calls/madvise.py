"""madvise(2), without what MADV_MERGEABLE does to pages (see `dksm`)."""

import errno
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from dksmfs.kernel.calls.mapping import check_boundaries
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.memory.address_space import AddressSpace
from dksmfs.kernel.memory.vma import Kind, Vma, VmaFlag
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.units import PAGE_SIZE, Vpn

_ADDRESSES = 1 << 64


class Advice(IntEnum):
    """MADV_* of madvise(2), as far as a machine simulates them."""

    DONTNEED = 4
    MERGEABLE = 12
    UNMERGEABLE = 13
    HUGEPAGE = 14
    NOHUGEPAGE = 15


_HUGE_FLAGS: Final = {
    Advice.HUGEPAGE: VmaFlag.HUGEPAGE,
    Advice.NOHUGEPAGE: VmaFlag.NOHUGEPAGE,
}
_BUT_HUGE_FLAGS: Final = ~(VmaFlag.HUGEPAGE | VmaFlag.NOHUGEPAGE)


def advised_range(address: int, length: int, advice: int) -> tuple[Vpn, Vpn]:
    """The virtual pages `start` to `end` - 1 of a call with `address` and `length` in bytes.

    EINVAL in the order of do_madvise: unknown advice, misaligned address, length that wraps.
    """
    if advice not in Advice.__members__.values():
        raise kernel_error(errno.EINVAL, f"advice {advice} is unknown")
    if address % PAGE_SIZE:
        raise kernel_error(errno.EINVAL, f"address {address:#x} is not a multiple of {PAGE_SIZE}")
    end = address + -(-length // PAGE_SIZE) * PAGE_SIZE
    if end >= _ADDRESSES and length:
        raise kernel_error(errno.EINVAL, "the range wraps around the end of the address space")
    return Vpn(address // PAGE_SIZE), Vpn(end // PAGE_SIZE)


class AdvisedMappings:
    """The mappings in a range of virtual pages, each with the part of it that is in the range.

    A mapping may be changed before the next one is asked for.
    """

    def __init__(self, mm: AddressSpace, start: Vpn, end: Vpn) -> None:
        self._mm, self._start, self._end = mm, start, end
        self._holes = False

    def __iter__(self) -> Iterator[tuple[Vma, Vpn, Vpn]]:
        vpn = self._start
        while vpn < self._end:
            vma = self._mm.vmas.find(vpn)
            if vma is None or vma.start >= self._end:
                self._holes = True
                return
            self._holes |= vpn < vma.start
            low, vpn = max(vpn, vma.start), min(vma.end, self._end)
            yield vma, low, vpn

    def refuse_holes(self) -> None:
        """ENOMEM if there were holes between those that were asked for, or behind the last."""
        if self._holes:
            raise kernel_error(errno.ENOMEM, "part of the range is not mapped")


def apply_advice(mm: AddressSpace, vma: Vma, low: Vpn, high: Vpn, advice: Advice) -> Work[None]:
    """Carry out an advice other than MERGEABLE on a part of one mapping."""
    if advice is Advice.DONTNEED:
        if vma.kind is Kind.HUGETLB or vma.flags & VmaFlag.LOCKED:  # can_madv_lru_vma
            raise kernel_error(errno.EINVAL, "a locked or hugetlb mapping does not drop pages")
        yield from mm.zap(low, high)
    elif advice in _HUGE_FLAGS:
        check_boundaries(vma, low, high)
        flags = vma.flags & _BUT_HUGE_FLAGS | _HUGE_FLAGS[advice]
        if flags != vma.flags:
            mm.vmas.set_attributes(vma, low, high, vma.prot, flags)
