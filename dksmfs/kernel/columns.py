"""Columns of numbers, one number for each frame: arrays that grow in place."""

import mmap
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_FEWEST: Final = 1024  # rows of a new column
_HUGE_BYTES: Final = 4 << 20  # from this size on, huge pages of our own are worth having


class Column:
    """An array of numbers that are 0 until they are set.

    It takes memory only where it was written, and grows without being copied, as mremap(2) moves
    pages and not bytes. `values` is another array after each growth.
    """

    def __init__(self, kind: npt.DTypeLike) -> None:
        self._kind = np.dtype(kind)
        self._use(_zeros(_FEWEST * self._kind.itemsize))

    def __len__(self) -> int:
        return len(self.values)

    def clear(self) -> None:
        """Set all numbers to 0."""
        self._use(_zeros(self.values.nbytes))

    def grow(self, length: int) -> None:
        """Have `length` rows, which are more than before."""
        size = length * self._kind.itemsize
        del self.values
        try:
            self._memory.resize(size)
            self._use(self._memory)
        except BufferError:  # somebody still looks at the old array
            old = np.frombuffer(self._memory, self._kind)
            self._use(_zeros(size))
            self.values[: len(old)] = old

    def _use(self, memory: mmap.mmap) -> None:
        if len(memory) >= _HUGE_BYTES:
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._memory = memory
        self.values: npt.NDArray[Any] = np.frombuffer(memory, self._kind)


def _zeros(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
