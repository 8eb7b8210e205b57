"""The page descriptors that the pages of a batch come by, and what is kept of long chains.

A chain may have as many descriptors as memory has pages, and each batch of those pages comes by all
of them. So of long chains it is kept how many live descriptors there are of each hash and which one
is the newest, as long as nothing changes but what the batches themselves do. Then only descriptors
that were added since are looked at.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dksmfs.kernel.content.xxh64 import Checksums, Hashes, checksums_of
from dksmfs.kernel.dksm.engine import Dksm
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import distinct, starts
from dksmfs.kernel.units import Mask, Numbers, Pfns

_LONG: Final = 64  # descriptors that make a chain worth keeping
_KEPT_AT_ONCE: Final = 1 << 13  # descriptors that are looked at between pauses


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Descriptors of some chains: a row for each slot, or for all live ones of one hash.

    `group` tells the chains apart. Of rows with one hash the newest comes first; `slot` and `pfn`
    are those of the newest descriptor in a row, `count` says how many there are. `hash` is that of
    the frame, if it is `live`.
    """

    slot: Numbers
    group: Numbers
    pfn: Pfns
    count: Numbers
    live: Mask
    hash: Hashes

    def taken(self, rows: Numbers | Mask) -> "Descriptors":
        """Some of the rows."""
        return Descriptors(
            self.slot[rows], self.group[rows], self.pfn[rows],
            self.count[rows], self.live[rows], self.hash[rows],
        )  # fmt: skip

    def and_then(self, other: "Descriptors") -> "Descriptors":
        """These rows, and those of `other` behind them."""
        pairs = zip(self.columns(), other.columns(), strict=True)
        return Descriptors(*(np.concatenate(pair) for pair in pairs))

    def columns(self) -> tuple[Numbers, Numbers, Pfns, Numbers, Mask, Hashes]:
        """All columns."""
        return self.slot, self.group, self.pfn, self.count, self.live, self.hash

    @classmethod
    def none(cls) -> "Descriptors":
        """No rows."""
        empty = np.empty(0, np.int64)
        return cls(empty, empty, empty, empty, np.empty(0, np.bool_), np.empty(0, np.uint64))

    def joined(self) -> "Descriptors":
        """A row for all live descriptors of one hash, by ascending hash."""
        live = self.taken(self.live)
        order = np.argsort(live.hash, kind="stable")
        begins = np.flatnonzero(starts(live.hash[order]))
        joined = live.taken(order[begins])
        count = np.add.reduceat(live.count[order], begins) if len(begins) else joined.count
        return replace(joined, count=count)


class Chains:
    """Finds descriptors. The group of what is kept of a chain is the chain's checksum."""

    def __init__(self, dksm: Dksm) -> None:
        self._dksm = dksm
        self._version = -1
        self._hashes_tell = True  # whether different bytes were never seen to have one hash
        self._forget()

    def _forget(self) -> None:
        self._newest: dict[int, int] = {}  # of each chain: the slot before which all is kept
        self._kept = Descriptors.none()  # the live ones, joined
        self._stale = Descriptors.none()

    def begin(self) -> None:
        """A batch begins."""
        frames = self._dksm.frames
        if self._version != frames.version.number or not frames.contents.all_stable:
            self._forget()

    def end(self, *, same: bool) -> None:
        """A batch has been carried out; `same` tells that it has only added descriptors, and
        dropped stale ones."""
        self._version = self._dksm.frames.version.number if same else -1

    def find(self, checksums: Checksums, wanted: Hashes) -> Work[Descriptors]:
        """The descriptors with each of the checksums, a group for each. Of what is kept, only those
        with a hash that is `wanted`, and stale ones."""
        newest = np.zeros(len(checksums), np.int64)
        if self._newest:
            newest[:] = [self._newest.get(one, 0) for one in checksums.tolist()]
        slot, group = self._dksm.table.chains(checksums, newest)
        first = starts(group)
        long = (np.bincount(group, minlength=len(checksums)) >= _LONG) | (newest > 0)
        if not (long.any() and self._dksm.frames.contents.all_stable and self._hashes_tell):
            return (yield from self._examine(checksums, slot, group))
        # The newest descriptor of a chain may be counted again, and is looked at each time.
        older = long[group] & ~first
        yield from self._keep(checksums, slot[older], group[older])
        if not self._hashes_tell:
            return (yield from self.find_all(checksums))
        top = long[group] & first
        named = checksums[group[top]].tolist()
        self._newest.update(zip(named, slot[top].tolist(), strict=True))
        others = yield from self._examine(checksums, slot[~older], group[~older])
        return others.and_then(self._find_kept(checksums, wanted))

    def find_all(self, checksums: Checksums) -> Work[Descriptors]:
        """The descriptors with each of the checksums, a row for each slot."""
        slot, group = self._dksm.table.chains(checksums, np.zeros(len(checksums), np.int64))
        return (yield from self._examine(checksums, slot, group))

    def _examine(self, checksums: Checksums, slot: Numbers, group: Numbers) -> Work[Descriptors]:
        frames, table = self._dksm.frames, self._dksm.table
        pfn = table.pfns(slot)
        live = frames.mapcounts(pfn) > 0
        hashes = np.zeros(len(slot), np.uint64)
        hashes[live], _ = yield from frames.hashes.examine(pfn[live])
        live &= checksums_of(hashes, frames.hashes.checksum_bits) == checksums[group]
        return Descriptors(slot, group, pfn, table.counts(slot), live, hashes)

    def _find_kept(self, checksums: Checksums, wanted: Hashes) -> Descriptors:
        wanted = distinct(wanted)
        row = np.searchsorted(self._kept.hash, wanted)
        there = row < len(self._kept.hash)
        there[there] = self._kept.hash[row[there]] == wanted[there]
        row = row[there]
        stale = np.isin(self._stale.group, checksums)
        found = self._kept.taken(row).and_then(self._stale.taken(stale))
        order = np.argsort(checksums)
        group = order[np.searchsorted(checksums[order], found.group)]
        return replace(found, group=group)

    def _keep(self, checksums: Checksums, slot: Numbers, group: Numbers) -> Work[None]:
        """Keep more descriptors, which are newer than those that are kept of their chains."""
        for end in range(len(slot), 0, -_KEPT_AT_ONCE):
            some = slice(max(end - _KEPT_AT_ONCE, 0), end)
            added = yield from self._examine(checksums, slot[some], group[some])
            added = replace(added, group=checksums[added.group].astype(np.int64))
            self._stale = self._stale.and_then(added.taken(~added.live))
            every = added.taken(added.live).and_then(self._kept)
            self._kept = every.joined()
            of = np.searchsorted(self._kept.hash, every.hash)
            if not self._dksm.frames.contents.equal(every.pfn, self._kept.pfn[of]).all():
                self._forget()
                self._hashes_tell = False
                return
            yield

    def drop(self, stale: Numbers) -> None:
        """Stale descriptors were removed from the table."""
        if len(self._stale.slot):
            self._stale = self._stale.taken(~np.isin(self._stale.slot, stale))
