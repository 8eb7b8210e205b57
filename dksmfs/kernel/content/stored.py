"""Pages whose bytes are stored: written by a client, or shared with it."""

from typing import Final

import numpy as np

from dksmfs.kernel.content.comparison import equal_bytes
from dksmfs.kernel.content.content import Content, Indices
from dksmfs.kernel.content.xxh64 import Hashes, Rows, hash_adjacent, hash_each
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import Selection, compact, numbers
from dksmfs.kernel.units import PAGE_SIZE

_RUN_PAGES: Final = (512, 64)  # equal pages in a row that are looked for
_RUN_PROBES: Final = 4  # that must look alike before all are compared
_ZERO_PAGES: Final = 64  # zeros in a row that are looked for in memory that may change
_ZEROS: Final = np.zeros(_ZERO_PAGES * PAGE_SIZE, np.uint8)  # never written: takes no memory


class StoredContent(Content):
    """Bytes held by `buffer`, with zeros behind them.

    `stable` is False for memory that a client may go on writing.
    """

    def __init__(self, buffer: bytes | bytearray | memoryview, *, stable: bool = True) -> None:
        self._bytes = np.frombuffer(buffer, np.uint8)
        self.stored_pages = len(self._bytes) // PAGE_SIZE
        self._rows = self._bytes[: self.stored_pages * PAGE_SIZE].reshape(
            self.stored_pages, PAGE_SIZE
        )
        self._memory = self._bytes.data
        self.address = self._bytes.ctypes.data
        self.stable = stable
        self.held_bytes = 0 if isinstance(buffer, memoryview) else len(buffer)

    @property
    def page_count(self) -> int:
        """Pages, a partial one at the end included."""
        return -(-len(self._bytes) // PAGE_SIZE)

    def rows(self, indices: Indices) -> Rows:
        adjacent = self._adjacent(indices)
        if adjacent is not None:
            return self._rows[adjacent]  # a view: nothing is copied
        rows = np.zeros((len(indices), PAGE_SIZE), np.uint8)
        whole = indices < self.stored_pages
        rows[whole] = self._rows[indices[whole]]
        tail = self._bytes[self.stored_pages * PAGE_SIZE :]
        rows[indices == self.stored_pages, : len(tail)] = tail
        return rows

    def _adjacent(self, indices: Selection) -> slice | None:
        """The pages as a slice, if they follow each other and are whole."""
        if not len(indices) or indices[-1] >= self.stored_pages:
            return None
        adjacent = compact(indices)
        return slice(adjacent.start, adjacent.stop) if isinstance(adjacent, range) else None

    def page(self, index: int) -> bytes:
        page = self._memory[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
        return page.tobytes().ljust(PAGE_SIZE, b"\0")

    def hashes(self, indices: Selection) -> Hashes:
        adjacent = self._adjacent(indices)
        if adjacent is not None:
            size = slice(adjacent.start * PAGE_SIZE, adjacent.stop * PAGE_SIZE)
            return hash_adjacent(self._memory[size])
        pages = numbers(indices)
        if (pages >= self.stored_pages).any():
            return super().hashes(pages)
        rows = map(self._rows.__getitem__, pages.tolist())
        return hash_each(rows)

    def repetitions(self, indices: Selection) -> Work[Indices | None]:
        """For each page the position, in `indices`, of an earlier one that is proven to have the
        same bytes, or its own; None if none was found.

        What is found are runs of equal pages, zeros above all: they are compared with themselves,
        shifted by a page, which looks at half the memory that comparing with others does.
        """
        adjacent = self._adjacent(indices)
        if adjacent is None:
            return None
        earlier, found = np.arange(len(indices)), False
        for pages in _RUN_PAGES:
            if len(indices) < pages:
                continue
            starts = np.arange(0, len(indices) - pages + 1, pages)
            starts = starts[earlier[starts + 1] == starts + 1]  # where nothing was found yet
            same = yield from self._runs_of_equals(adjacent.start, starts, pages)
            found |= len(same) > 0
            earlier[same[:, None] + np.arange(pages)] = same[:, None]
        return earlier if found else None

    def _runs_of_equals(self, first: int, starts: Indices, pages: int) -> Work[Indices]:
        """Those of the `starts`, counted from page `first`, where `pages` equal pages begin."""
        probes = np.arange(0, pages, pages // _RUN_PROBES)
        words = self._rows.view(np.uint64)[first + starts[:, None] + probes, 0]
        likely = starts[(words == words[:, :1]).all(axis=1)]
        begin = self.address + (first + likely) * PAGE_SIZE
        sizes = np.full(len(likely), (pages - 1) * PAGE_SIZE)
        same = yield from equal_bytes(begin, begin + PAGE_SIZE, sizes)
        runs: Indices = likely[same]
        return runs

    def runs_of_zeros(self, indices: Selection) -> Work[Indices]:
        """The positions, in `indices`, of pages that are zeros and stand in whole runs of them."""
        adjacent = self._adjacent(indices)
        if adjacent is None:
            return np.empty(0, np.int64)
        starts = np.arange(0, len(indices) - _ZERO_PAGES + 1, _ZERO_PAGES)
        likely = starts[self._rows.view(np.uint64)[adjacent.start + starts, 0] == 0]
        begin = self.address + (adjacent.start + likely) * PAGE_SIZE
        zeros = np.full(len(likely), _ZEROS.ctypes.data)
        same = yield from equal_bytes(begin, zeros, np.full(len(likely), len(_ZEROS)))
        runs: Indices = likely[same][:, None] + np.arange(_ZERO_PAGES)
        return runs.reshape(-1)
