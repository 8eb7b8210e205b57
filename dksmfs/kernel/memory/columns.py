"""Columns of the frame table: a number for each frame, in arrays that grow in place."""

import mmap
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.selection import Selection, compact, numbers
from dksmfs.kernel.units import Numbers

_BLOCK: Final = 512  # numbers that share a line
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
        except BufferError:  # a view of the old array still exists
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


class LinearColumn:
    """An array of numbers that takes memory only where they do not count up by one.

    Each block of 512 has a line (the number of its first member), each member the distance of
    its number from the line. Distances that are all 0 are memory that was never written.
    """

    def __init__(self) -> None:
        self._distance = Column(np.int64)
        blocks = len(self._distance) // _BLOCK
        self._line = np.zeros(blocks, np.int64)
        self._bent = np.zeros(blocks, np.bool_)  # whether a distance may not be 0

    def grow(self, length: int) -> None:
        """Have room for `length` members, a multiple of 512."""
        self._distance.grow(length)
        more = length // _BLOCK - len(self._line)
        self._line = np.append(self._line, np.zeros(more, np.int64))
        self._bent = np.append(self._bent, np.zeros(more, np.bool_))

    def get(self, members: Selection) -> Numbers:
        """The number of each member."""
        short = compact(members) if len(members) >= _BLOCK else members
        if isinstance(short, range):
            first = self.first_of_line(short)
            if first is not None:
                return np.arange(first, first + len(short))
        return self._get(numbers(members))

    def _get(self, members: Numbers) -> Numbers:
        found: Numbers = self._on_line(members) + self._distance.values[members]
        return found

    def _on_line(self, members: Numbers) -> Numbers:
        line: Numbers = self._line[members >> 9] + (members & (_BLOCK - 1))
        return line

    def set(self, members: Selection, values: Selection) -> None:
        """Set the number of `members[i]` to `values[i]`."""
        if isinstance(members, range) and isinstance(values, range):
            self._set_line(members, values.start)
        elif len(members):
            members = numbers(members)
            self._distance.values[members] = numbers(values) - self._on_line(members)
            self._bent[members >> 9] = True

    def _set_line(self, members: range, first: int) -> None:
        whole = _whole_blocks(members)
        if not len(whole):
            self.set(numbers(members), first + np.arange(len(members)))
            return
        blocks = slice(whole.start // _BLOCK, whole.stop // _BLOCK)
        start = first + whole.start - members.start
        self._line[blocks] = np.arange(start, start + len(whole), _BLOCK)
        if self._bent[blocks].any():
            self._distance.values[whole.start : whole.stop] = 0
            self._bent[blocks] = False
        for edge in (range(members.start, whole.start), range(whole.stop, members.stop)):
            here = numbers(edge)
            self.set(here, first + here - members.start)

    def first_of_line(self, members: range) -> int | None:
        """The number of the first of `members`, if theirs are known to count up by one."""
        if not len(members):
            return None
        start, end = members.start, members.stop
        first = self._number(start)
        whole = _whole_blocks(members)
        if not len(whole):
            return first if self._continues(members, first) else None
        blocks = slice(whole.start // _BLOCK, whole.stop // _BLOCK)
        line = first + whole.start - start
        expected = np.arange(line, line + len(whole), _BLOCK)
        if self._bent[blocks].any() or (self._line[blocks] != expected).any():
            return None
        before, behind = range(start, whole.start), range(whole.stop, end)
        if self._continues(before, first) and self._continues(behind, first + whole.stop - start):
            return first
        return None

    def _number(self, member: int) -> int:
        on_line = self._line.item(member // _BLOCK) + member % _BLOCK
        return on_line + int(self._distance.values[member])

    def _continues(self, members: range, first: int) -> bool:
        """Whether the numbers of `members` are `first` and those that follow it."""
        if not len(members):
            return True
        here = numbers(members)
        return bool((self._get(here) == first + here - members.start).all())


def _whole_blocks(members: range) -> range:
    start = -(-members.start // _BLOCK) * _BLOCK
    return range(start, max(members.stop // _BLOCK * _BLOCK, start))
