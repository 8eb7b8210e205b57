"""The table of page descriptors, as arrays.

A page descriptor is a checksum and the number of the frame that had it when it was advertised.
Descriptors are chained per bucket, the newest first, and hold no reference on their frame.

The kernel has 4096 buckets. Here their number grows with the table, so that chains stay short;
that cannot be seen from outside, since only descriptors with one and the same checksum affect
each other, and their order in the chain is the same.
"""

from typing import Final, cast

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.content.xxh64 import Checksums
from dksmfs.kernel.memory.version import Version
from dksmfs.kernel.pausing import Work, finished
from dksmfs.kernel.selection import starts
from dksmfs.kernel.units import Mask, Numbers, Pfn, Pfns

HASHTABLE_SIZE: Final = 4096  # buckets of the real table, as hashtable_size shows
NO_SLOT: Final = -1
NEWER_THAN_ALL: Final = 1 << 40  # than all slots

_FEWEST_BITS: Final = 12  # of the number of a bucket
_MOST_BITS: Final = 28
_ROOM: Final = 4  # slots for each bucket, when the table is laid out; memory not used yet is free

_FEW_CHAINS: Final = 16  # that are followed one by one and not together
_SCANNED_SLOTS: Final = (
    256  # looked at in a row in the time in which one step along a chain is taken
)

_BUCKETS_AT_ONCE: Final = 1 << 18  # divided between pauses
_FEWEST_IN_PART: Final = 1 << 16  # slots that are sorted at once when the table is laid out anew
_MOST_PARTS: Final = 255
_SLOTS_AT_ONCE: Final = 1 << 15  # between pauses

# hash_32() makes a key of a checksum, each another one; the upper bits of a key are its bucket.
_GOLDEN_RATIO_32: Final = 0x61C88647
_FACTOR: Final = np.uint32(_GOLDEN_RATIO_32)
_KEY_BITS: Final = 32
_KEY_MASK: Final = (1 << _KEY_BITS) - 1

_REMOVED: Final = np.uint32(1 << (_KEY_BITS - 1))
"""The bit of its key that changes when a slot is removed. The slot stays in its chain, and is
passed over there: its new key is one of another bucket, with any number of buckets."""

_ONE: Final = np.uint32(1)  # of the type of the counts: a plain 1 makes `add.at` 40 times slower

_LINK: Final = np.dtype([("key", np.uint32), ("next", np.int32)])
"""What is looked at along a chain, side by side: that is one line of the processor's cache."""

Slots = npt.NDArray[np.int32]
_Keys = npt.NDArray[np.uint32]


