"""The checksum of a page, as DKSM takes it: the low 32 bits of XXH64 with seed 0.

What is done for each page from Python costs about as much as half of its checksum, so each of
these does many pages with as little as possible for each.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from xxhash import xxh64_digest

from dksmfs.kernel.units import PAGE_SIZE

Rows = npt.NDArray[np.uint8]  # the bytes of pages, shape (pages, 4096)
Checksums = npt.NDArray[np.uint32]

_SLICES_PAGES: Final = 1024
_PAGE_SLICES: Final = tuple(
    slice(start, start + PAGE_SIZE) for start in range(0, _SLICES_PAGES * PAGE_SIZE, PAGE_SIZE)
)
"""The pages of 4 MiB. A memoryview, sliced by what exists already, costs half of an array's row."""


def checksum_rows(rows: Rows) -> Checksums:
    """The checksum of each row of `rows`."""
    return checksum_adjacent(rows.reshape(-1).data)


def checksum_adjacent(memory: memoryview) -> Checksums:
    """The checksum of each page of `memory`."""
    checksums = np.empty(len(memory) // PAGE_SIZE, np.uint32)
    for start in range(0, len(checksums), _SLICES_PAGES):
        count = min(_SLICES_PAGES, len(checksums) - start)
        chunk = memory[start * PAGE_SIZE : (start + count) * PAGE_SIZE]
        digests = b"".join([xxh64_digest(chunk[page]) for page in _PAGE_SLICES[:count]])
        checksums[start : start + count] = _low_halves(digests)
    return checksums


def checksum_each(pages: Iterable[Any]) -> Checksums:
    """DKSM's checksum of each page, any object that shows its bytes: the low 32 bits of XXH64 with
    seed 0."""
    return _low_halves(b"".join([xxh64_digest(page) for page in pages]))


def _low_halves(digests: bytes) -> Checksums:
    """Of numbers of 64 bits, as xxhash writes them: the most significant byte first."""
    return np.frombuffer(digests, ">u4")[1::2].astype(np.uint32)
