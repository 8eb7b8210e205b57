"""Where a page like this one was seen last: guesses, which whoever uses them must prove."""

from typing import Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.linear import Numbers

NO_HINT: Final = 0  # the zero page, which is never hashed

_FEWEST_BITS: Final = 10
_MOST_BITS: Final = 21  # 16 MiB: most of the pages of the last 4 GiB that were hashed, or so
_ROOM: Final = 4  # entries for each frame, so that few get into each other's way
_FRAME: Final = np.uint64(0xFFFFFFFF)

Fingerprints = npt.NDArray[np.uint64]
_Slots = npt.NDArray[np.uint64]


class Hints:
    """A frame for each fingerprint, as far as there is room: an entry has two slots that it may
    be in, and newer ones take the place of older ones."""

    def __init__(self) -> None:
        self._clear(_FEWEST_BITS)

    def _clear(self, bits: int) -> None:
        self._bits = bits
        self._entries = np.zeros(1 << bits, np.uint64)  # 32 bits of the fingerprint, and the frame
        self._added = 0

    def _slots(self, fingerprints: Fingerprints) -> tuple[_Slots, _Slots]:
        upper = fingerprints >> np.uint64(32)
        return upper >> np.uint64(32 - self._bits), upper & np.uint64((1 << self._bits) - 1)

    def lookup(self, fingerprints: Fingerprints) -> Numbers:
        """A frame that may have the bytes of each page; NO_HINT if none is known."""
        hinted = np.full(len(fingerprints), NO_HINT)
        for slots in self._slots(fingerprints):
            entries = self._entries[slots]
            found = (entries ^ fingerprints) <= _FRAME
            hinted[found] = (entries[found] & _FRAME).view(np.int64)
        return hinted

    def add(self, fingerprints: Fingerprints, pfns: Numbers) -> None:
        """Note that frames have pages with these fingerprints."""
        while _ROOM * (self._added + len(pfns)) > 1 << self._bits and self._bits < _MOST_BITS:
            entries = self._entries[self._entries != 0]
            self._clear(self._bits + 1)
            self._insert(entries)
        self._insert(fingerprints & ~_FRAME | pfns.view(np.uint64))

    def _insert(self, entries: Fingerprints) -> None:
        self._added += len(entries)
        first, second = self._slots(entries)
        vacant = self._entries[first] == 0
        self._entries[first[vacant]] = entries[vacant]
        elsewhere = self._entries[first] != entries
        self._entries[second[elsewhere]] = entries[elsewhere]
