"""What becomes of many pages at once: the outcomes that can be known without taking turns.

Only pages and descriptors with one and the same checksum affect each other, so pages are taken in
groups of one checksum, and the order of the groups does not matter. Within a group they are in the
order of their addresses. Three kinds of group have a certain outcome:

  * All pages have the bytes of the newest descriptor's frame (or, without a descriptor, of the
    first page, which is tracked), and each will find its own entry as it is when its turn comes:
    each replacement works at the first try, and nothing is added to the chain.
  * No page can be replaced, because for none is the entry at its derived address the one at hand;
    and all descriptors of the chain have frames with the page's bytes. Page i fails once for each
    of the c descriptors and the i pages before it, and adds a descriptor.
  * It is one page, at home, and finds a frame with its bytes behind others that collide with it;
    or it finds none, and is tracked.

What is left goes page by page.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.content.checksums import Checksums
from dksmfs.kernel.dksm.table import NO_SLOT, Hashtable, Slots
from dksmfs.kernel.linear import Numbers
from dksmfs.kernel.memory.entries import ACCESSED, PRESENT, Flags
from dksmfs.kernel.memory.frames import Frames, Pfns, home
from dksmfs.kernel.memory.vma import Vma

MERGED: Final = PRESENT | ACCESSED  # the entry of a merged page: mk_pte, read-only and clean

_LONGEST_CHAIN: Final = 64  # descriptors of other frames: longer ones go page by page

Mask = npt.NDArray[np.bool_]
EntriesAt = Callable[[Numbers], tuple[Pfns, Flags]]  # the entries at virtual pages


@dataclass(frozen=True, slots=True)
class Batch:
    """Pages of one mapping; those with the same checksum stand together, by ascending address.

    `pfn` and `flags` are the entry of virtual page `vpn`. `twin` is a frame that is known to have
    the same bytes as `pfn`.
    """

    vpn: Numbers
    pfn: Pfns
    flags: Flags
    checksum: Checksums
    twin: Pfns

    def taken(self, positions: Numbers) -> "Batch":
        """The pages at some positions."""
        return Batch(
            self.vpn[positions], self.pfn[positions], self.flags[positions],
            self.checksum[positions], self.twin[positions],
        )  # fmt: skip

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

    @classmethod
    def of(cls, vpn: Numbers, pfn: Pfns, flags: Flags, checksum: Checksums, twin: Pfns) -> "Batch":
        """The batch of pages that are given in the order of their addresses."""
        batch = cls(vpn, pfn, flags, checksum, twin)
        together = _together(checksum)
        return batch if together is None else batch.taken(together)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a batch, by positions in it.

    `merged[i]` gets frame `targets[i]`; `tracked` get descriptors, in this order; `failed` attempts
    were made; `left` are not decided. `merged` and `left` ascend by address.
    """

    merged: Numbers
    targets: Pfns
    tracked: Numbers
    failed: int
    left: Numbers


