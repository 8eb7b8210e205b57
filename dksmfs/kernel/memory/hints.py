"""Where a page like this one was seen last: guesses, which whoever uses them must prove.

A fingerprint is a number made of a few words of a page. That of a frame is kept in the frame
table, and here a frame for each fingerprint, as far as there is room.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.linear import Numbers
from dksmfs.kernel.memory.frame_table import HASHED, FrameTable

NO_HINT: Final = 0  # the zero page, which is never hashed

_FEWEST_BITS: Final = 10
_MORE_BITS: Final = 2  # whenever there are too few
_MOST_BITS: Final = 22  # 16 MiB: most of the pages of the last 16 GiB that were hashed

Fingerprints = npt.NDArray[np.uint32]


class Hints:
    """A slot for each fingerprint, of which newer frames take the place of older ones."""

    def __init__(self, table: FrameTable) -> None:
        self._table = table
        self._bits = _FEWEST_BITS
        self._frames = np.zeros(1 << _FEWEST_BITS, np.uint32)
        self._added = 0

    def lookup(self, fingerprints: Fingerprints) -> Numbers:
        """A hashed frame that may have the bytes of each page; NO_HINT if none is known.

        Pages in a row often are copies of pages in a row: where nothing is known of a page, it may
        follow what the one before is like.
        """
        hinted: Numbers = self._frames[self._slots(fingerprints)].astype(np.int64)
        hinted[~self._is_like(hinted, fingerprints)] = NO_HINT
        unknown = np.flatnonzero(hinted == NO_HINT)
        if len(unknown) < len(hinted):
            every = np.arange(len(hinted))
            known = np.maximum.accumulate(np.where(hinted == NO_HINT, 0, every))[unknown]
            follows = np.where(hinted[known] == NO_HINT, NO_HINT, hinted[known] + unknown - known)
            follows[follows >= len(self._table.flags)] = NO_HINT
            follows[~self._is_like(follows, fingerprints[unknown])] = NO_HINT
            hinted[unknown] = follows
        return hinted

    def _is_like(self, frames: Numbers, fingerprints: Fingerprints) -> npt.NDArray[np.bool_]:
        like: npt.NDArray[np.bool_] = self._table.fingerprint[frames] == fingerprints
        like &= self._table.flags[frames] & HASHED != 0
        return like

    def add(self, fingerprints: Fingerprints, pfns: Numbers) -> None:
        """Note that frames have pages with these fingerprints."""
        self._table.fingerprint[pfns] = fingerprints
        self._added += len(pfns)
        while 2 * self._added > len(self._frames) and self._bits < _MOST_BITS:
            # All that a slot becomes have its hint, which is right for one of them.
            self._frames = np.repeat(self._frames, 1 << _MORE_BITS)
            self._bits += _MORE_BITS
        self._frames[self._slots(fingerprints)] = pfns

    def _slots(self, fingerprints: Fingerprints) -> Fingerprints:
        return fingerprints >> np.uint32(32 - self._bits)
