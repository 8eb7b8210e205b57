"""The merge engine: what MADV_MERGEABLE does to the pages of a process.

DKSM has no daemon and no list of candidates. At `madvise(MADV_MERGEABLE)` it walks the page-table
entries of the range, in ascending order, and for each small, accessible, anonymous page:

  * takes the checksum of its content, and goes along the chain of page descriptors with that
    checksum, newest first;
  * drops descriptors that are stale: their frame is free, or has another checksum by now;
  * compares the bytes with those of the descriptor's frame, and if they are equal tries to let
    the page's entry point to that frame; if that works the page is merged;
  * if nothing worked, adds a descriptor of the page, for others to merge with later.

Two things follow from how the kernel replaces an entry (replace_page). It does not use the
address it is at, but derives one from the frame: the family (root anon_vma) and page offset under
which the frame was first mapped. The entry at that address must be bit for bit the one at hand, so
a page that is not at home, because it was merged before, usually fails. And the frame merged with
is not write-protected: its owner goes on writing to it, and all sharers see that.

`_advertise_page` is these rules, page by page. Where the outcome is known in advance, many pages
are done at once: see `batch`, and `again` for regions that are the same as one before.
"""

import errno
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from typing import Final

import numpy as np

from dksmfs.kernel.content.checksums import Checksums
from dksmfs.kernel.dksm.batches import MERGED, Batch, Decision, Outcome
from dksmfs.kernel.dksm.known_merges import Again, Version, origin_of
from dksmfs.kernel.dksm.table import HASHTABLE_SIZE, Hashtable, Slots
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.linear import Numbers, compact
from dksmfs.kernel.memory.address_space import AddressSpace, Memory
from dksmfs.kernel.memory.entries import PRESENT, PROTNONE, Flags
from dksmfs.kernel.memory.frames import Pfns, home_pgoff
from dksmfs.kernel.memory.vma import Kind, Vma
from dksmfs.kernel.units import HUGE_PAGES

BATCH_PAGES: Final = 64 * HUGE_PAGES
"""Pages that are decided on together."""

SLICED_BATCH_PAGES: Final = 16 * HUGE_PAGES
"""... where somebody waits for the pauses: they come every millisecond or so then."""

_STRETCH_PAGES: Final = 1 << 20  # pages of a region that is like one before, done at once
_SINGLE_PAGES: Final = 32  # taken one by one between pauses


class Verdict(Enum):
    """What a page descriptor is worth to a page with the same checksum."""

    STALE = "its frame is free, or has other content by now"
    COLLISION = "its frame has other bytes"
    EQUAL = "its frame has the same bytes"


