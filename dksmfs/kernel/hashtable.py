"""The table of page descriptors, as arrays.

A page descriptor is a checksum and the number of the frame that had it when it was advertised.
Descriptors are chained per bucket, the newest first, and hold no reference on their frame.

The kernel has 4096 buckets. Here their number grows with the table, so that chains stay short;
that cannot be seen from outside, since only descriptors with one and the same checksum affect
each other, and their order in the chain is the same. For the same reason descriptors of one frame
that follow each other are one slot with a count: they are always judged alike.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.content import Checksums
from dksmfs.kernel.linear import Numbers

HASHTABLE_SIZE: Final = 4096  # buckets of the real table, as hashtable_size shows

NO_SLOT: Final = -1

_GOLDEN_RATIO_32: Final = np.uint32(0x61C88647)
_FEWEST_BITS: Final = 12
_MOST_BITS: Final = 28
_LOW_HALF: Final = np.uint64(0xFFFFFFFF)

Slots = npt.NDArray[np.int32]  # positions of descriptors, which hold until the next `add`
Mask = npt.NDArray[np.bool_]


class Hashtable:
    """All page descriptors; `len()` is what hashtable_entries shows.

    Slots are given out in ascending order, so a higher slot is a newer descriptor. That of a
    removed one has frame 0, which is never tracked, and is left out when the table grows.
    """

    def __init__(self) -> None:
        self.version = 0
        """Grows with every change."""
        self._bits = _FEWEST_BITS
        self._heads: Slots = np.full(1 << _FEWEST_BITS, NO_SLOT, np.int32)
        self._used = 0
        self._entries = 0
        self._set_capacity(1 << _FEWEST_BITS)

    def _set_capacity(self, slots: int) -> None:
        self._checksum = np.empty(slots, np.uint32)
        self._pfn = np.empty(slots, np.uint32)
        self._next: Slots = np.empty(slots, np.int32)
        self._repeated = np.zeros(slots, np.int64)  # memory that is never written is not taken

    def __len__(self) -> int:
        return self._entries

    def _buckets(self, checksums: Checksums) -> npt.NDArray[np.uint32]:
        """hash_32(checksum, bits)."""
        return (checksums * _GOLDEN_RATIO_32) >> np.uint32(32 - self._bits)

    # --- adding and removing ----------------------------------------------------------------

    def add(self, checksums: Checksums, pfns: Numbers) -> Mask:
        """Put descriptors at the head of their chains, one after the other; those with the same
        checksum stand together. Returns which ones got a slot of their own."""
        self.version += 1
        self._entries += len(pfns)
        if self._used + len(pfns) > len(self._next):
            self._lay_out(len(pfns))
        first = np.ones(len(pfns), np.bool_)
        first[1:] = checksums[1:] != checksums[:-1]
        older = self.newest(checksums)
        before = np.where(older == NO_SLOT, 0, self._pfn[older])
        before[~first] = pfns[np.flatnonzero(~first) - 1]
        new: Mask = before != pfns
        slots = np.where(new, self._used + np.cumsum(new) - 1, older)
        self._store(checksums[new], pfns[new])
        if not new.all():
            # A repetition belongs to the one before, and that may be a repetition, too.
            start = np.maximum.accumulate(np.where(new | first, np.arange(len(new)), 0))
            np.add.at(self._repeated, slots[start[~new]], 1)
        return new

    def _store(self, checksums: Checksums, pfns: Numbers | npt.NDArray[np.uint32]) -> None:
        slots = np.arange(self._used, self._used + len(pfns), dtype=np.int32)
        self._used += len(pfns)
        self._checksum[slots] = checksums
        self._pfn[slots] = pfns
        self._link(slots)

    def _link(self, slots: Slots) -> None:
        keys = self._buckets(self._checksum[slots]).astype(np.uint64) << np.uint64(32)
        keys |= slots.view(np.uint32)
        keys.sort()
        slots = (keys & _LOW_HALF).astype(np.int32)
        buckets = (keys >> np.uint64(32)).view(np.int64)
        first = np.ones(len(slots), np.bool_)
        first[1:] = buckets[1:] != buckets[:-1]
        older = np.empty_like(slots)
        older[1:] = slots[:-1]
        older[first] = self._heads[buckets[first]]
        self._next[slots] = older
        last = np.roll(first, -1)
        self._heads[buckets[last]] = slots[last]

    def _lay_out(self, more: int) -> None:
        """Make room for more descriptors, leaving out those that were removed."""
        kept = np.flatnonzero(self._pfn[: self._used])
        checksum, pfn = self._checksum[kept], self._pfn[kept]
        repeated = self._repeated[kept]
        needed = len(kept) + more
        self._bits = min(max(_FEWEST_BITS, (needed - 1).bit_length()), _MOST_BITS)
        self._heads = np.full(1 << self._bits, NO_SLOT, np.int32)
        self._used = 0
        self._set_capacity(1 << (needed - 1).bit_length())
        self._store(checksum, pfn)
        often = np.flatnonzero(repeated)
        self._repeated[often] = repeated[often]

    def remove(self, slot: int) -> None:
        """Drop the descriptors of a slot."""
        self.version += 1
        self._entries -= 1 + int(self._repeated[slot])
        self._pfn[slot] = self._repeated[slot] = 0

    # --- looking ----------------------------------------------------------------------------

    def newest(self, checksums: Checksums) -> Slots:
        """The newest descriptor with each checksum; NO_SLOT if there is none."""
        return self._seek(self._heads[self._buckets(checksums)], checksums)

    def older(self, slots: Slots) -> Slots:
        """The next older descriptor with the same checksum; NO_SLOT if there is none."""
        return self._seek(self._next[slots], self._checksum[slots])

    def _seek(self, slots: Slots, checksums: Checksums) -> Slots:
        """Go along chains, from `slots` on, to the next descriptors with these checksums."""
        seeking = np.flatnonzero(slots != NO_SLOT)
        while len(seeking):
            here = slots[seeking]
            found = (self._checksum[here] == checksums[seeking]) & (self._pfn[here] != 0)
            seeking = seeking[~found]
            slots[seeking] = self._next[slots[seeking]]
            seeking = seeking[slots[seeking] != NO_SLOT]
        return slots

    def pfns(self, slots: Slots) -> Numbers:
        """The frame of each slot."""
        pfns: Numbers = self._pfn[slots].astype(np.int64)
        return pfns

    def counts(self, slots: Slots) -> Numbers:
        """How many descriptors each slot stands for."""
        counts: Numbers = self._repeated[slots] + 1
        return counts

    def chain(self, checksum: int) -> list[tuple[int, int, int]]:
        """The descriptors with a checksum, newest first: slot, frame, and how many they are."""
        found = []
        slot = int(self._heads[self._buckets(np.array([checksum], np.uint32))[0]])
        while slot != NO_SLOT:
            pfn = self._pfn.item(slot)
            if pfn and self._checksum.item(slot) == checksum:
                found.append((slot, pfn, 1 + self._repeated.item(slot)))
            slot = self._next.item(slot)
        return found

    def frames(self) -> Numbers:
        """The frame of every slot that is in use."""
        used = self._pfn[: self._used]
        frames: Numbers = used[used != 0].astype(np.int64)
        return frames
