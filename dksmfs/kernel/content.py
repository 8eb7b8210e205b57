"""Page contents: what the bytes of a page are, stored or only described.

A content is a sequence of 4096-byte pages, numbered from 0. Frames refer to a page of a content
(see `frames`), so a gibibyte of described pages costs no memory, and copying a page copies a
reference. A content never changes, with one exception: memory that a client shares with the
machine (`StoredContent(..., stable=False)`) may change at any time.
"""

import ctypes
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
from xxhash import xxh64_intdigest

PAGE_SIZE: Final = 4096
_WORDS: Final = PAGE_SIZE // 8
_U64_LIMIT: Final = 1 << 64
_ROWS_AT_ONCE: Final = 1024  # 4 MiB of generated pages: they stay in the processor's cache

_RUN_PAGES: Final = 64  # pages compared at once: both sides stay in the processor's cache

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

Rows = npt.NDArray[np.uint8]  # shape (pages, 4096)
Indices = npt.NDArray[np.int64]  # page numbers within a content
Checksums = npt.NDArray[np.uint32]
Addresses = npt.NDArray[np.int64]  # in our own memory, bytes


def page_checksum(page: bytes | memoryview) -> int:
    """DKSM's checksum of one page: the low 32 bits of XXH64 with seed 0."""
    return xxh64_intdigest(page) & 0xFFFFFFFF


def checksum_rows(rows: Rows | Sequence[Rows]) -> Checksums:
    """The checksum of each row of `rows`."""
    digests = np.fromiter(map(xxh64_intdigest, rows), np.uint64, len(rows))
    return digests.astype(np.uint32)  # keeps the low 32 bits


def equal_pages(left: Addresses, right: Addresses) -> npt.NDArray[np.bool_]:
    """Whether the page at address `left[i]` has the same bytes as the one at `right[i]`."""
    # Pages in a row that shall all equal one page are compared with their predecessors instead:
    # that is one comparison of memory with itself, and proves the same if it finds no difference.
    follows = np.zeros(len(left), np.bool_)
    follows[1:] = (np.diff(left) == PAGE_SIZE) & (np.diff(right) == 0)
    equal = _equal_runs(left, np.where(follows, left - PAGE_SIZE, right))
    if follows.any() and not equal.all():
        equal = _equal_runs(left, right)
    return equal


def _equal_runs(left: Addresses, right: Addresses) -> npt.NDArray[np.bool_]:
    """`equal_pages`, in one go for pages that follow each other on both sides."""
    equal = np.ones(len(left), np.bool_)
    follows = (np.diff(left) == PAGE_SIZE) & (np.diff(right) == PAGE_SIZE)
    starts = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(left)] if len(left) else []
    for start, end in itertools.pairwise(starts):
        for at in range(start, end, _RUN_PAGES):
            run = slice(at, min(at + _RUN_PAGES, end))
            if _memcmp(int(left[at]), int(right[at]), (run.stop - at) * PAGE_SIZE):
                equal[run] = [
                    _memcmp(one, other, PAGE_SIZE) == 0
                    for one, other in zip(left[run].tolist(), right[run].tolist(), strict=True)
                ]
    return equal


