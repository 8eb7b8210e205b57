"""Files in memory (tmpfs) and the memory behind shared anonymous mappings."""

from typing import Final

import numpy as np

from dksmfs.kernel.content.content import Content
from dksmfs.kernel.memory.frames import Frames
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import by_block, compact, numbers
from dksmfs.kernel.units import Pfns, Pgoffs

NO_PAGE: Final = -1

_BLOCK: Final = 1 << 9  # pages whose frames are kept together
_PIECE: Final = 32 * _BLOCK  # pages written between pauses
_RELEASED: Final = 32  # blocks given back between pauses


class File:
    """The page cache of one file.

    Pages that were never touched take no memory. `mappings` counts the mappings of the file;
    `linked` says that it has a name, and can be mapped again. The frames are held until neither is
    the case (`release`).
    """

    def __init__(self, pages: int) -> None:
        self.page_count = pages
        """Pages up to the end of the file."""
        self.mappings = 0
        self.linked = False
        self._blocks: dict[int, Pfns] = {}  # the frame of each page, NO_PAGE for a hole

    def frames_of(self, indices: Pgoffs) -> Pfns:
        """The frame of each page, NO_PAGE for a hole; `indices` ascend."""
        found = np.full(len(indices), NO_PAGE)
        for block, here in by_block(indices, _BLOCK):
            if block in self._blocks:
                found[here] = self._blocks[block][indices[here] % _BLOCK]
        return found

    def write(self, frames: Frames, content: Content) -> Work[None]:
        """Fill the file with the first pages of `content`; ENOMEM if there is no room for all."""
        frames.require(self.page_count)
        for first in range(0, self.page_count, _PIECE):
            indices = range(first, min(first + _PIECE, self.page_count))
            pfns = compact(self.pages(frames, numbers(indices)))
            frames.contents.set(pfns, content, indices)
            yield

    def pages(self, frames: Frames, indices: Pgoffs) -> Pfns:
        """The frames of pages, which ascend; holes become zero-filled pages."""
        pfns = self.frames_of(indices)
        holes = np.flatnonzero(pfns == NO_PAGE)
        if len(holes):
            pfns[holes] = numbers(frames.allocate(len(holes)))
            frames.cache(pfns[holes])
            for block, here in by_block(indices, _BLOCK):
                kept = self._blocks.setdefault(block, np.full(_BLOCK, NO_PAGE))
                kept[indices[here] % _BLOCK] = pfns[here]
        return pfns

    def release(self, frames: Frames) -> Work[None]:
        """Give the frames back; the file is not used again."""
        while self._blocks:
            blocks = [self._blocks.popitem()[1] for _ in range(min(len(self._blocks), _RELEASED))]
            pfns = np.concatenate(blocks[::-1])
            frames.uncache(pfns[pfns != NO_PAGE])
            yield
