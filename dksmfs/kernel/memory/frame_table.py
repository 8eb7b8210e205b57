"""What the machine keeps of each page frame: arrays indexed by page frame number (pfn)."""

from typing import Final

import numpy as np

from dksmfs.kernel.linear import LinearColumn

COMPOUND: Final = 1  # part of a huge page
CACHED: Final = 2  # held by a file's page cache
HASHED: Final = 4  # `checksum` is that of the content
ANONYMOUS: Final = 8  # mapped by a private mapping; `home` says where first

MANY: Final = 255
"""Page descriptors that a frame counts; with more, it counts as tracked until DKSM is stopped."""


class FrameTable:
    """A row for each frame.

    `mapcount` counts page-table entries and `tracked` page descriptors. `home` is where an
    anonymous frame was first mapped (see `frames.home`), and `page` which page of which content
    it holds (see `frame_contents`). Both count up by one along the frames of a region, and take
    no memory then. Only stored pages have a `fingerprint` (see `hints`). A row takes 10 bytes, or
    14 where there is one.
    """

    def __init__(self) -> None:
        length = 1024
        self.mapcount = np.zeros(length, np.int32)
        self.tracked = np.zeros(length, np.uint8)
        self.flags = np.zeros(length, np.uint8)
        self.checksum = np.zeros(length, np.uint32)
        self.fingerprint = np.zeros(length, np.uint32)
        self.home = LinearColumn(length)
        self.page = LinearColumn(length)
        self.version = 0
        """Grows when a frame that a page descriptor names is freed, or gets another content."""

    def reach(self, end: int) -> None:
        """Have rows for the frames below `end`."""
        length = len(self.mapcount)
        if end <= length:
            return
        while length < end:
            length *= 2
        for name in ("mapcount", "tracked", "flags", "checksum", "fingerprint"):
            old = getattr(self, name)
            new = np.zeros(length, old.dtype)
            if old.any():  # otherwise neither takes memory
                new[: len(old)] = old
            setattr(self, name, new)
        self.home.grow(length)
        self.page.grow(length)