class Decision:
    """The groups of a batch, and what is found out about them."""

    def __init__(self, frames: Frames, table: Hashtable, vma: Vma, batch: Batch) -> None:
        self._frames, self._table, self._vma, self._batch = frames, table, vma, batch
        starts = np.ones(len(batch.vpn), np.bool_)
        starts[1:] = batch.checksum[1:] != batch.checksum[:-1]
        self._first = np.flatnonzero(starts)
        self._group = np.cumsum(starts) - 1
        self._slots = table.newest(batch.checksum[self._first])
        fresh = self._slots == NO_SLOT
        self._leads = np.zeros(len(starts), np.bool_)  # those that are tracked, having no match
        self._leads[self._first[fresh]] = True
        self._target = np.where(fresh, batch.pfn[self._first], table.pfns(self._slots))[self._group]
        self._alike = self._leads | self._equal_to_target()
        self._at_home = self._find_at_home()

    def stale_heads(self) -> Slots:
        """The slots that the first page of each group finds stale before any that is not: whatever
        comes of that page, it drops them, and nothing in the batch can have changed them before."""
        found = [np.empty(0, np.int32)]
        groups = np.flatnonzero((self._slots != NO_SLOT) & ~self._alike[self._first])
        slots = self._slots[groups]
        while len(groups):
            targets = self._table.pfns(slots)
            stale = self._frames.mapcounts(targets) == 0
            live = np.flatnonzero(~stale)
            expected = self._batch.checksum[self._first[groups[live]]]
            stale[live] = self._frames.contents.checksums(targets[live]) != expected
            found.append(slots[stale])
            groups, slots = groups[stale], self._table.older(slots[stale])
            groups, slots = groups[slots != NO_SLOT], slots[slots != NO_SLOT]
        return np.concatenate(found)

    def first_outcome(self) -> Outcome:
        """Decide on the groups whose pages are at home."""
        merge = self._all_of_group(self._alike & (self._at_home | self._leads))
        return self._outcome(merge, np.zeros_like(merge), 0)

    def outcome(self, entries_at: EntriesAt) -> Outcome:
        """Decide on whatever can be decided; `entries_at` tells what is at other addresses."""
        self._look_behind_collisions()
        entries = self._derived_entries(entries_at)
        merge = self._all_of_group(
            self._alike & (self._at_home | self._leads | self._served(entries))
        )
        fails = self._alike & (self._leads | ~(self._at_home | self._has_entry(entries)))
        fail = ~merge & self._all_of_group(fails)
        alike, known = self._chains_alike(fail)
        fail &= alike
        return self._outcome(merge, fail, self._failures(fail, known))

    # --- facts about pages ------------------------------------------------------------------

    def _equal_to_target(self) -> Mask:
        equal = np.zeros(len(self._group), np.bool_)
        asked = ~self._leads & (self._frames.mapcounts(self._target) > 0)
        if asked.any():
            ask = self._batch.by_address(asked)  # so that adjacent pages are compared in one go
            equal[ask] = self._frames.contents.equal(self._batch.twin[ask], self._target[ask])
        return equal

    def _find_at_home(self) -> Mask:
        """Whether the address derived from each frame is the one its entry is at."""
        if self._vma.anon_vma is None:
            return np.zeros(len(self._group), np.bool_)
        here = home(self._vma.anon_vma.root, 0) + self._vma.pgoff - self._vma.start
        found: Mask = self._frames.homes(self._batch.pfn) == here + self._batch.vpn
        return found

    def _all_of_group(self, mask: Mask) -> Mask:
        """Whether the mask holds for all pages of each page's group."""
        holds = np.ones(len(self._first), np.bool_)
        holds[self._group[~mask]] = False
        all_hold: Mask = holds[self._group]
        return all_hold

    def _pages_of_groups(self, mask: Mask) -> Numbers:
        """How many pages of each group are in the mask."""
        return np.bincount(self._group[mask], minlength=len(self._first))

    # --- collisions -------------------------------------------------------------------------

    def _look_behind_collisions(self) -> None:
        """Where the target differs but has the page's checksum, try the next one in the chain; a
        page that comes to its end is tracked. That is for pages that are alone in their group: what
        one of several merges with may free a frame that another one was to pass by."""
        alone = np.diff(self._first, append=len(self._group)) == 1
        pages = np.flatnonzero(~self._alike & self._at_home & alone[self._group])
        slots = self._slots[self._group[pages]]
        while len(pages):
            collides = self._collides(pages)
            pages, slots = pages[collides], self._table.older(slots[collides])
            ended = pages[slots == NO_SLOT]
            self._leads[ended] = self._alike[ended] = True
            pages, slots = pages[slots != NO_SLOT], slots[slots != NO_SLOT]
            self._target[pages] = self._table.pfns(slots)
            mapped = self._frames.mapcounts(self._target[pages]) > 0
            pages, slots = pages[mapped], slots[mapped]
            found = self._frames.contents.equal(self._batch.pfn[pages], self._target[pages])
            self._alike[pages[found]] = True
            pages, slots = pages[~found], slots[~found]

    def _collides(self, pages: Numbers) -> Mask:
        """Whether the frame that was found to differ is mapped, and not stale."""
        target = self._target[pages]
        collides: Mask = self._frames.mapcounts(target) > 0
        checksums = self._frames.contents.checksums(target[collides])
        collides[collides] = checksums == self._batch.checksum[pages[collides]]
        return collides

    # --- pages that are not at home ---------------------------------------------------------

    def _derived_entries(self, entries_at: EntriesAt) -> tuple[Numbers, Pfns, Flags]:
        """The address derived from each page's frame, -1 if it is outside the mapping, and the
        entry there."""
        vma, batch = self._vma, self._batch
        vpn = np.full(len(batch.vpn), -1)
        if vma.anon_vma is not None:
            index = self._frames.homes(batch.pfn) - home(vma.anon_vma.root, 0)
            derived = vma.start + index - vma.pgoff
            inside = (index >= 0) & (derived >= vma.start) & (derived < vma.end)
            vpn[inside] = derived[inside]
        return vpn, *entries_at(vpn)

    def _has_entry(self, entries: tuple[Numbers, Pfns, Flags]) -> Mask:
        """Whether the entry at the derived address is the one at hand (pte_same)."""
        vpn, pfn, flags = entries
        same: Mask = (vpn >= 0) & (pfn == self._batch.pfn) & (flags == self._batch.flags)
        return same

    def _served(self, entries: tuple[Numbers, Pfns, Flags]) -> Mask:
        """Pages that are merged already, whose derived entry says the same when their turn comes:
        it does now, or a page at home, earlier in the group, will have become so by then."""
        batch, vpn = self._batch, entries[0]
        merged = (batch.pfn == self._target) & (batch.flags == MERGED)
        becomes = np.flatnonzero(self._at_home & ~self._leads)
        order = np.argsort(batch.vpn[becomes], kind="stable")
        addresses = batch.vpn[becomes][order]
        if not len(addresses):
            alone: Mask = merged & self._has_entry(entries)
            return alone
        near = np.minimum(np.searchsorted(addresses, vpn), len(addresses) - 1)
        page = becomes[order[near]]
        earlier = (batch.vpn[page] == vpn) & (vpn < batch.vpn) & (self._group[page] == self._group)
        served: Mask = merged & (self._has_entry(entries) | earlier)
        return served

    def _chains_alike(self, mask: Mask) -> tuple[Mask, Numbers]:
        """Of the groups in the mask: whether all descriptors have frames with their bytes, for each
        page, and how many descriptors there are, for each group."""
        groups = np.flatnonzero(self._pages_of_groups(mask))
        alike, counts = np.zeros(len(self._first), np.bool_), np.zeros(len(self._first), np.int64)
        alike[groups] = True
        slots, page = self._slots[groups], self._batch.pfn[self._first[groups]]
        for _ in range(_LONGEST_CHAIN):
            there = slots != NO_SLOT
            groups, slots, page = groups[there], slots[there], page[there]
            if not len(groups):
                break
            pfns = self._table.pfns(slots)
            same = self._frames.mapcounts(pfns) > 0
            same[same] = self._frames.contents.equal(page[same], pfns[same])
            alike[groups[~same]] = False
            counts[groups] += self._table.counts(slots)
            slots = self._table.older(slots)
        alike[groups[slots != NO_SLOT]] = False
        return alike[self._group], counts

    # --- the outcome ------------------------------------------------------------------------

    def _outcome(self, merge: Mask, fail: Mask, failed: int) -> Outcome:
        merged = self._batch.by_address(merge & ~self._leads)
        return Outcome(
            merged,
            self._target[merged],
            np.flatnonzero(merge & self._leads | fail),
            failed,
            self._batch.by_address(~(merge | fail)),
        )

    def _failures(self, fail: Mask, known: Numbers) -> int:
        """Page i of a group fails for each of the `known` descriptors, and for i new ones."""
        pages = self._pages_of_groups(fail)
        return int((pages * known + pages * (pages - 1) // 2).sum())


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