class Hashtable:
    """All page descriptors; `len()` is what hashtable_entries shows.

    A slot stands for one descriptor, or for several of one checksum and frame that were added one
    after the other: they are always judged alike. Slots are positions in arrays, and valid until
    the next `add`. Of those with one checksum, a newer slot has a higher number.
    """

    def __init__(self, version: Version) -> None:
        self._version = version
        self.clear()

    def clear(self) -> None:
        """Drop all descriptors."""
        self._descriptors = 0
        self._repeated = False  # whether a slot stands for several
        self._highest_pfn = 0  # of all frames that ever had a descriptor
        self._clear_slots(np.full(1 << _FEWEST_BITS, NO_SLOT, np.int32))
        self._version.change()

    def _clear_slots(self, heads: Slots) -> None:
        """Have no slots, and these buckets, whose number is a power of 2."""
        room = _ROOM * len(heads)
        self._bits = len(heads).bit_length() - 1
        self._heads = heads
        self._used = 0
        self._live = 0  # those of the used ones that were not removed
        self._links = np.empty(room, _LINK)
        self._key: _Keys = self._links["key"]
        self._next: Slots = self._links["next"]
        self._pfn = np.empty(room, np.uint32)  # 0 of a removed slot: frame 0 is never tracked
        self._repeats = np.zeros(room, np.uint32)  # takes no memory where it is never written

    def __len__(self) -> int:
        return self._descriptors

    # --- looking up -------------------------------------------------------------------------

    def newest(self, checksums: Checksums) -> Slots:
        """The slot of the newest descriptor with each checksum; NO_SLOT if there is none."""
        return self._newest(checksums * _FACTOR)

    def newest_frames(self, checksums: Checksums) -> Pfns:
        """The frame of the newest descriptor with each checksum; 0 if there is none."""
        slots = self.newest(checksums)
        return np.where(slots == NO_SLOT, 0, self.pfns(slots))

    def chains(self, checksums: Checksums, oldest: Numbers) -> tuple[Numbers, Numbers]:
        """All slots with one of the checksums, which are all different, down to the slot that is
        the `oldest` to be looked at: those of one checksum together, the newest first; and of each
        slot the position of its checksum."""
        which = np.arange(len(checksums))
        slots = self.newest(checksums)
        found: list[tuple[Slots, Numbers]] = []
        while True:
            there = slots >= oldest[which]
            which, slots = which[there], slots[there]
            found.append((slots, which))
            if len(which) <= _FEW_CHAINS:
                break
            slots = self._older(slots)
        for one, slot in zip(which.tolist(), slots.tolist(), strict=True):
            rest = self._rest_of_chain(slot, int(oldest[one]))
            found.append((rest, np.full(len(rest), one)))
        every, of = (np.concatenate(column) for column in zip(*found, strict=True))
        together = np.argsort(of, kind="stable")
        return every[together].astype(np.int64), of[together]

    def _older(self, slots: Slots) -> Slots:
        """The next older slot with the same checksum as each; NO_SLOT if there is none."""
        links = self._links.take(slots)
        return self._along(links["key"], links["next"].copy())

    def _rest_of_chain(self, slot: int, oldest: int) -> Slots:
        """The slots older than `slot` with its checksum, newest first, down to `oldest`."""
        key_at, next_at = self._key.item, self._next.item
        key, last = key_at(slot), slot
        found: list[int] = []
        for _ in range((slot - oldest) // _SCANNED_SLOTS + _FEW_CHAINS):
            if last == oldest or slot == NO_SLOT:
                return np.array(found, np.int32)
            slot = next_at(slot)
            if slot >= oldest and key_at(slot) == key:
                last = slot
                found.append(slot)
        # The chain is long: to look at all slots, one after the other in memory, takes less.
        behind = oldest + np.flatnonzero(self._key[oldest:last] == key)[::-1].astype(np.int32)
        behind = behind[self._pfn[behind] != 0]  # a removed slot's key is that of other checksums
        return np.concatenate([np.array(found, np.int32), behind])

    def pfns(self, slots: Slots | Numbers) -> Pfns:
        """The frame of each slot; anything for NO_SLOT."""
        return self._pfn.take(slots).astype(np.int64)

    def counts(self, slots: Slots | Numbers) -> Numbers:
        """How many descriptors each slot stands for; anything for NO_SLOT."""
        return self._repeats.take(slots).astype(np.int64) + 1

    def chain(self, checksum: int) -> list[tuple[int, Pfn, int]]:
        """The slots with `checksum`, newest first: number, frame and count of each."""
        key_at, next_at = self._key.item, self._next.item
        key = checksum * _GOLDEN_RATIO_32 & _KEY_MASK
        slot = self._heads.item(key >> (_KEY_BITS - self._bits))
        found = []
        while slot != NO_SLOT:
            if key_at(slot) == key:
                found.append((slot, self._pfn.item(slot), self._repeats.item(slot) + 1))
            slot = next_at(slot)
        return cast("list[tuple[int, Pfn, int]]", found)

    def frames(self) -> Pfns:
        """The frame of every slot."""
        used = self._pfn[: self._used]
        frames: Pfns = used[used != 0].astype(np.int64)
        return frames

    def _buckets(self, keys: _Keys) -> npt.NDArray[np.intp]:
        return (keys >> np.uint32(_KEY_BITS - self._bits)).astype(np.intp)

    def _newest(self, keys: _Keys) -> Slots:
        return self._along(keys, self._heads.take(self._buckets(keys)))

    def _along(self, keys: _Keys, slots: Slots) -> Slots:
        """The first slot with each key in the chain that begins with each of `slots`, which are
        overwritten."""
        waiting = None
        at = slots.astype(np.intp)  # or numpy would convert them wherever they are used
        while len(at):
            links = self._links.take(at)
            other = np.flatnonzero((links["key"] != keys) & (at != NO_SLOT))
            waiting = other if waiting is None else waiting.take(other)
            keys, at = keys.take(other), links["next"].take(other).astype(np.intp)
            slots[waiting] = at
        return slots

    # --- changing ---------------------------------------------------------------------------

    def remove(self, slots: Slots | Numbers) -> None:
        """Drop all descriptors that each of these slots stands for."""
        assert self._pfn[slots].all(), "a slot is removed twice"
        self._pfn[slots] = 0
        self._key[slots] ^= _REMOVED
        self._descriptors -= len(slots) + int(self._repeats[slots].sum())
        self._live -= len(slots)
        self._version.change()

    def add(self, checksums: Checksums, pfns: Pfns) -> Mask:
        """Put descriptors at the head of their chains, one after the other; those with the same
        checksum stand together. Tells of each whether it got a slot of its own; otherwise it
        repeats the newest one and is counted there."""
        finished(self.reserve(len(pfns)))
        self._version.change()
        self._descriptors += len(pfns)
        if len(pfns) == 1:
            return np.array([self._add_one(checksums.item(), Pfn(pfns.item()))])
        return self._add_many(checksums * _FACTOR, pfns)

    def _add_one(self, checksum: int, pfn: Pfn) -> bool:
        """`add` without arrays, which take 40 us for a single descriptor."""
        key = checksum * _GOLDEN_RATIO_32 & _KEY_MASK
        slot = self._heads.item(key >> (_KEY_BITS - self._bits))
        while slot != NO_SLOT and self._key.item(slot) != key:
            slot = self._next.item(slot)
        if slot != NO_SLOT and self._pfn.item(slot) == pfn:
            self._repeats[slot] += _ONE
            self._repeated = True
            return False
        slot = self._take_slots(1)
        bucket = key >> (_KEY_BITS - self._bits)
        self._key[slot] = key
        self._next[slot] = self._heads.item(bucket)
        self._pfn[slot] = pfn
        self._heads[bucket] = slot
        self._highest_pfn = max(self._highest_pfn, pfn)
        return True

    def _add_many(self, keys: _Keys, pfns: Pfns) -> Mask:
        new = starts(keys)
        first = np.flatnonzero(new)
        new[1:] |= pfns[1:] != pfns[:-1]
        known, known_slots = self._repeating(keys, pfns, first)
        new[known] = False
        if new.all():
            self._store(keys, pfns)
            return new
        # What neither is new nor repeats a slot of before is like its predecessor.
        placed = new.copy()
        placed[known] = True
        slots = np.zeros(len(keys), np.int64)
        slots[new] = self._store(keys[new], pfns[new])
        slots[known] = known_slots
        like = np.maximum.accumulate(np.where(placed, np.arange(len(keys)), 0))
        repeated = slots[like[~new]]
        np.add.at(self._repeats, repeated, _ONE)
        self._repeated = True
        return new

    def _repeating(self, keys: _Keys, pfns: Pfns, asked: Numbers) -> tuple[Numbers, Slots]:
        """Which of the descriptors `asked` repeat the newest one in the table, and its slot."""
        asked = asked[pfns[asked] <= self._highest_pfn]  # which new frames exceed
        slots = self._newest(keys[asked])
        same = (slots != NO_SLOT) & (self._pfn.take(slots) == pfns[asked])
        return asked[same], slots[same]

    def _take_slots(self, count: int) -> int:
        """The first of `count` fresh slots."""
        first = self._used
        self._used += count
        self._live += count
        return first

    def _store(self, keys: _Keys, pfns: Pfns | npt.NDArray[np.uint32]) -> Numbers:
        """Put descriptors, of which those with equal keys are neighbours, into fresh slots; returns
        the slots."""
        low = self._take_slots(len(keys))
        slots = np.arange(low, self._used)
        here = slice(low, self._used)
        self._key[here] = keys
        self._next[here] = slots - 1
        self._pfn[here] = pfns
        self._highest_pfn = max(self._highest_pfn, int(pfns.max(initial=0)))
        first = np.flatnonzero(starts(keys))
        newest = np.append(first, len(keys))[1:] + (low - 1)
        self._link(slots[first], newest, keys[first])
        return slots

    def _link(self, oldest: Numbers, newest: Numbers, keys: _Keys) -> None:
        """Put runs of slots, each of one key, at the head of their chains."""
        buckets = self._buckets(keys)
        while len(buckets):
            # Of those in one bucket, one becomes its head, and the others try again.
            self._next[oldest] = self._heads.take(buckets)
            self._heads[buckets] = newest
            left = np.flatnonzero(self._heads.take(buckets) != newest)
            buckets, oldest, newest = buckets[left], oldest[left], newest[left]

    def reserve(self, count: int) -> Work[None]:
        """Have room for `count` descriptors more. That takes long now and then, so there are
        pauses, in which only the length may be asked for."""
        if self._live + count > len(self._heads):
            yield from self._add_buckets(self._live + count)
        if self._used + count > len(self._pfn):
            laying_out = self._lay_out(self._live + count)
            try:
                for _ in laying_out:
                    yield
            finally:  # the one who was waiting for it may have gone
                finished(laying_out)

    def _add_buckets(self, needed: int) -> Work[None]:
        """Have a bucket for each of the slots that are `needed`. The two parts of a bucket begin
        with the chain of the whole one, which is right for either, though longer than need be until
        the table is laid out anew."""
        parts = 2
        while parts * len(self._heads) < needed:
            parts *= 2
        heads = np.empty(parts * len(self._heads), np.int32)
        for start in range(0, len(self._heads), _BUCKETS_AT_ONCE):
            some = self._heads[start : start + _BUCKETS_AT_ONCE]
            heads[parts * start : parts * (start + len(some))] = np.repeat(some, parts)
            yield
        self._heads = heads
        self._bits = len(heads).bit_length() - 1

    def _lay_out(self, needed: int) -> Work[None]:
        """Make room for more slots, with buckets for those `needed`. Removed ones are dropped, and
        chains get short, and come to lie close together in memory."""
        used, repeats = self._used, self._repeats
        links, pfns = self._links[:used], self._pfn[:used]
        heads = np.empty(
            1 << min(max((needed - 1).bit_length(), _FEWEST_BITS), _MOST_BITS), np.int32
        )
        for start in range(0, len(heads), _BUCKETS_AT_ONCE):
            heads[start : start + _BUCKETS_AT_ONCE] = NO_SLOT
            yield
        self._version.change()  # slots get other numbers
        self._clear_slots(heads)
        # Part by part, in the order of the keys: memory that is used for the first time takes
        # longer than what is done with it here, and so is used again for the next part.
        parts = min(used // _FEWEST_IN_PART + 1, _MOST_PARTS)
        part = np.empty(used, np.uint8)
        for start in range(0, used, _SLOTS_AT_ONCE):
            here = slice(start, start + _SLOTS_AT_ONCE)
            part[here] = (links["key"][here] >> 16) * np.uint32(parts) >> 16
            part[here][pfns[here] == 0] = _MOST_PARTS
            yield
        for number in range(parts):
            slots = np.flatnonzero(part == number)
            for start in range(0, len(slots), _SLOTS_AT_ONCE):
                self._store_again(links, pfns, repeats, slots[start : start + _SLOTS_AT_ONCE])
                yield

    def _store_again(
        self,
        links: npt.NDArray[np.void],
        pfns: npt.NDArray[np.uint32],
        repeats: npt.NDArray[np.uint32],
        slots: Numbers,
    ) -> None:
        """Put some of the slots of before, which ascend, into fresh ones."""
        keys, slots = _sorted(links.take(slots)["key"], slots)
        fresh = self._store(keys, pfns.take(slots))
        if self._repeated:
            counts = repeats.take(slots)
            written = np.flatnonzero(counts)
            self._repeats[fresh[written]] = counts[written]


def _sorted(keys: _Keys, numbers: Numbers) -> tuple[_Keys, Numbers]:
    """Keys in ascending order, and the number of each; numbers with one key ascend, too."""
    order = keys.astype(np.uint64)
    order <<= np.uint64(_KEY_BITS)
    order |= numbers.view(np.uint64)
    order.sort()
    keys = (order >> np.uint64(_KEY_BITS)).astype(np.uint32)
    order &= np.uint64(_KEY_MASK)
    return keys, order.view(np.int64)