class Content(ABC):
    """A sequence of pages."""

    stable: bool = True
    """False if the bytes may change behind the machine's back."""

    held_bytes: int = 0
    """What it takes of our own memory; memory that a client shares does not count."""

    @abstractmethod
    def rows(self, indices: Indices) -> Rows:
        """The bytes of the pages at `indices`, a row each. Not to be written to."""

    def addresses(self, indices: Indices) -> Addresses:
        """Where the pages at `indices` are in memory; 0 for those that are not stored as such."""
        return np.zeros(len(indices), np.int64)

    def checksums(self, indices: Indices) -> Checksums:
        """The checksums of the pages at `indices`."""
        parts = [
            checksum_rows(self.rows(indices[at : at + _ROWS_AT_ONCE]))
            for at in range(0, len(indices), _ROWS_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.uint32)


class StoredContent(Content):
    """Bytes held by `buffer`; the last page is filled up with zeros.

    `stable` is False for memory that somebody else may go on writing.
    """

    def __init__(self, buffer: bytes | bytearray | memoryview, *, stable: bool = True) -> None:
        self._bytes = np.frombuffer(buffer, np.uint8)
        self._whole = len(self._bytes) // PAGE_SIZE
        self._rows = self._bytes[: self._whole * PAGE_SIZE].reshape(self._whole, PAGE_SIZE)
        self._address = self._bytes.ctypes.data
        self.stable = stable
        self.held_bytes = 0 if isinstance(buffer, memoryview) else len(buffer)

    @property
    def page_count(self) -> int:
        """Pages, a partial one at the end included."""
        return -(-len(self._bytes) // PAGE_SIZE)

    def rows(self, indices: Indices) -> Rows:
        count = len(indices)
        if count and indices[-1] < self._whole:
            first = int(indices[0])
            if count == 1 or (indices[-1] - first == count - 1 and (np.diff(indices) == 1).all()):
                return self._rows[first : first + count]  # a view: nothing is copied
        rows = np.zeros((count, PAGE_SIZE), np.uint8)
        whole = indices < self._whole
        rows[whole] = self._rows[indices[whole]]
        tail = self._bytes[self._whole * PAGE_SIZE :]
        rows[~whole, : len(tail)] = tail
        return rows

    def checksums(self, indices: Indices) -> Checksums:
        if len(indices) and indices.max() < self._whole:
            rows = self._rows
            return checksum_rows([rows[index] for index in indices.tolist()])  # copies no page
        return super().checksums(indices)

    def addresses(self, indices: Indices) -> Addresses:
        return np.where(indices < self._whole, self._address + indices * PAGE_SIZE, 0)


def _rows_of_words(words: npt.NDArray[np.uint64]) -> Rows:
    return words.astype("<u8", copy=False).view(np.uint8)


@dataclass(frozen=True)
class _Described(Content):
    """Pages computed from one number, written `KIND:VALUE`."""

    value: int
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        if not 0 <= self.value < _U64_LIMIT:
            raise ValueError(f"{self.kind}:{self.value}: the number must fit in 64 bits")

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"

    def _words(self, count: int) -> npt.NDArray[np.uint64]:
        return np.zeros((count, _WORDS), np.uint64)

    def _states(self, indices: Indices) -> npt.NDArray[np.uint64]:
        return indices.astype(np.uint64) + np.uint64(self.value)  # wraps at 2**64


class _Uniform(_Described):
    """Pages that are all the same."""

    def checksums(self, indices: Indices) -> Checksums:
        one = checksum_rows(self.rows(np.zeros(1, np.int64)))
        return np.repeat(one, len(indices))


class ConstContent(_Uniform):
    """Every page: the value as 8 bytes little-endian, then zeros."""

    kind = "const"

    def rows(self, indices: Indices) -> Rows:
        words = self._words(len(indices))
        words[:, 0] = self.value
        return _rows_of_words(words)


class ZeroContent(_Uniform):
    """Every page: 4096 zero bytes."""

    kind = "zero"

    def __init__(self) -> None:
        super().__init__(0)

    def __str__(self) -> str:
        return self.kind

    def rows(self, indices: Indices) -> Rows:
        return np.zeros((len(indices), PAGE_SIZE), np.uint8)


class IndexContent(_Described):
    """Page i: value + i as 8 bytes little-endian, then zeros."""

    kind = "index"

    def rows(self, indices: Indices) -> Rows:
        words = self._words(len(indices))
        words[:, 0] = self._states(indices)
        return _rows_of_words(words)


class PatternContent(_Described):
    """Page i: 512 outputs of splitmix64, 8 bytes little-endian each, from state value + i."""

    kind = "pattern"

    def rows(self, indices: Indices) -> Rows:
        steps = np.arange(1, _WORDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = self._states(indices)[:, None] + steps
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return _rows_of_words(z ^ (z >> np.uint64(31)))


class SeedContent(_Described):
    """Page i: 4080 zero bytes, then value and i as 8 bytes little-endian each.

    No two pages of one seed are equal, nor of two seeds.
    """

    kind = "seed"

    def rows(self, indices: Indices) -> Rows:
        words = self._words(len(indices))
        words[:, -2] = self.value
        words[:, -1] = indices
        return _rows_of_words(words)


_WITH_VALUE: Final[dict[str, Callable[[int], Content]]] = {
    described.kind: described
    for described in (ConstContent, IndexContent, PatternContent, SeedContent)
}


def parse_content(text: str) -> Content:
    """The content that `text` describes: `zero`, `const:V`, `index:B`, `pattern:S` or `seed:N`.

    Numbers are unsigned 64-bit, decimal or hexadecimal (0x...). ValueError says what is wrong.
    """
    kind, colon, number = text.partition(":")
    if text == ZeroContent.kind:
        return ZeroContent()
    if kind not in _WITH_VALUE or not colon:
        raise ValueError(f"content {text!r}: expected zero, const:V, index:B, pattern:S or seed:N")
    try:
        value = int(number, 16 if number.lower().startswith("0x") else 10)
    except ValueError:
        raise ValueError(f"content {text!r}: {number!r} is not a number") from None
    return _WITH_VALUE[kind](value)
