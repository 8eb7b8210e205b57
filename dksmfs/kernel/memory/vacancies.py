"""Free page frame numbers, as a stack of runs: the last one freed is used first."""

import numpy as np

from dksmfs.kernel.selection import Selection, compact
from dksmfs.kernel.units import Numbers


class Vacancies:
    """Free numbers; `len()` says how many."""

    def __init__(self) -> None:
        self._start = np.zeros(64, np.int64)  # of each run; the first _depth are valid
        self._end = np.zeros(64, np.int64)
        self._depth = 0
        self._pushed = 0  # runs that were added since the last time they were joined
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def add(self, free: Selection) -> None:
        """Put numbers on the stack."""
        if not len(free):
            return
        free = compact(free)
        if isinstance(free, range):
            starts, ends = np.array([free.start]), np.array([free.stop])
        else:
            breaks = np.flatnonzero(np.diff(free) != 1) + 1
            starts = free[np.concatenate([[0], breaks])]
            ends = free[np.concatenate([breaks - 1, [-1]])] + 1
        if self._depth and self._end[self._depth - 1] == starts[0]:
            self._end[self._depth - 1] = ends[0]
            starts, ends = starts[1:], ends[1:]
        self._push(starts, ends)
        self._total += len(free)

    def _push(self, starts: Numbers, ends: Numbers) -> None:
        depth = self._depth + len(starts)
        if depth > len(self._start):
            size = max(depth, 2 * len(self._start))
            self._start = np.resize(self._start, size)
            self._end = np.resize(self._end, size)
        self._start[self._depth : depth], self._end[self._depth : depth] = starts, ends
        self._depth = depth
        self._pushed += len(starts)

    def take(self, count: int) -> Selection:
        """Take `count` numbers off the stack, which has as many or more."""
        assert count <= self._total
        if not count:
            return range(0)
        if self._depth and self._end[self._depth - 1] - self._start[self._depth - 1] < count:
            self._join()
        self._total -= count
        top = self._depth - 1
        if self._end[top] - self._start[top] > count:
            start = int(self._start[top])
            self._start[top] += count
            return range(start, start + count)
        return self._take_runs(count)

    def _take_runs(self, count: int) -> Selection:
        """Take `count` numbers, which are no more than there are, of several runs."""
        low = max(self._depth - count, 0)
        starts = self._start[low : self._depth][::-1].copy()  # the run that is used first is first
        taken = np.cumsum(self._end[low : self._depth][::-1] - starts)
        last = int(np.searchsorted(taken, count))
        lengths = np.diff(np.minimum(taken[: last + 1], count), prepend=0)
        self._depth -= last + 1
        if taken[last] > count:
            self._start[self._depth] = starts[last] + lengths[last]
            self._depth += 1
        offsets = starts[: last + 1] - np.cumsum(lengths) + lengths
        return compact(np.repeat(offsets, lengths) + np.arange(count))

    def _join(self) -> None:
        """Make longer runs of those that are adjacent, if many have come since the last time."""
        if self._pushed < self._depth // 2:
            return
        self._pushed = 0
        order = np.argsort(self._start[: self._depth])
        starts, ends = self._start[order], self._end[order]
        breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
        self._depth = 0
        self._push(starts[np.concatenate([[0], breaks])], ends[np.concatenate([breaks - 1, [-1]])])
        self._pushed = 0

    def all(self) -> list[int]:
        """All of them."""
        starts, ends = self._start[: self._depth].tolist(), self._end[: self._depth].tolist()
        runs = zip(starts, ends, strict=True)
        return [number for start, end in runs for number in range(start, end)]