class Dksm:
    """The state of DKSM: the switch, the counters, the table."""

    hashtable_size = HASHTABLE_SIZE

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._table = Hashtable()
        self._again = Again()
        self.run = 0
        self.pages_scanned = 0
        self.pages_merged = 0
        self.merging_failed = 0

    @property
    def hashtable_entries(self) -> int:
        """Page descriptors in the table, stale ones included."""
        return len(self._table)

    def set_run(self, value: int) -> None:
        """Start (1) or stop (0). Stopping forgets all descriptors and counts; merged pages stay."""
        if value not in (0, 1):
            raise kernel_error(errno.EINVAL, "run is 0 or 1")
        if self.run and not value:
            self.pages_scanned = self.pages_merged = self.merging_failed = 0
            self._table = Hashtable()
            self._again = Again()
            self._memory.frames.untrack_all()
        self.run = value

    def advertise(
        self, mm: AddressSpace, vma: Vma, first: int, last: int, batch_pages: int
    ) -> Iterator[None]:
        """Merge or track virtual pages `first` to `last` - 1 of `vma`, so many at once; yields
        where others may look at the machine."""
        if not self.run or vma.kind is Kind.HUGETLB:
            return
        for low, high in mm.tables.stretches(first, last, _STRETCH_PAGES):
            merged = self._again.merge(mm, vma, low, high, self._version)
            self.pages_scanned += merged
            self.pages_merged += merged
            yield
            for start, end in mm.tables.stretches(low + merged, high, batch_pages):
                yield from self._advertise_stretch(mm, vma, start, end)
                yield

    @property
    def _version(self) -> Version:
        """Changes whenever an outcome may change that is known from before."""
        frames = self._memory.frames
        return self._table.version, frames.version, frames.contents.version

    def _advertise_stretch(self, mm: AddressSpace, vma: Vma, low: int, high: int) -> Iterator[None]:
        """Reject what cannot be merged, and advertise the rest."""
        origin, before = origin_of(mm, vma, low, high), (self._version, self.pages_merged)
        mm.split_huge_pages(low, high)
        pfns, flags = mm.tables.entries(low, high)
        passed = self._passing(pfns, flags)
        self.merging_failed += len(pfns) - len(passed)
        if not len(passed):
            return
        checksums, twins = yield from self._memory.frames.contents.examine(pfns[passed])
        yield from self._table.reserve(len(passed))
        batch = Batch.of(low + passed, pfns[passed], flags[passed], checksums, twins)
        decision = Decision(self._memory.frames, self._table, vma, batch)
        yield
        stale = decision.stale_heads()
        if len(stale):
            self._drop(stale)
            decision = Decision(self._memory.frames, self._table, vma, batch)
            yield
        outcome = decision.first_outcome()
        self._apply(mm, batch, outcome)
        if len(outcome.left):
            yield
            if len(outcome.left) < len(passed):
                batch = batch.taken(np.sort(outcome.left))
                decision = Decision(self._memory.frames, self._table, vma, batch)
            yield from self._advertise_left(mm, vma, batch, decision)
        if (self._version, self.pages_merged - len(pfns)) == before:
            mm.tables.join(low, high)
            if origin is not None:
                self._again.note(origin, mm.tables.entries(low, high)[0], self._version)

    def _passing(self, pfns: Pfns, flags: Flags) -> Numbers:
        """The positions of pages that are present, accessible, anonymous (the zero page is not),
        and not part of a huge page."""
        frames = self._memory.frames
        passing = flags & (PRESENT | PROTNONE) == PRESENT
        passing &= frames.anonymous(pfns) & ~frames.compound(pfns)
        return np.flatnonzero(passing)

    def _apply(self, mm: AddressSpace, batch: Batch, outcome: Outcome) -> None:
        """Let entries, counts and the table become what was decided."""
        frames, merged, tracked = self._memory.frames, outcome.merged, outcome.tracked
        if len(merged):
            frames.get(compact(outcome.targets))
            frames.put(compact(batch.pfn[merged]))
            mm.tables.set_entries(batch.vpn[merged], outcome.targets, MERGED)
        self._track(batch.checksum[tracked], batch.pfn[tracked])
        self.pages_scanned += len(merged) + len(tracked)
        self.pages_merged += len(merged)
        self.merging_failed += outcome.failed

    def _track(self, checksums: Checksums, pfns: Pfns) -> None:
        if len(pfns):
            new = self._table.add(checksums, pfns)
            self._memory.frames.track(compact(pfns[new]))

    def _drop(self, slots: Slots) -> None:
        """Remove stale descriptors; frames that nothing names any more can be used again."""
        frames = self._table.pfns(slots)
        self._table.remove(slots)
        self._memory.frames.untrack(frames)

    # --- what is left -----------------------------------------------------------------------

    def _advertise_left(
        self, mm: AddressSpace, vma: Vma, batch: Batch, decision: Decision
    ) -> Iterator[None]:
        """Advertise pages that are not at home, or that not all are alike."""
        outcome = decision.outcome(mm.tables.entries_at)
        self._apply(mm, batch, outcome)
        yield
        left = outcome.left
        pages = zip(batch.vpn[left].tolist(), batch.checksum[left].tolist(), strict=True)
        for count, (vpn, checksum) in enumerate(pages, 1):
            self._advertise_page(mm, vma, vpn, checksum)
            if count % _SINGLE_PAGES == 0:
                yield

    def _advertise_page(self, mm: AddressSpace, vma: Vma, vpn: int, checksum: int) -> None:
        """Look one page up, and merge or track it."""
        pfn, flags = mm.tables.entry(vpn)
        self.pages_scanned += 1
        for slot, other, count in self._table.chain(checksum):
            verdict = self._judge(pfn, checksum, other)
            if verdict is Verdict.STALE:
                self._drop(np.array([slot]))
            elif verdict is Verdict.EQUAL:
                if self._replace(mm, vma, pfn, flags, other):
                    self.pages_merged += 1
                    return
                self.merging_failed += count
        self._track(np.array([checksum], np.uint32), np.array([pfn]))

    def _judge(self, pfn: int, checksum: int, other: int) -> Verdict:
        """What a descriptor of frame `other` is to a page with the same checksum."""
        contents = self._memory.frames.contents
        page, candidate = np.array([pfn]), np.array([other])
        if not self._memory.frames.mapcounts(candidate)[0]:
            return Verdict.STALE
        if contents.checksums(candidate)[0] != checksum:
            return Verdict.STALE
        return Verdict.EQUAL if contents.equal(page, candidate)[0] else Verdict.COLLISION

    def _replace(self, mm: AddressSpace, vma: Vma, pfn: int, flags: int, target: int) -> bool:
        """Let the entry at the address derived from frame `pfn` point to `target`, if that entry
        is `pfn` and `flags` (page_address_in_vma, pte_same)."""
        frames = self._memory.frames
        place = int(frames.homes(np.array([pfn]))[0])
        pgoff = None if vma.anon_vma is None else home_pgoff(place, vma.anon_vma.root)
        if pgoff is None:
            return False
        vpn = vma.start + pgoff - vma.pgoff
        if not vma.start <= vpn < vma.end or mm.tables.entry(vpn) != (pfn, flags):
            return False
        frames.get(range(target, target + 1))
        frames.put(range(pfn, pfn + 1))
        mm.tables.set_entries(np.array([vpn]), np.array([target]), MERGED)
        return True

    def check_invariants(self) -> None:
        """Assert that each frame counts its descriptors, and that counters fit together."""
        self._memory.frames.check_tracked(Counter(self._table.frames().tolist()))
        assert self.pages_merged <= self.pages_scanned
        if not self.run:
            counters = (
                self.pages_scanned,
                self.pages_merged,
                self.merging_failed,
                len(self._table),
            )
            assert counters == (0, 0, 0, 0), "a stopped DKSM shows zeros"
