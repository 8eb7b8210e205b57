"""The merge engine: what MADV_MERGEABLE does to the pages of a process.

DKSM has no daemon and no list of candidates. At `madvise(MADV_MERGEABLE)` it walks the page-table
entries of the range, in ascending order, and for each small, accessible, anonymous page:

  * takes the checksum of its content, and goes along the chain of page descriptors with that
    checksum, newest first;
  * drops descriptors that are stale: their frame is free, or has another checksum by now;
  * compares the bytes with those of the descriptor's frame, and if they are equal tries to make
    the page's entry point to that frame; if that works the page is merged;
  * if nothing worked, adds a descriptor of the page, for others to merge with later.

Two things follow from how the kernel replaces an entry (replace_page). It does not use the
address it is at, but derives one from the frame: the family (root anon_vma) and page offset under
which the frame was first mapped. The entry at that address must be bit for bit the one at hand, so
a page that is not at home, because it was merged before, usually fails. And the frame merged with
is not write-protected: its owner goes on writing to it, and all sharers see that.

`Dksm` is these rules, page by page, and needs nothing else. A `MergeShortcut` comes to the same
results for many pages at once.
"""

import errno
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Final

import numpy as np

from dksmfs.kernel.content.xxh64 import Checksums
from dksmfs.kernel.dksm.table import HASHTABLE_SIZE, Hashtable
from dksmfs.kernel.dksm.walk import Walk
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.memory.address_space import AddressSpace, Memory
from dksmfs.kernel.memory.entries import ACCESSED, PRESENT, PROTNONE, Flags
from dksmfs.kernel.memory.frames import Frames, home_pgoff
from dksmfs.kernel.memory.vma import Kind, Vma
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import compact
from dksmfs.kernel.units import Mask, Numbers, Pfn, Pfns, Vpn, Vpns

MERGED: Final = PRESENT | ACCESSED  # the entry of a merged page: mk_pte, read-only and clean

_PAGES_AHEAD: Final = 1 << 13  # that are looked for before any is advertised
_MAPPINGS_AT_ONCE: Final = 64  # looked at between pauses


class Verdict(Enum):
    """What a page descriptor is worth to a page with the same checksum."""

    STALE = "its frame is free, or has other content by now"
    COLLISION = "its frame has other bytes"
    EQUAL = "its frame has the same bytes"


