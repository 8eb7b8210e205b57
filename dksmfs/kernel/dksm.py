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

`_advertise_page` is these rules, page by page. `_advertise_batch` does many pages at once where
the outcome is known in advance. That is exact: only pages and descriptors with the same checksum
affect each other, so pages can be taken in groups of one checksum, in any order of the groups.
"""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.content import Checksums
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.frames import COMPOUND, HUGE_PAGES, Pfns
from dksmfs.kernel.hashtable import HASHTABLE_SIZE, NO_DESCRIPTOR, Hashtable
from dksmfs.kernel.mm import AddressSpace, Memory
from dksmfs.kernel.paging import ACCESSED, PRESENT, PROTNONE, Flags, PageTable, Span
from dksmfs.kernel.vma import Kind, Vma

MERGED = PRESENT | ACCESSED  # the entry of a merged page: mk_pte, read-only and clean
SLICE_TABLES = 2  # page tables (1024 pages, a millisecond or two) between two looks at the readers
WHOLE_TABLES = 128  # ... where nobody looks: larger batches cost a tenth less a page
_SLICE_PAGES = 32  # pages between two looks where they are taken one by one

Mask = npt.NDArray[np.bool_]


class Verdict(Enum):
    """What a page descriptor is worth to a page with the same checksum."""

    STALE = "its frame is free, or has other content by now"
    COLLISION = "its frame has other bytes"
    EQUAL = "its frame has the same bytes"


@dataclass(slots=True)
class Batch:
    """The entries of a part of one mapping: virtual page, frame and flags of each."""

    vpn: npt.NDArray[np.int64]
    pfn: Pfns
    flags: Flags


class Dksm:
    """The state of DKSM: the switch, the counters, the table."""

    hashtable_size = HASHTABLE_SIZE

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._table = Hashtable()
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
            self._memory.frames.untrack_all()
        self.run = value

    def advertise(
        self, mm: AddressSpace, vma: Vma, start: int, end: int, slice_tables: int
    ) -> Iterator[None]:
        """Merge or track virtual pages `start` to `end` - 1 of `vma`; yields between slices of so
        many page tables or less."""
        if not self.run or vma.kind is Kind.HUGETLB:
            return
        tables = [span for span, _ in mm.tables.existing(start, end)]
        for at in range(0, len(tables), slice_tables):
            yield from self._advertise_slice(mm, vma, tables[at : at + slice_tables])
            yield

    def _advertise_slice(self, mm: AddressSpace, vma: Vma, slice_: list[Span]) -> Iterator[None]:
        """Reject what cannot be merged, and advertise the rest."""
        tables = [(span, mm.table(span.area)) for span in slice_]
        batch = Batch(
            np.concatenate([np.arange(span.start, span.end) for span, _ in tables]),
            np.concatenate([table.pfn[span.low : span.high] for span, table in tables]).astype(
                np.int64
            ),
            np.concatenate([table.flags[span.low : span.high] for span, table in tables]),
        )
        accepted = self._accepted(batch)
        self.merging_failed += int(np.count_nonzero(~accepted))
        candidates = Batch(batch.vpn[accepted], batch.pfn[accepted], batch.flags[accepted])
        if not len(candidates.vpn):
            return
        merged = self._advertise_batch(vma, candidates)
        batch.pfn[accepted], batch.flags[accepted] = candidates.pfn, candidates.flags
        if merged.any():
            _store(tables, batch)
        for count, vpn in enumerate(candidates.vpn[~merged].tolist(), 1):
            self._advertise_page(mm, vma, vpn)
            if count % _SLICE_PAGES == 0:
                yield

    def _accepted(self, batch: Batch) -> Mask:
        """Present, accessible, anonymous (the zero page is not), and not part of a huge page."""
        frames = self._memory.frames
        accepted: Mask = (
            (batch.flags & (PRESENT | PROTNONE) == PRESENT)
            & (frames.anon_vma[batch.pfn] != 0)
            & (frames.flags[batch.pfn] & COMPOUND == 0)
        )
        return accepted

    # --- many pages at once -----------------------------------------------------------------

    def _advertise_batch(self, vma: Vma, batch: Batch) -> Mask:
        """Advertise the pages whose outcome is certain, changing their entries in `batch`;
        returns which those were.

        Pages are grouped by checksum, with a target for each group: the frame of the newest
        descriptor, or without one the group's first page, which will be tracked. If all pages of
        the group have the target's bytes (so the descriptor is not stale), and are at home, each
        replacement works at the first try.
        """
        frames = self._memory.frames
        checksums = frames.checksums(batch.pfn)
        order = np.argsort(checksums, kind="stable")
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = checksums[order[1:]] != checksums[order[:-1]]
        group = np.empty(len(order), np.int64)
        group[order] = np.cumsum(is_first) - 1
        first = order[is_first]

        known = self._table.lookup(checksums[first])
        untracked = known == NO_DESCRIPTOR
        target = np.where(untracked, batch.pfn[first], known)
        certain = untracked | (frames.mapcount[target] > 0)

        alike = np.zeros(len(order), np.bool_)
        alike[first] = untracked
        ask = np.flatnonzero(~alike & certain[group])
        ask = ask[self._at_home(vma, batch.vpn[ask], batch.pfn[ask])]
        alike[ask] = frames.equal(batch.pfn[ask], target[group[ask]])
        certain[group[~alike]] = False

        done: Mask = certain[group]
        tracked = first[untracked & certain]
        merged = done.copy()
        merged[tracked] = False
        self._map_merged(batch, merged, target[group[merged]])
        self._track(checksums[tracked], batch.pfn[tracked])
        self.pages_scanned += int(np.count_nonzero(done))
        return done

    def _at_home(self, vma: Vma, vpn: npt.NDArray[np.int64], pfns: Pfns) -> Mask:
        """Whether the address derived from each frame is the one its entry is at."""
        if vma.anon_vma is None:
            return np.zeros(len(pfns), np.bool_)
        frames = self._memory.frames
        index = vma.pgoff + vpn - vma.start
        home: Mask = (frames.anon_vma[pfns] == vma.anon_vma.root) & (frames.pgoff[pfns] == index)
        return home

    def _map_merged(self, batch: Batch, merged: Mask, targets: Pfns) -> None:
        frames = self._memory.frames
        frames.get(targets)
        frames.put(batch.pfn[merged])
        batch.pfn[merged], batch.flags[merged] = targets, MERGED
        self.pages_merged += len(targets)

    def _track(self, checksums: Checksums, pfns: Pfns) -> None:
        self._memory.frames.track(pfns)
        self._table.add(checksums, pfns)

    # --- page by page -----------------------------------------------------------------------

    def _advertise_page(self, mm: AddressSpace, vma: Vma, vpn: int) -> None:
        """Look one page up, and merge or track it."""
        frames = self._memory.frames
        pfn, flags = mm.tables.entry(vpn)
        page = np.array([pfn])
        checksum = frames.checksums(page)
        self.pages_scanned += 1
        verdicts: dict[int, Verdict] = {}  # a frame can have thousands of descriptors
        for slot, other in self._table.chain(int(checksum[0])):
            if other not in verdicts:
                verdicts[other] = self._judge(page, checksum, other)
            if verdicts[other] is Verdict.STALE:
                self._table.remove(slot)
                frames.untrack(other)
            elif verdicts[other] is Verdict.EQUAL:
                if self._replace(mm, vma, pfn, flags, other):
                    self.pages_merged += 1
                    return
                self.merging_failed += 1
        self._track(checksum, page)

    def _judge(self, page: Pfns, checksum: Checksums, other: int) -> Verdict:
        """What a descriptor of frame `other` is to a page with the same checksum."""
        frames = self._memory.frames
        candidate = np.array([other])
        if not frames.mapcount[other] or frames.checksums(candidate)[0] != checksum[0]:
            return Verdict.STALE
        return Verdict.EQUAL if frames.equal(page, candidate)[0] else Verdict.COLLISION

    def _replace(self, mm: AddressSpace, vma: Vma, pfn: int, flags: int, target: int) -> bool:
        """Let the entry at the address derived from frame `pfn` point to `target`, if that entry
        is `pfn` and `flags` (page_address_in_vma, pte_same)."""
        frames = self._memory.frames
        if vma.anon_vma is None or frames.anon_vma[pfn] != vma.anon_vma.root:
            return False
        vpn = vma.start + int(frames.pgoff[pfn]) - vma.pgoff
        table = mm.tables.get(vpn // HUGE_PAGES)
        if not vma.start <= vpn < vma.end or not isinstance(table, PageTable):
            return False
        at = vpn % HUGE_PAGES
        if (table.pfn[at], table.flags[at]) != (pfn, flags):
            return False
        frames.get(np.array([target]))
        frames.put(np.array([pfn]))
        table.pfn[at], table.flags[at] = target, MERGED
        return True

    def check_invariants(self) -> None:
        """Assert that each frame counts its descriptors, and that counters fit together."""
        frames = self._memory.frames
        tracked = np.bincount(self._table.pfns(), minlength=len(frames.tracked))
        assert (tracked == frames.tracked).all(), "a frame counts other descriptors than there are"
        assert self.pages_merged <= self.pages_scanned
        if not self.run:
            counters = (
                self.pages_scanned,
                self.pages_merged,
                self.merging_failed,
                len(self._table),
            )
            assert counters == (0, 0, 0, 0), "a stopped DKSM shows zeros"


def _store(tables: list[tuple[Span, PageTable]], batch: Batch) -> None:
    """Write the entries of `batch` back to the tables they came from."""
    at = 0
    for span, table in tables:
        count = span.high - span.low
        table.pfn[span.low : span.high] = batch.pfn[at : at + count]
        table.flags[span.low : span.high] = batch.flags[at : at + count]
        at += count
