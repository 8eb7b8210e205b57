"""Files in memory (tmpfs) and the memory behind shared anonymous mappings."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from dksmfs.kernel.content.content import Content
from dksmfs.kernel.linear import numbers
from dksmfs.kernel.memory.frames import Frames, Pfns

NO_PAGE: Final = -1

_BLOCK: Final = 1 << 9  # pages whose frames are kept together


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

    def frames_of(self, indices: Pfns) -> Pfns:
        """The frame of each page, NO_PAGE for a hole; `indices` ascend."""
        found = np.full(len(indices), NO_PAGE)
        for block, here in _by_block(indices):
            if block in self._blocks:
                found[here] = self._blocks[block][indices[here] % _BLOCK]
        return found

    def write(self, frames: Frames, content: Content) -> None:
        """Fill the file with the first pages of `content`."""
        indices = np.arange(self.page_count)
        frames.contents.set(self._populate(frames, indices), content, indices)

    def page(self, frames: Frames, index: int) -> int:
        """The frame of page `index`; a hole becomes a zero-filled page."""
        return int(self._populate(frames, np.array([index]))[0])

    def _populate(self, frames: Frames, indices: Pfns) -> Pfns:
        pfns = self.frames_of(indices)
        holes = np.flatnonzero(pfns == NO_PAGE)
        if len(holes):
            pfns[holes] = numbers(frames.allocate(len(holes)))
            frames.cache(pfns[holes])
            for block, here in _by_block(indices):
                kept = self._blocks.setdefault(block, np.full(_BLOCK, NO_PAGE))
                kept[indices[here] % _BLOCK] = pfns[here]
        return pfns

    def release(self, frames: Frames) -> None:
        """Give the frames back; the file is not used again."""
        for block in self._blocks.values():
            frames.uncache(block[block != NO_PAGE])
        self._blocks.clear()


def _by_block(indices: Pfns) -> Iterator[tuple[int, slice]]:
    """The blocks that ascending pages are in, each with the positions of its pages."""
    blocks = indices // _BLOCK
    starts = np.flatnonzero(np.diff(blocks, prepend=-1))
    ends = np.append(starts, len(blocks))[1:]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield int(blocks[start]), slice(start, end)
