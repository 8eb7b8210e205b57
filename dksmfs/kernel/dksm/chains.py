"""Groups of pages with any chain of descriptors.

Exact, as three things hold for the groups that are decided on here.

  * Whether a page's entry can be replaced does not depend on the descriptor that the page has
    found. So a page that can be replaced merges with the newest live descriptor that has its
    bytes, and one that cannot fails once for each of these descriptors, and is tracked.
  * Descriptors with other bytes, and stale ones, are passed by. So pages and descriptors are taken
    in *classes* of equal bytes. The hash, of which the checksum is a part, tells the classes of a
    group apart, and all members of a class are compared with one of them.
  * No page changes what a later one finds, but for the descriptor that it adds. Each page of a
    class can be replaced, or cannot, independently of the others (`_Pages`); and no frame is
    freed whose descriptor another page would come by (`_disturbed`).
"""

import numpy as np

from dksmfs.kernel.dksm.batch import Batch, Outcome
from dksmfs.kernel.dksm.descriptors import Chains, Descriptors
from dksmfs.kernel.dksm.engine import MERGED, Dksm
from dksmfs.kernel.dksm.table import NEWER_THAN_ALL
from dksmfs.kernel.memory.address_space import AddressSpace
from dksmfs.kernel.memory.frames import Frames
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import starts
from dksmfs.kernel.units import Mask, Numbers, Pfns


def decide_chains(dksm: Dksm, chains: Chains, mm: AddressSpace, batch: Batch) -> Work[Outcome]:
    """Decide on the groups of a batch where that is possible."""
    first, group = batch.groups()
    descriptors = yield from chains.find(batch.checksum[first], batch.hash)
    yield
    classes = Classes(dksm.frames, batch, group, descriptors)
    yield
    pages = _Pages(mm, batch, classes)
    undecided = np.zeros(group[-1] + 1, np.bool_)
    undecided[classes.group[classes.mixed | pages.unsteady]] = True
    undecided[_disturbed(dksm.frames, batch, group, classes, pages)] = True
    decided = ~undecided[group]
    merged = batch.by_address(decided & ~pages.tracked)
    return Outcome(
        merged,
        pages.target[merged],
        tracked=np.flatnonzero(decided & pages.tracked),
        left=batch.by_address(~decided),
        failed=int(pages.failures[decided].sum()),
        stale=_passed_stale(group, descriptors, classes, pages, undecided),
    )


class Classes:
    """Pages and live descriptors with equal bytes; columns with a row for each class.

    `target` is the frame of the newest live descriptor, whose slot is `slot`; or, where that is -1,
    the frame of the first page. `known` counts the live descriptors. A class is `mixed` if not all
    members have the same bytes after all.
    """

    def __init__(
        self, frames: Frames, batch: Batch, group: Numbers, descriptors: Descriptors
    ) -> None:
        live = np.flatnonzero(descriptors.live)
        hashes = np.concatenate([descriptors.hash[live], batch.hash])
        hash_of, of = np.unique(hashes, return_inverse=True)
        self.of_descriptor, self.of_page = of[: len(live)], of[len(live) :]
        none = np.full(len(hash_of), -1)
        self.first, row, self.group = none.copy(), none.copy(), none.copy()
        self.first[self.of_page[::-1]] = np.arange(len(batch))[::-1]
        row[self.of_descriptor[::-1]] = live[::-1]
        self.has_pages, known = self.first >= 0, row >= 0
        self.group[self.of_descriptor] = descriptors.group[live]
        self.group[self.of_page] = group
        self.known = np.zeros(len(hash_of), np.int64)
        np.add.at(self.known, self.of_descriptor, descriptors.count[live])
        self.slot, self.target = none.copy(), batch.pfn[self.first]
        self.slot[known] = descriptors.slot[row[known]]
        self.target[known] = descriptors.pfn[row[known]]
        self.mixed = np.zeros(len(hash_of), np.bool_)
        asked = self.has_pages[self.of_descriptor]
        self._compare(frames, descriptors.pfn[live[asked]], self.of_descriptor[asked])
        in_order = batch.in_order()
        self._compare(frames, batch.twin[in_order], self.of_page[in_order])

    def _compare(self, frames: Frames, pfns: Pfns, of: Numbers) -> None:
        equal = frames.contents.equal(pfns, self.target[of])
        self.mixed[of[~equal]] = True


