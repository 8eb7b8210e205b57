"""The hashes of frames that were found before."""

import numpy as np

from dksmfs.kernel.memory.columns import Column
from dksmfs.kernel.selection import at
from dksmfs.kernel.units import Pfns


class KeptHashes:
    """For each frame the `hash` that was found last, and whether it is `known` to be right."""

    def __init__(self) -> None:
        self.hash = Column(np.uint64)
        self.known = Column(np.bool_)

    def grow(self, length: int) -> None:
        """Have rows for `length` frames."""
        self.hash.grow(length)
        self.known.grow(length)

    def forget(self, pfns: Pfns | range) -> None:
        """The frames have got another content."""
        self.known.values[at(pfns)] = False
