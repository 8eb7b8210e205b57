"""The hash of a page: XXH64 with seed 0. DKSM's checksum of the page is the low 32 bits of it.

What is done for each page from Python costs about as much as half of its hash, so each of these
does many pages with as little as possible for each.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from xxhash import xxh64_digest

from dksmfs.kernel.units import PAGE_SIZE

Rows = npt.NDArray[np.uint8]  # the bytes of pages, shape (pages, 4096)
Hashes = npt.NDArray[np.uint64]
Checksums = npt.NDArray[np.uint32]

_SLICES_PAGES: Final = 1024
_PAGE_SLICES: Final = tuple(
    slice(start, start + PAGE_SIZE) for start in range(0, _SLICES_PAGES * PAGE_SIZE, PAGE_SIZE)
)
"""The pages of 4 MiB. A memoryview, sliced by what exists already, costs half of an array's row."""


def hash_rows(rows: Rows) -> Hashes:
    """The hash of each row of `rows`."""
    return hash_adjacent(rows.reshape(-1).data)


def hash_adjacent(memory: memoryview) -> Hashes:
    """The hash of each page of `memory`."""
    hashes = np.empty(len(memory) // PAGE_SIZE, np.uint64)
    for start in range(0, len(hashes), _SLICES_PAGES):
        count = min(_SLICES_PAGES, len(hashes) - start)
        chunk = memory[start * PAGE_SIZE : (start + count) * PAGE_SIZE]
        digests = b"".join([xxh64_digest(chunk[page]) for page in _PAGE_SLICES[:count]])
        hashes[start : start + count] = np.frombuffer(digests, ">u8")
    return hashes


def hash_each(pages: Iterable[Any]) -> Hashes:
    """The hash of each page, any object that shows its bytes."""
    # xxhash writes numbers with the most significant byte first.
    digests = b"".join([xxh64_digest(page) for page in pages])
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def checksums_of(hashes: Hashes, bits: int) -> Checksums:
    """DKSM's checksums, of pages with these hashes; the kernel's have 32 `bits`."""
    return hashes.astype(np.uint32) & np.uint32((1 << bits) - 1)