class _Pages:
    """What becomes of each page; columns with a row for each page of the batch.

    A page that is `tracked` has made `failures` attempts; others merge with `target`. A class is
    `unsteady` if a page of it may change whether another one can be replaced.
    """

    def __init__(self, mm: AddressSpace, batch: Batch, classes: Classes) -> None:
        at_home = batch.derived == batch.vpn
        leads = np.zeros(len(batch), np.bool_)  # find no descriptor, and are tracked
        leads[classes.first[classes.has_pages & (classes.slot < 0)]] = True
        replaceable, self.unsteady = at_home, np.zeros(len(classes.slot), np.bool_)
        if not at_home.all():
            # When it is a page's turn, the page at the address derived from it may have merged.
            follows = _follows_merge(batch, classes, at_home & ~leads)
            matches = ~follows & has_entry(mm, batch)
            becomes = follows & (batch.flags == MERGED)
            same = (batch.pfn == classes.target[classes.of_page]) & (batch.flags == MERGED)
            stays = at_home | (same & (matches | becomes))  # replaced by what it is already
            constant = np.ones(len(classes.slot), np.bool_)
            constant[classes.of_page[~(stays | leads)]] = False
            replaceable = at_home | (stays & constant[classes.of_page])
            self.unsteady[classes.of_page[~(replaceable | leads) & (matches | becomes)]] = True
        self.tracked = leads | ~replaceable
        self.failures, self.target = _turns(batch, classes, self.tracked)
        self.failures[replaceable] = 0


def has_entry(mm: AddressSpace, batch: Batch) -> Mask:
    """Whether the entry at the address derived from each page is the page's own (pte_same)."""
    pfns, flags = mm.tables.entries_at(batch.derived)
    same: Mask = (batch.derived >= 0) & (pfns == batch.pfn) & (flags == batch.flags)
    return same


def _follows_merge(batch: Batch, classes: Classes, merging: Mask) -> Mask:
    """Whether the page at the derived address is of the same class, earlier, and merges."""
    order = batch.in_order()
    vpns = batch.vpn[order]
    page = order[np.minimum(np.searchsorted(vpns, batch.derived), len(vpns) - 1)]
    follows: Mask = (batch.vpn[page] == batch.derived) & (batch.derived < batch.vpn)
    follows &= merging[page] & (classes.of_page[page] == classes.of_page)
    return follows


def _turns(batch: Batch, classes: Classes, tracked: Mask) -> tuple[Numbers, Pfns]:
    """For each page, when it is its turn: how many live descriptors have its bytes, and the frame
    of the newest of them."""
    order = np.argsort(classes.of_page, kind="stable")
    of, adds = classes.of_page[order], tracked[order]
    every = np.arange(len(order))
    start = np.maximum.accumulate(np.where(starts(of), every, 0))  # of the class of each page
    before: Numbers = np.cumsum(adds) - adds
    newest = np.maximum.accumulate(np.where(adds, every, -1))
    newest = np.append(-1, newest[:-1])  # the last page before this one that was tracked
    count, target = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    count[order] = classes.known[of] + before - before[start]
    target[order] = np.where(newest >= start, batch.pfn[order[newest]], classes.target[of])
    return count, target


def _disturbed(
    frames: Frames, batch: Batch, group: Numbers, classes: Classes, pages: _Pages
) -> Numbers:
    """The groups in which a page merges and thereby frees a frame whose descriptor another page
    comes by: one that is tracked comes by all, and one of another class may."""
    freed = ~pages.tracked & (pages.target != batch.pfn)
    freed &= (frames.mapcounts(batch.pfn) == 1) & frames.tracked(batch.pfn)
    if not freed.any():
        return np.empty(0, np.int64)
    class_count = np.bincount(classes.group[classes.has_pages])
    tracks = np.zeros(len(class_count), np.bool_)
    tracks[group[pages.tracked]] = True
    concerned: Numbers = group[freed]
    return concerned[tracks[concerned] | (class_count[concerned] > 1)]


def _passed_stale(
    group: Numbers, descriptors: Descriptors, classes: Classes, pages: _Pages, undecided: Mask
) -> Numbers:
    """The slots of stale descriptors that a page of a decided group passes by: those newer than the
    oldest descriptor that a page merges with, or all, if a page is tracked."""
    oldest = np.full(len(undecided), NEWER_THAN_ALL)
    np.minimum.at(oldest, classes.group[classes.has_pages], classes.slot[classes.has_pages])
    oldest[group[pages.tracked]] = -1
    oldest[undecided] = NEWER_THAN_ALL
    stale: Numbers = descriptors.slot[~descriptors.live]
    passed: Numbers = stale[stale > oldest[descriptors.group[~descriptors.live]]]
    return passed
