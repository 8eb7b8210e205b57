"""The hash of what each frame holds, and a twin of each frame.

To compare a page with another takes less time than to hash it, and most pages of most machines are
copies. So where a page is likely to be a copy of a frame whose hash is known, the two are compared.
If all bytes are equal, the page has the hash of that frame, and the frame is its *twin*.

The engine then asks whether the page equals the frame of a descriptor. The twin holds the same
bytes as the page, so the twin may be compared in its stead. Mostly the twin is the very frame of
the descriptor, and nothing is left to compare.

A twin is safe as long as neither of the two changes. While pages are advertised, the machine itself
writes to no frame. Memory that a client shares, and may still write, can change at any time. So:

  * such memory is hashed each time, is never a twin, and has no twin, with one exception;
  * a page of it that was compared with zeros has the kernel's zero page as its twin. That page
    never changes. If the client writes to its own page later, this is as if it had done so after
    the merge.

A frame without a known twin counts as its own. `Question` collects what is found about some frames,
each `HashShortcut` finds a part of it, and `FrameHashes` hashes the rest.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import numpy as np

from dksmfs.kernel.content.xxh64 import Checksums, Hashes, Rows, checksums_of, hash_rows
from dksmfs.kernel.memory.frame_contents import FrameContents
from dksmfs.kernel.memory.hashing.kept import KeptHashes
from dksmfs.kernel.pausing import Work, finished
from dksmfs.kernel.selection import Selection, compact, part
from dksmfs.kernel.units import ZERO_PFN, Mask, Numbers, Pfns

_PAGES_AT_ONCE: Final = 1024  # hashed between pauses


class Question:
    """Frames whose hashes are asked for, and what has been found.

    Positions count the frames that were asked for. The hash of the frame at a position is in
    `kept` once it is found; `twins` has a twin of each frame, or the frame itself.
    """

    def __init__(self, pfns: Pfns, kept: KeptHashes) -> None:
        self.pfns: Pfns | range = compact(pfns)
        self.twins = pfns.copy()
        self.kept = kept
        self._alike: list[tuple[Numbers, Numbers]] = []

    def frames(self, positions: Selection) -> Selection:
        """The frames at some positions."""
        return part(self.pfns, positions)

    def answer(self, positions: Selection, hashes: Hashes) -> None:
        """The frames at `positions` have these hashes."""
        self.kept.note(self.frames(positions), hashes)

    def has_twins(self, positions: Numbers, twins: Pfns) -> None:
        """The frames at `positions` were proven to hold the bytes of `twins`, whose hashes are
        known."""
        self.answer(positions, self.kept.hashes(twins))
        self.twins[positions] = twins

    def is_alike(self, positions: Numbers, others: Numbers) -> None:
        """The frames at `positions` were proven to hold the bytes of those at the positions
        `others`, whose hashes are found later."""
        self._alike.append((positions, others))

    def close(self) -> tuple[Hashes, Pfns]:
        """All hashes and twins; the hash of each frame must have been found."""
        for positions, others in self._alike:
            self.answer(positions, self.kept.hashes(self.frames(others)))
            self.twins[positions] = self.twins[others]
        return self.kept.hashes(self.pfns), self.twins


class HashShortcut(ABC):
    """A way to find hashes without hashing."""

    def __init__(self, hashes: "FrameHashes") -> None:
        self.hashes = hashes

    @abstractmethod
    def find(self, question: Question, left: Selection) -> Work[Selection]:
        """Answer what is certain of the positions `left` (ascending); returns the others."""


class FrameHashes:
    """The hashes and checksums of all frames of a machine."""

    def __init__(self, contents: FrameContents, kept: KeptHashes, checksum_bits: int) -> None:
        self.contents = contents
        self.kept = kept
        self.checksum_bits = checksum_bits
        self.shortcuts: list[HashShortcut] = []
        self.newest: Callable[[Checksums], Pfns] = np.zeros_like
        """The frames that the newest page descriptors with some checksums name; 0 if none does."""

    def checksums(self, pfns: Pfns) -> Checksums:
        """DKSM's checksums of what the frames hold now."""
        return checksums_of(finished(self.examine(pfns))[0], self.checksum_bits)

    def look(self, pfns: Pfns) -> tuple[Rows, Checksums]:
        """The bytes of the frames and their checksums, without a note of what was found: a
        view, in a pause of an advertisement, must not change what the advertisement knows."""
        rows = self.contents.rows(pfns)
        return rows, checksums_of(hash_rows(rows), self.checksum_bits)

    def examine(self, pfns: Pfns) -> Work[tuple[Hashes, Pfns]]:
        """The hashes of what the frames hold now, and a twin of each frame."""
        question = Question(pfns, self.kept)
        left: Selection = range(len(pfns))
        for shortcut in self.shortcuts:
            if len(left):
                left = yield from shortcut.find(question, left)
        yield from self.hash_each(question, left)
        hashes, twins = question.close()
        self.kept.trust(pfns, self.contents.stable(pfns))
        return hashes, twins

    def know_zero_page(self) -> None:
        """Hash the kernel's zero page, which is never written, if that was not done before."""
        zero = np.array([ZERO_PFN])
        if not self.kept.known(zero)[0]:
            finished(self.examine(zero))

    def hash_each(self, question: Question, left: Selection) -> Work[None]:
        """Hash the frames at the positions `left`."""
        for start in range(0, len(left), _PAGES_AT_ONCE):
            here = left[start : start + _PAGES_AT_ONCE]
            question.answer(here, self.contents.hashes(question.frames(here)))
            yield


def without(left: Selection, found: Mask) -> Selection:
    """The positions `left` that were not found."""
    if not found.any():
        return left
    remaining: Selection = part(left, ~found)
    return remaining
