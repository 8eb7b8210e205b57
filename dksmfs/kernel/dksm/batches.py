"""Thousands of pages at once, in groups of one checksum.

Exact, as only pages and descriptors with one and the same checksum affect each other. So the order
in which groups are taken does not matter; within a group pages are taken in the order of their
addresses. First those groups are decided on whose outcome is plain (`plain`); then those with any
chain of descriptors, as long as no page changes what a later one finds (`chains`). The pages of
other groups go through the rules one by one.
"""

from typing import Final

import numpy as np

from dksmfs.kernel.content.hashes import checksums_of
from dksmfs.kernel.dksm.batch import Batch, Outcome
from dksmfs.kernel.dksm.chains import decide_chains
from dksmfs.kernel.dksm.descriptors import Chains
from dksmfs.kernel.dksm.engine import Dksm, MergeShortcut
from dksmfs.kernel.dksm.plain import decide_plain
from dksmfs.kernel.memory.address_space import AddressSpace
from dksmfs.kernel.memory.vma import Vma
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.units import HUGE_PAGES

BATCH_PAGES: Final = 16 * HUGE_PAGES
"""Pages that are decided on together, which takes about a millisecond."""


class Batches(MergeShortcut):
    """Decides on pages by the thousand."""

    def __init__(self, dksm: Dksm) -> None:
        super().__init__(dksm)
        self._chains = Chains(dksm)

    def advertise(self, mm: AddressSpace, vma: Vma, low: int, high: int) -> Work[int]:
        high = min(high, low + BATCH_PAGES)
        merged_before = self.dksm.pages_merged
        mm.split_huge_pages(low, high)
        pfns, flags = mm.tables.entries(low, high)
        passed = np.flatnonzero(self.dksm.passes(pfns, flags))
        self.dksm.merging_failed += len(pfns) - len(passed)
        if len(passed):
            hashes, twins = yield from self.dksm.frames.hashes.examine(pfns[passed])
            checksums = checksums_of(hashes, self.dksm.frames.hashes.checksum_bits)
            batch = Batch(low + passed, pfns[passed], flags[passed], checksums, hashes, twins)
            yield from self.dksm.table.reserve(len(passed))
            yield from self._decide(mm, vma, batch.grouped())
        if self.dksm.pages_merged - merged_before == high - low:
            mm.tables.join(low, high)
        return high - low

    def _decide(self, mm: AddressSpace, vma: Vma, batch: Batch) -> Work[None]:
        self._chains.begin()
        outcome = decide_plain(self.dksm, vma, batch)
        same = self._apply(mm, batch, outcome)
        yield
        if len(outcome.left):
            batch = batch.taken(np.sort(outcome.left))
            outcome = yield from decide_chains(self.dksm, self._chains, mm, vma, batch)
            same &= self._apply(mm, batch, outcome) and not len(outcome.left)
            yield
            for vpn in batch.vpn[outcome.left].tolist():
                self.dksm.advertise_page(mm, vma, vpn)
                yield
        self._chains.end(same=same)

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
