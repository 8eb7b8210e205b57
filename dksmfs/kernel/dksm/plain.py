"""Groups of pages with a plain outcome.

Exact, as every page of such a group has the bytes of the newest descriptor's frame, or, without a
descriptor, of the first page, which is tracked; and every page is at home, so it finds its own
entry as it is. So each replacement works at the first try, nothing is added to the chain before
the descriptor that it found, and no other descriptor is looked at.
"""

import numpy as np

from dksmfs.kernel.dksm.batch import Batch, Outcome
from dksmfs.kernel.dksm.engine import Dksm
from dksmfs.kernel.dksm.table import NO_SLOT
from dksmfs.kernel.memory.frames import Frames
from dksmfs.kernel.units import Mask, Pfns


def decide_plain(dksm: Dksm, batch: Batch) -> Outcome:
    """Decide on the groups that are plain."""
    first, group = batch.groups()
    slots = dksm.table.newest(batch.checksum[first])
    fresh = slots == NO_SLOT
    leads = np.zeros(len(batch), np.bool_)  # the first pages, where there is no descriptor
    leads[first[fresh]] = True
    target = np.where(fresh, batch.pfn[first], dksm.table.pfns(slots))[group]
    suits = leads | _equal(dksm.frames, batch, target, ~leads) & (batch.derived == batch.vpn)
    plain = np.ones(len(first), np.bool_)
    plain[group[~suits]] = False
    decided = plain[group]
    merged = batch.by_address(decided & ~leads)
    return Outcome(
        merged,
        target[merged],
        tracked=np.flatnonzero(decided & leads),
        left=batch.by_address(~decided),
    )


def _equal(frames: Frames, batch: Batch, target: Pfns, asked: Mask) -> Mask:
    """Whether each page of those asked for has the bytes of its target."""
    equal = np.zeros(len(batch), np.bool_)
    kept = frames.hashes.kept
    differs = kept.known(target) & (kept.hashes(target) != batch.hash)  # in spite of its checksum
    asked &= ~differs & (frames.mapcounts(target) > 0)
    if asked.any():
        ask = batch.by_address(asked)  # so that adjacent pages are compared in one go
        equal[ask] = frames.contents.equal(batch.twin[ask], target[ask])
    return equal
