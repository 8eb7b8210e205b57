"""The table of page descriptors, as arrays.

A page descriptor is a checksum and the number of the frame that had it when it was advertised.
Descriptors are chained per bucket, the newest first, and hold no reference on their frame.

The kernel has 4096 buckets. Here their number grows with the table, so that chains stay short;
that cannot be seen from outside, since only descriptors with one and the same checksum affect
each other, and their order in the chain is the same.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.content import Checksums
from dksmfs.kernel.frames import Pfns

HASHTABLE_SIZE: Final = 4096  # buckets of the real table, as hashtable_size shows

_GOLDEN_RATIO_32: Final = np.uint32(0x61C88647)
_NONE: Final = -1
NO_DESCRIPTOR: Final = -1
"""What `lookup` gives instead of a pfn."""

_MOST_BITS: Final = 28

Slots = npt.NDArray[np.int32]  # positions of descriptors; -1 is none


class Hashtable:
    """All page descriptors; `len()` is what hashtable_entries shows."""

    def __init__(self, bits: int = 12) -> None:
        self._bits = bits
        self._heads: Slots = np.full(1 << bits, _NONE, np.int32)
        # Slots are given out in ascending order, so a higher slot is a newer descriptor. The slot
        # of a removed one has no pfn, and is left out when the table is laid out anew.
        self._checksum = np.zeros(1 << bits, np.uint32)
        self._pfn = np.zeros(1 << bits, np.uint32)
        self._dead = np.zeros(1 << bits, np.bool_)
        self._next: Slots = np.zeros(1 << bits, np.int32)
        self._used = 0
        self._removed = 0

    def __len__(self) -> int:
        return self._used - self._removed

    def _buckets(self, checksums: Checksums) -> npt.NDArray[np.uint32]:
        """hash_32(checksum, bits)."""
        return (checksums * _GOLDEN_RATIO_32) >> np.uint32(32 - self._bits)

    def add(self, checksums: Checksums, pfns: Pfns) -> None:
        """Put descriptors at the head of their chains, one after the other."""
        if self._used + len(pfns) > len(self._next):
            self._lay_out(len(self) + len(pfns))
        slots = np.arange(self._used, self._used + len(pfns), dtype=np.int32)
        self._used += len(pfns)
        self._checksum[slots] = checksums
        self._pfn[slots] = pfns
        self._link(slots)

    def _link(self, slots: Slots) -> None:
        buckets = self._buckets(self._checksum[slots])
        order = np.argsort(buckets, kind="stable")
        slots, buckets = slots[order], buckets[order]
        first = np.ones(len(slots), np.bool_)
        first[1:] = buckets[1:] != buckets[:-1]
        older = np.empty_like(slots)
        older[1:] = slots[:-1]
        older[first] = self._heads[buckets[first]]
        self._next[slots] = older
        last = np.roll(first, -1)
        self._heads[buckets[last]] = slots[last]

    def _lay_out(self, needed: int) -> None:
        """Make room for twice the descriptors needed, without those that were removed."""
        kept = np.flatnonzero(~self._dead[: self._used])
        checksums, pfns = self._checksum[kept], self._pfn[kept]
        bits = min(max(12, (2 * needed - 1).bit_length()), _MOST_BITS)
        capacity = max(2 * needed, 1 << 12)
        self._bits = bits
        self._heads = np.full(1 << bits, _NONE, np.int32)
        self._checksum = np.empty(capacity, np.uint32)
        self._pfn = np.empty(capacity, np.uint32)
        self._dead = np.zeros(capacity, np.bool_)
        self._next = np.empty(capacity, np.int32)
        self._used = self._removed = 0
        self.add(checksums, pfns.astype(np.int64))

    def chain(self, checksum: int) -> Iterator[tuple[int, int]]:
        """The descriptors with `checksum`, newest first: slot and pfn of each. The one just
        yielded may be removed."""
        slot = int(self._heads[self._buckets(np.array([checksum], np.uint32))[0]])
        while slot != _NONE:
            if self._checksum[slot] == checksum and not self._dead[slot]:
                yield slot, int(self._pfn[slot])
            slot = int(self._next[slot])

    def remove(self, slot: int) -> None:
        """Drop a descriptor that `chain` yielded."""
        self._dead[slot] = True
        self._removed += 1

    def lookup(self, checksums: Checksums) -> Pfns:
        """The frame of the newest descriptor with each checksum; NO_DESCRIPTOR if there is none."""
        found = np.full(len(checksums), NO_DESCRIPTOR, np.int64)
        slots = self._heads[self._buckets(checksums)]
        waiting = np.flatnonzero(slots != _NONE)
        while len(waiting):
            slot = slots[waiting]
            hit = (self._checksum[slot] == checksums[waiting]) & ~self._dead[slot]
            found[waiting[hit]] = self._pfn[slot[hit]]
            slots[waiting] = self._next[slot]
            waiting = waiting[~hit & (slots[waiting] != _NONE)]
        return found

    def pfns(self) -> Pfns:
        """The frames of all descriptors."""
        return self._pfn[: self._used][~self._dead[: self._used]].astype(np.int64)
