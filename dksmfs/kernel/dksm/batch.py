"""Pages that are advertised together, and what becomes of them."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from dksmfs.kernel.content.xxh64 import Checksums, Hashes
from dksmfs.kernel.dksm.walk import Stretch
from dksmfs.kernel.memory.entries import Flags
from dksmfs.kernel.memory.frames import Frames, home
from dksmfs.kernel.selection import starts
from dksmfs.kernel.units import Mask, Numbers, Pfns, Vpns

_DENSE: Final = 8  # pages of address space for each page of a batch, at the most


@dataclass(frozen=True, slots=True)
class Batch:
    """Pages of one mapping; those with the same checksum stand together, by ascending address.

    `pfn` and `flags` are the entry of virtual page `vpn`, `hash` is that of its bytes. `twin` is a
    frame that is known to have the same bytes as `pfn`. `derived` is the virtual page that DKSM
    derives from `pfn`; a page is at home where that is its own.
    """

    vpn: Vpns
    pfn: Pfns
    flags: Flags
    checksum: Checksums
    hash: Hashes
    twin: Pfns
    derived: Vpns

    def __len__(self) -> int:
        return len(self.vpn)

    def taken(self, positions: Numbers) -> "Batch":
        """The pages at some positions."""
        return Batch(
            self.vpn[positions], self.pfn[positions], self.flags[positions],
            self.checksum[positions], self.hash[positions], self.twin[positions],
            self.derived[positions],
        )  # fmt: skip

    def grouped(self) -> "Batch":
        """The batch of these pages, which are in the order of their addresses."""
        together = _together(self.checksum)
        return self if together is None else self.taken(together)

    def groups(self) -> tuple[Numbers, Numbers]:
        """The position of the first page with each checksum, and of each page the number of its
        group, which is that of its checksum among them."""
        begins = starts(self.checksum)
        return np.flatnonzero(begins), np.cumsum(begins) - 1

    def in_order(self) -> Numbers:
        """The positions of all pages, by ascending address."""
        return self.by_address(np.ones(len(self), np.bool_))

    def by_address(self, mask: Mask) -> Numbers:
        """The positions of the pages in the mask, by ascending address."""
        positions = np.flatnonzero(mask)
        vpn = self.vpn[positions]
        if (vpn[1:] > vpn[:-1]).all():
            return positions
        offsets = vpn - vpn.min()
        if offsets.max() > _DENSE * len(vpn):
            by_vpn: Numbers = positions[np.argsort(vpn)]
            return by_vpn
        places = np.full(int(offsets.max()) + 1, -1)
        places[offsets] = positions
        ascending: Numbers = places[places >= 0]
        return ascending


def derived_vpns(frames: Frames, stretches: list[Stretch], pfns: Pfns, pages: Numbers) -> Numbers:
    """The virtual page that DKSM derives from each frame, -1 if it is not in the mapping
    (page_address_in_vma). `pages` tells how many of the frames are of each stretch."""
    # The families of other mappings are so far away that what is derived lies outside.
    rows = [
        (home(vma.anon_vma.root, vma.pgoff) - vma.start, vma.start, vma.end)
        if vma.anon_vma is not None
        else (0, 0, 0)
        for vma, _, _ in stretches
    ]
    distance, start, end = np.repeat(np.array(rows), pages, axis=0).T
    derived = frames.homes(pfns) - distance
    return np.where((start <= derived) & (derived < end), derived, -1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a batch, by positions in it.

    `merged[i]` gets frame `targets[i]`; `tracked` get descriptors, in this order; `failed` attempts
    were made; the descriptors in the slots `stale` were found stale; `left` are not decided.
    `merged` and `left` ascend by address.
    """

    merged: Numbers
    targets: Pfns
    tracked: Numbers
    left: Pfns
    failed: int = 0
    stale: Numbers = field(default_factory=lambda: np.empty(0, np.int64))


def _together(checksum: Checksums) -> Numbers | None:
    """The positions in an order in which equal checksums stand together, ascending among
    themselves; None if they do so already, because all differ or none does."""
    # Most differ in their upper bits already, and need not be sorted.
    if (checksum == checksum[0]).all():
        return None
    every = np.arange(len(checksum), dtype=np.int32)
    bits = len(checksum).bit_length() + 1
    slots = checksum >> np.uint32(32 - bits)
    last = np.empty(1 << bits, np.int32)
    last[slots] = every
    overtaken = last[slots] != every
    shared = np.zeros(1 << bits, np.bool_)
    shared[slots[overtaken]] = True
    near = shared[slots]
    positions = np.flatnonzero(near)
    keys = checksum[positions].astype(np.uint64) << np.uint64(32) | positions.view(np.uint64)
    keys.sort()
    if not (np.diff(keys >> np.uint64(32)) == 0).any():
        return None
    return np.concatenate([np.flatnonzero(~near), (keys & np.uint64(0xFFFFFFFF)).view(np.int64)])
