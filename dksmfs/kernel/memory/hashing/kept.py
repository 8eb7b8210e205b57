"""The hash of each frame, as it was found last."""

from dksmfs.kernel.content.xxh64 import Hashes
from dksmfs.kernel.memory.columns import Column
from dksmfs.kernel.selection import at
from dksmfs.kernel.units import Mask, Pfns


class KeptHashes:
    """Two columns of the frame table: the hash of each frame, and whether it is known to be right.

    It is so if the frame has held the same bytes ever since, and no client can change them unseen.
    """

    def __init__(self) -> None:
        self._hash = Column("u8")
        self._known = Column("?")

    def grow(self, length: int) -> None:
        """Have rows for `length` frames."""
        self._hash.grow(length)
        self._known.grow(length)

    def hashes(self, pfns: Pfns | range) -> Hashes:
        """The hash of each frame, as it was found last."""
        hashes: Hashes = self._hash.values[at(pfns)]
        return hashes

    def known(self, pfns: Pfns | range) -> Mask:
        """Whether the hash of each frame is known to be right."""
        known: Mask = self._known.values[at(pfns)]
        return known

    def known_frames(self, pfns: Pfns) -> Mask:
        """Whether each number is that of a frame whose hash is known to be right."""
        frames: Mask = (pfns > 0) & (pfns < len(self._known))
        frames[frames] = self.known(pfns[frames])
        return frames

    def note(self, pfns: Pfns | range, hashes: Hashes) -> None:
        """These hashes were found."""
        self._hash.values[at(pfns)] = hashes

    def trust(self, pfns: Pfns, stable: Mask | bool) -> None:
        """The hashes of all these frames were just found; they stay right where bytes are
        `stable`."""
        self._known.values[pfns] = stable

    def forget(self, pfns: Pfns | range) -> None:
        """The frames get another content."""
        self._known.values[at(pfns)] = False