class Dksm:
    """The state of DKSM: the switch, the counters, the table."""

    hashtable_size = HASHTABLE_SIZE

    def __init__(self, memory: Memory) -> None:
        self.frames = memory.frames
        self.table = Hashtable(memory.frames.version)
        self.shortcuts: list[MergeShortcut] = []
        memory.frames.hashes.newest = self.table.newest_frames
        self.run = 0
        self.pages_scanned = 0
        self.pages_merged = 0
        self.merging_failed = 0

    @property
    def hashtable_entries(self) -> int:
        """Page descriptors in the table, stale ones included."""
        return len(self.table)

    def set_run(self, value: int) -> None:
        """Start (1) or stop (0). Stopping forgets all descriptors and counts; merged pages stay."""
        if value not in (0, 1):
            raise kernel_error(errno.EINVAL, "run is 0 or 1")
        if self.run and not value:
            self.pages_scanned = self.pages_merged = self.merging_failed = 0
            self.table.clear()
            self.frames.untrack_all()
        self.run = value

    def advertise(self, mm: AddressSpace, mappings: Iterable[tuple[Vma, Vpn, Vpn]]) -> Work[None]:
        """Merge or track virtual pages `first` to `last` - 1 of each of the `mappings`, which
        ascend."""
        walk = Walk(mm)
        for number, (vma, first, last) in enumerate(mappings, 1):
            if self.run and vma.kind is not Kind.HUGETLB:
                walk.add(vma, first, last)
            if walk.pages >= _PAGES_AHEAD:
                yield from self._finish(walk)
            elif number % _MAPPINGS_AT_ONCE == 0:
                yield
        yield from self._finish(walk)

    def _finish(self, walk: Walk) -> Work[None]:
        while walk.pages:
            taken = yield from self._advertise_some(walk)
            for shortcut in self.shortcuts:
                shortcut.learn(walk, taken)
            walk.go_on(taken)
            yield

    def _advertise_some(self, walk: Walk) -> Work[int]:
        """Advertise some of the pages, from the first one on; returns how many."""
        for shortcut in self.shortcuts:
            taken = yield from shortcut.advertise(walk)
            if taken:
                return taken
        vma, vpn, _ = walk.first
        walk.mm.split_huge_pages(vpn, Vpn(vpn + 1))
        self.advertise_page(walk.mm, vma, vpn)
        return 1

    # --- the rules, page by page ------------------------------------------------------------

    def advertise_page(self, mm: AddressSpace, vma: Vma, vpn: Vpn) -> None:
        """Reject a page, or look it up and merge or track it."""
        pfn, flags = mm.tables.entry(vpn)
        if not self.passes(np.array([pfn]), np.array([flags], np.uint8))[0]:
            self.merging_failed += 1
            return
        self.pages_scanned += 1
        checksum = self._checksum(pfn)
        for slot, other, count in self.table.chain(checksum):
            verdict = self._judge(pfn, checksum, other)
            if verdict is Verdict.STALE:
                self.drop(np.array([slot]))
            elif verdict is Verdict.EQUAL:
                if self._replace(mm, vma, pfn, flags, other):
                    self.pages_merged += 1
                    return
                self.merging_failed += count
        self.track(np.array([checksum], np.uint32), np.array([pfn]))

    def passes(self, pfns: Pfns, flags: Flags) -> Mask:
        """Whether each page is present, accessible, anonymous (the zero page is not), and not part
        of a huge page."""
        passing: Mask = flags & (PRESENT | PROTNONE) == PRESENT
        passing &= self.frames.anonymous(pfns) & ~self.frames.compound(pfns)
        return passing

    def _checksum(self, pfn: Pfn) -> int:
        return int(self.frames.hashes.checksums(np.array([pfn]))[0])

    def _judge(self, pfn: Pfn, checksum: int, other: Pfn) -> Verdict:
        """What a descriptor of frame `other` is to a page with the same checksum."""
        if not self.frames.mapcount(other) or self._checksum(other) != checksum:
            return Verdict.STALE
        equal = self.frames.contents.equal(np.array([pfn]), np.array([other]))[0]
        return Verdict.EQUAL if equal else Verdict.COLLISION

    def _replace(self, mm: AddressSpace, vma: Vma, pfn: Pfn, flags: int, target: Pfn) -> bool:
        """Make the entry at the address derived from frame `pfn` point to `target`, if that entry
        is `pfn` and `flags` (pte_same)."""
        vpn = derived_vpn(self.frames, vma, pfn)
        if vpn is None or mm.tables.entry(vpn) != (pfn, flags):
            return False
        self.merge(mm, np.array([vpn]), np.array([pfn]), np.array([target]))
        return True

    # --- what advertising changes -----------------------------------------------------------

    def merge(self, mm: AddressSpace, vpns: Vpns, pfns: Pfns, targets: Pfns) -> None:
        """Make the entries of pages (ascending), which map `pfns`, point to `targets`."""
        self.frames.get(compact(targets))
        self.frames.put(compact(pfns))
        mm.tables.set_entries(vpns, targets, MERGED)

    def track(self, checksums: Checksums, pfns: Pfns) -> None:
        """Add page descriptors; those with the same checksum stand together."""
        if len(pfns):
            new = self.table.add(checksums, pfns)
            self.frames.track(compact(pfns[new]))

    def drop(self, slots: Numbers) -> None:
        """Remove stale descriptors; frames that nothing names any more can be used again."""
        if len(slots):
            frames = self.table.pfns(slots)
            self.table.remove(slots)
            self.frames.untrack(frames)

    def check_invariants(self) -> None:
        """Assert that each frame counts its descriptors, and that counters fit together."""
        self.frames.check_tracked(Counter(self.table.frames().tolist()))
        assert self.pages_merged <= self.pages_scanned
        if not self.run:
            counters = (
                self.pages_scanned,
                self.pages_merged,
                self.merging_failed,
                len(self.table),
            )
            assert counters == (0, 0, 0, 0), "a stopped DKSM shows zeros"


def derived_vpn(frames: Frames, vma: Vma, pfn: Pfn) -> Vpn | None:
    """The virtual page of a mapping that DKSM derives from a frame (page_address_in_vma)."""
    if vma.anon_vma is None:
        return None
    pgoff = home_pgoff(frames.home(pfn), vma.anon_vma.root)
    vpn = None if pgoff is None else Vpn(vma.start + pgoff - vma.pgoff)
    return vpn if vpn is not None and vma.start <= vpn < vma.end else None


class MergeShortcut(ABC):
    """A way to advertise many pages at once."""

    def __init__(self, dksm: Dksm) -> None:
        self.dksm = dksm

    @abstractmethod
    def advertise(self, walk: Walk) -> Work[int]:
        """Advertise some of the pages ahead, from the first one on; returns how many. 0 if the
        shortcut is not certain of the outcome."""

    def learn(self, walk: Walk, pages: int) -> None:  # noqa: B027 (most do not)
        """The next `pages` pages of the walk were just advertised."""
