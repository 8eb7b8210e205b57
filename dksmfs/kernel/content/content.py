"""What the bytes of a page are, stored or only described.

A content is a sequence of 4096-byte pages, numbered from 0. Frames refer to a page of a content
(see `memory.frame_contents`), so a gibibyte of described pages costs no memory, and copying a page
copies a reference. A content never changes, with one exception: memory that a client shares with
the machine (`StoredContent(..., stable=False)`) may change at any time.
"""

from abc import ABC, abstractmethod
from typing import Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.content.xxh64 import Hashes, Rows, hash_rows
from dksmfs.kernel.selection import Selection, numbers

_ROWS_AT_ONCE: Final = 1024  # 4 MiB of generated pages: numpy takes huge pages for them

Indices = npt.NDArray[np.int64]  # page numbers within a content


class Content(ABC):
    """A sequence of pages."""

    stable: bool = True
    """False if the bytes may change behind the machine's back."""

    uniform: bool = False
    """Whether all pages are known to be alike."""

    described: bool = False
    """Whether a page is made of its number by a formula."""

    quick: bool = False
    """Whether hashes can be computed without the pages: in 100 ns a page at the most."""

    held_bytes: int = 0
    """What it takes of our own memory; memory that a client shares does not count."""

    address: int = 0
    """Where in our own memory page 0 is, if whole pages are stored there in a row."""

    stored_pages: int = 0
    """How many whole pages are stored there."""

    @abstractmethod
    def rows(self, indices: Indices) -> Rows:
        """The bytes of the pages at `indices`, a row each. Not to be written to."""

    def page(self, index: int) -> bytes:
        """The bytes of one page."""
        return self.rows(np.array([index])).tobytes()

    def hashes(self, indices: Selection) -> Hashes:
        """The hashes of the pages at `indices`."""
        hashes = np.empty(len(indices), np.uint64)
        for start in range(0, len(indices), _ROWS_AT_ONCE):
            here = slice(start, start + _ROWS_AT_ONCE)
            hashes[here] = hash_rows(self.rows(numbers(indices[here])))
        return hashes

    def computed_hashes(self, indices: Selection) -> Hashes:
        """The same, without the pages, if the content is `quick`."""
        return self.hashes(indices)
