"""Files in memory (tmpfs) and the memory behind shared anonymous mappings."""

import numpy as np

from dksmfs.kernel.content.content import Content
from dksmfs.kernel.linear import numbers
from dksmfs.kernel.memory.frames import Frames, Pfns

NO_PAGE = -1


class File:
    """The page cache of one file.

    `pfns` has the frame of each page, NO_PAGE for a hole; `mappings` counts the mappings of the
    file; `linked` says that it has a name, and can be mapped again. The frames are held until
    neither is the case (`release`).
    """

    def __init__(self, pages: int) -> None:
        self.pfns: Pfns = np.full(pages, NO_PAGE, np.int64)
        self.mappings = 0
        self.linked = False

    @property
    def page_count(self) -> int:
        """Pages up to the end of the file."""
        return len(self.pfns)

    def write(self, frames: Frames, content: Content) -> None:
        """Fill the file with the first pages of `content`."""
        indices = np.arange(self.page_count)
        frames.contents.set(self._populate(frames, indices), content, indices)

    def page(self, frames: Frames, index: int) -> int:
        """The frame of page `index`; a hole becomes a zero-filled page."""
        return int(self._populate(frames, np.array([index]))[0])

    def _populate(self, frames: Frames, indices: Pfns) -> Pfns:
        holes = indices[self.pfns[indices] == NO_PAGE]
        self.pfns[holes] = numbers(frames.allocate(len(holes)))
        frames.cache(self.pfns[holes])
        return self.pfns[indices]

    def release(self, frames: Frames) -> None:
        """Give the frames back; the file is not used again."""
        frames.uncache(self.pfns[self.pfns != NO_PAGE])
        self.pfns[:] = NO_PAGE
