"""Pages that are advertised together, and what becomes of them."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.content.hashes import Checksums, Hashes
from dksmfs.kernel.linear import Numbers
from dksmfs.kernel.memory.entries import Flags
from dksmfs.kernel.memory.frames import Frames, Pfns, home
from dksmfs.kernel.memory.vma import Vma

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Batch:
    """Pages of one mapping; those with the same checksum stand together, by ascending address.

    `pfn` and `flags` are the entry of virtual page `vpn`, `hash` is that of its bytes. `twin` is a
    frame that is known to have the same bytes as `pfn`.
    """

    vpn: Numbers
    pfn: Pfns
    flags: Flags
    checksum: Checksums
    hash: Hashes
    twin: Pfns

    def __len__(self) -> int:
        return len(self.vpn)

    def taken(self, positions: Numbers) -> "Batch":
        """The pages at some positions."""
        return Batch(
            self.vpn[positions], self.pfn[positions], self.flags[positions],
            self.checksum[positions], self.hash[positions], self.twin[positions],
        )  # fmt: skip

    def grouped(self) -> "Batch":
        """The batch of these pages, which are in the order of their addresses."""
        together = _together(self.checksum)
        return self if together is None else self.taken(together)

    def by_address(self, mask: Mask) -> Numbers:
        """The positions of the pages in the mask, by ascending address."""
        positions = np.flatnonzero(mask)
        vpn = self.vpn[positions]
        if (vpn[1:] > vpn[:-1]).all():
            return positions
        offsets = vpn - vpn.min()
        places = np.full(int(offsets.max()) + 1, -1)
        places[offsets] = positions
        ascending: Numbers = places[places >= 0]
        return ascending

    def derived_vpns(self, frames: Frames, vma: Vma) -> Numbers:
        """The virtual page that DKSM derives from each page's frame (page_address_in_vma); -1 if
        it is not in the mapping. A page whose own is derived is at home."""
        vpn = np.full(len(self), -1)
        if vma.anon_vma is not None:
            index = frames.homes(self.pfn) - home(vma.anon_vma.root, 0)
            derived = vma.start + index - vma.pgoff
            inside = (index >= 0) & (derived >= vma.start) & (derived < vma.end)
            vpn[inside] = derived[inside]
        return vpn


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
    left: Numbers
    failed: int = 0
    stale: Numbers = field(default_factory=lambda: np.empty(0, np.int64))


def starts(values: npt.NDArray[np.generic]) -> Mask:
    """Where another value begins."""
    begins = np.ones(len(values), np.bool_)
    begins[1:] = values[1:] != values[:-1]
    return begins


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
