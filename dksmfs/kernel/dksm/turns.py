"""Groups of pages that change what others of them find.

Exact, as pages take turns here as they do in the engine, by the same rules. But bytes have been
compared before: which pages and descriptors have equal bytes, and so are of one class, is known.
And nothing is changed until all have had their turn: what became of entries, descriptors and
frames meanwhile is noted beside them.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Final

import numpy as np

from dksmfs.kernel.dksm.batch import Batch
from dksmfs.kernel.dksm.chains import Classes, has_entry
from dksmfs.kernel.dksm.descriptors import Descriptors
from dksmfs.kernel.dksm.engine import MERGED, Dksm, derived_vpn
from dksmfs.kernel.dksm.table import NEWER_THAN_ALL
from dksmfs.kernel.memory.address_space import AddressSpace
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import distinct
from dksmfs.kernel.units import Numbers, Pfn, Vpn

_PAGES_AT_ONCE: Final = 128  # that take turns between pauses

Entry = tuple[Pfn, int]  # pfn and flags


@dataclass(slots=True)
class _Class:
    """The live descriptors with equal bytes: how many there are, and (slot, pfn) of each slot, the
    newest last; those of frames that were freed meanwhile are still there."""

    count: int = 0
    slots: list[tuple[int, Pfn]] = field(default_factory=list)


class Turns:
    """The state while pages of a batch take turns, and what comes of it."""

    def __init__(
        self,
        dksm: Dksm,
        mm: AddressSpace,
        batch: Batch,
        group: Numbers,
        descriptors: Descriptors,
        classes: Classes,
    ) -> None:
        self._mm, self._frames = mm, dksm.frames
        self._batch = batch
        self._group = group.tolist()
        self._class_of = classes.of_page.tolist()
        self._classes: dict[int, _Class] = defaultdict(_Class)
        self._named: dict[Pfn, list[tuple[int, int]]] = defaultdict(list)  # (slot, count) by pfn
        self._stale: dict[int, list[int]] = defaultdict(list)  # -slot, a heap for each group
        self._mapcount: dict[Pfn, int] = {}
        self._changed: dict[Vpn, Entry] = {}  # entries by virtual page
        self._gets: list[Pfn] = []
        self._puts: list[Pfn] = []
        self._tracked: list[tuple[int, Pfn] | None] = []  # position and pfn
        self._dropped: list[int] = []
        self.merged = self.failed = 0
        self._enter(descriptors, classes)

    def _enter(self, descriptors: Descriptors, classes: Classes) -> None:
        live = np.flatnonzero(descriptors.live)[::-1]  # the oldest first
        rows = zip(
            descriptors.slot[live].tolist(), descriptors.pfn[live].tolist(),
            descriptors.count[live].tolist(), classes.of_descriptor[::-1].tolist(), strict=True,
        )  # fmt: skip
        for slot, pfn, count, number in rows:
            self._add(number, slot, pfn, count)
        stale = ~descriptors.live
        for group, slot in zip(
            descriptors.group[stale].tolist(), descriptors.slot[stale].tolist(), strict=True
        ):
            self._stale[group].append(-slot)
        for slots in self._stale.values():
            heapify(slots)
        pfns = distinct(np.concatenate([self._batch.pfn, descriptors.pfn[live]]))
        self._mapcount.update(
            zip(pfns.tolist(), self._frames.mapcounts(pfns).tolist(), strict=True)
        )

    def _add(self, number: int, slot: int, pfn: Pfn, count: int) -> None:
        of_class = self._classes[number]
        of_class.count += count
        of_class.slots.append((slot, pfn))
        self._named[pfn].append((slot, count))

    def take(self) -> Work[None]:
        """All pages take their turns."""
        batch, matches = self._batch, has_entry(self._mm, self._batch).tolist()
        pages = zip(
            batch.vpn.tolist(), batch.pfn.tolist(), batch.flags.tolist(), batch.derived.tolist(),
            strict=True,
        )  # fmt: skip
        for position, (vpn, pfn, flags, derived) in enumerate(pages):
            if position % _PAGES_AT_ONCE == 0:
                yield
            entry, replaceable = (pfn, flags), matches[position]
            if vpn in self._changed:
                entry = self._changed[vpn]
                derived = self._derive(vpn, entry[0])
                replaceable = derived is not None and self._at(derived) == entry
            elif derived in self._changed:
                replaceable = self._changed[derived] == entry
            self._take_turn(position, entry, derived, replaceable=replaceable)

    def _derive(self, vpn: Vpn, pfn: Pfn) -> Vpn | None:
        """The virtual page derived from a frame that the page at `vpn` is mapped to."""
        vma = self._mm.vmas.at(vpn)
        assert vma is not None
        return derived_vpn(self._frames, vma, pfn)

    def _at(self, vpn: Vpn) -> Entry:
        return self._changed.get(vpn) or self._mm.tables.entry(vpn)

    def _take_turn(self, position: int, entry: Entry, derived: Vpn, *, replaceable: bool) -> None:
        number, group = self._class_of[position], self._group[position]
        of_class = self._classes[number]
        if of_class.count and replaceable:
            while not self._mapcount[of_class.slots[-1][1]]:
                of_class.slots.pop()
            slot, target = of_class.slots[-1]
            self._pass_by(group, slot)
            self._replace(group, of_class, derived, entry[0], target)
            return
        self.failed += of_class.count
        self._pass_by(group, -1)
        self._add(number, NEWER_THAN_ALL + len(self._tracked), entry[0], 1)
        self._tracked.append((position, entry[0]))

    def _replace(self, group: int, of_class: _Class, vpn: Vpn, pfn: Pfn, target: Pfn) -> None:
        self.merged += 1
        self._changed[vpn] = (target, MERGED)
        if pfn == target:
            return
        self._gets.append(target)
        self._puts.append(pfn)
        self._mapcount[target] += 1
        self._mapcount[pfn] -= 1
        if not self._mapcount[pfn]:
            for slot, count in self._named.get(pfn, ()):
                of_class.count -= count
                heappush(self._stale[group], -slot)

    def _pass_by(self, group: int, slot: int) -> None:
        """Drop the stale descriptors of a group that are newer than `slot`."""
        stale = self._stale.get(group)
        while stale and -stale[0] > slot:
            dropped = -heappop(stale)
            if dropped < NEWER_THAN_ALL:
                self._dropped.append(dropped)
            else:
                self._tracked[dropped - NEWER_THAN_ALL] = None

    def apply(self, dksm: Dksm) -> None:
        """Carry out what the turns have changed."""
        dksm.drop(np.array(self._dropped, np.int64))
        if self._gets:
            self._frames.get(np.array(self._gets))
            self._frames.put(np.array(self._puts))
        if self._changed:
            vpns = np.array(sorted(self._changed))
            targets = np.array([self._changed[vpn][0] for vpn in vpns.tolist()])
            self._mm.tables.set_entries(vpns, targets, MERGED)
        kept = [one for one in self._tracked if one is not None]
        tracked = np.array(kept, np.int64).reshape(-1, 2)
        dksm.track(self._batch.checksum[tracked[:, 0]], tracked[:, 1])
        dksm.pages_scanned += len(self._batch)
        dksm.pages_merged += self.merged
        dksm.merging_failed += self.failed
