"""Thousands of pages at once, in groups of one checksum.

Exact, as only pages and descriptors with one and the same checksum affect each other. So the order
in which groups are taken does not matter; within a group pages are taken in the order of their
addresses. First those groups are decided on whose outcome is plain (`plain`); then those with any
chain of descriptors, as long as no page changes what a later one finds (`chains`). The pages of
other groups take turns (`turns`).
"""

from typing import Final

import numpy as np

from dksmfs.kernel.content.xxh64 import checksums_of
from dksmfs.kernel.dksm.batch import Batch, Outcome, derived_vpns
from dksmfs.kernel.dksm.chains import Classes, decide_chains
from dksmfs.kernel.dksm.descriptors import Chains
from dksmfs.kernel.dksm.engine import Dksm, MergeShortcut
from dksmfs.kernel.dksm.plain import decide_plain
from dksmfs.kernel.dksm.turns import Turns
from dksmfs.kernel.dksm.walk import Stretch, Walk
from dksmfs.kernel.memory.address_space import AddressSpace
from dksmfs.kernel.memory.entries import Flags
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.units import HUGE_PAGES, Numbers, Pfns

BATCH_PAGES: Final = 16 * HUGE_PAGES
"""Pages that are decided on together, which takes about a millisecond."""


class Batches(MergeShortcut):
    """Decides on pages by the thousand."""

    def __init__(self, dksm: Dksm) -> None:
        super().__init__(dksm)
        self._chains = Chains(dksm)

    def advertise(self, walk: Walk) -> Work[int]:
        dksm, mm, stretches = self.dksm, walk.mm, walk.next(BATCH_PAGES)
        merged_before = dksm.pages_merged
        vpns, pfns, flags = _entries(mm, stretches)
        passed = dksm.passes(pfns, flags)
        dksm.merging_failed += len(pfns) - int(np.count_nonzero(passed))
        if passed.any():
            hashes, twins = yield from dksm.frames.hashes.examine(pfns[passed])
            checksums = checksums_of(hashes, dksm.frames.hashes.checksum_bits)
            pages = np.array([stretch.pages for stretch in stretches])
            derived = derived_vpns(dksm.frames, stretches, pfns, pages)[passed]
            batch = Batch(
                vpns[passed], pfns[passed], flags[passed], checksums, hashes, twins, derived
            )
            yield from dksm.table.reserve(len(batch))
            yield from self._decide(mm, batch.grouped())
        if dksm.pages_merged - merged_before == len(pfns):
            for _, low, high in stretches:
                mm.tables.join(low, high)
        return len(pfns)

    def _decide(self, mm: AddressSpace, batch: Batch) -> Work[None]:
        self._chains.begin()
        outcome = decide_plain(self.dksm, batch)
        same = self._apply(mm, batch, outcome)
        yield
        if len(outcome.left):
            batch = batch.taken(np.sort(outcome.left))
            outcome = yield from decide_chains(self.dksm, self._chains, mm, batch)
            same &= self._apply(mm, batch, outcome) and not len(outcome.left)
            yield
            if len(outcome.left):
                yield from self._take_turns(mm, batch.taken(np.sort(outcome.left)))
        self._chains.end(same=same)

    def _take_turns(self, mm: AddressSpace, batch: Batch) -> Work[None]:
        """Advertise pages that depend on each other."""
        dksm = self.dksm
        first, group = batch.groups()
        descriptors = yield from self._chains.find_all(batch.checksum[first])
        classes = Classes(dksm.frames, batch, group, descriptors)
        if classes.mixed.any():  # different bytes have one hash, or they have just changed
            yield from self._advertise_each(mm, batch)
            return
        turns = Turns(dksm, mm, batch, group, descriptors, classes)
        yield from turns.take()
        turns.apply(dksm)

    def _advertise_each(self, mm: AddressSpace, batch: Batch) -> Work[None]:
        for vpn in batch.vpn.tolist():
            vma = mm.vmas.at(vpn)
            assert vma is not None
            self.dksm.advertise_page(mm, vma, vpn)
            yield

    def _apply(self, mm: AddressSpace, batch: Batch, outcome: Outcome) -> bool:
        """Carry out what was decided; tells whether no frame was freed that a descriptor names."""
        dksm, merged, tracked = self.dksm, outcome.merged, outcome.tracked
        dksm.drop(outcome.stale)
        self._chains.drop(outcome.stale)
        version = dksm.frames.version.number
        if len(merged):
            dksm.merge(mm, batch.vpn[merged], batch.pfn[merged], outcome.targets)
        freed = dksm.frames.version.number != version
        dksm.track(batch.checksum[tracked], batch.pfn[tracked])
        dksm.pages_scanned += len(merged) + len(tracked)
        dksm.pages_merged += len(merged)
        dksm.merging_failed += outcome.failed
        return not freed


def _entries(mm: AddressSpace, stretches: list[Stretch]) -> tuple[Numbers, Pfns, Flags]:
    """The pages of some stretches, whose huge pages are split; and the entry of each."""
    vpns, pfns, flags = [], [], []
    for _, low, high in stretches:
        mm.split_huge_pages(low, high)
        entries = mm.tables.entries(low, high)
        vpns.append(np.arange(low, high))
        pfns.append(entries[0])
        flags.append(entries[1])
    return np.concatenate(vpns), np.concatenate(pfns), np.concatenate(flags)
