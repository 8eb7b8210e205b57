"""Page contents: what the bytes of a page are, stored or only described.

A content is a sequence of 4096-byte pages, numbered from 0. Frames refer to a page of a content
(see `frames`), so a gibibyte of described pages costs no memory, and copying a page copies a
reference. A content never changes, with one exception: memory that a client shares with the
machine (`StoredContent(..., stable=False)`) may change at any time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.computed_pages import (
    checksums_by_first_word,
    checksums_by_last_words,
    splitmix_pages,
)
from dksmfs.kernel.linear import Selection, compact, numbers
from dksmfs.kernel.page_bytes import (
    PAGE_SIZE,
    Addresses,
    Checksums,
    Rows,
    Words,
    checksum_adjacent,
    checksum_each,
    checksum_rows,
    equal_bytes,
    fingerprint_rows,
)
from dksmfs.kernel.work import Work

_WORDS: Final = PAGE_SIZE // 8
_U64_LIMIT: Final = 1 << 64

_ROWS_AT_ONCE: Final = 1024  # 4 MiB of generated pages: numpy takes huge pages for them

# From so many pages on, computing checksums without the pages is faster than hashing these.
_MANY_SEED_PAGES: Final = 128
_MANY_INDEX_PAGES: Final = 1024

_RUN_PAGES: Final = (512, 64)  # equal pages in a row that are looked for
_RUN_PROBES: Final = 4  # that must look alike before all are compared
_ZERO_PAGES: Final = 64  # zeros in a row that are looked for in memory that may change
_ZEROS: Final = np.zeros(_ZERO_PAGES * PAGE_SIZE, np.uint8)  # never written: takes no memory

Indices = npt.NDArray[np.int64]  # page numbers within a content


class Content(ABC):
    """A sequence of pages."""

    stable: bool = True
    """False if the bytes may change behind the machine's back."""

    uniform: bool = False
    """Whether all pages are known to be alike."""

    quick: bool = False
    """Whether checksums take next to nothing: 100 ns a page at the most."""

    held_bytes: int = 0
    """What it takes of our own memory; memory that a client shares does not count."""

    @abstractmethod
    def rows(self, indices: Indices) -> Rows:
        """The bytes of the pages at `indices`, a row each. Not to be written to."""

    def addresses(self, indices: Indices) -> Addresses:
        """Where the pages at `indices` are in memory; 0 for those that are not stored as such."""
        return np.zeros(len(indices), np.int64)

    def checksums(self, indices: Selection) -> Checksums:
        """The checksums of the pages at `indices`."""
        checksums = np.empty(len(indices), np.uint32)
        for start in range(0, len(indices), _ROWS_AT_ONCE):
            here = slice(start, start + _ROWS_AT_ONCE)
            checksums[here] = checksum_rows(self.rows(numbers(indices[here])))
        return checksums


class StoredContent(Content):
    """Bytes held by `buffer`; the last page is filled up with zeros.

    `stable` is False for memory that somebody else may go on writing.
    """

    def __init__(self, buffer: bytes | bytearray | memoryview, *, stable: bool = True) -> None:
        self._bytes = np.frombuffer(buffer, np.uint8)
        self._whole = len(self._bytes) // PAGE_SIZE
        self._rows = self._bytes[: self._whole * PAGE_SIZE].reshape(self._whole, PAGE_SIZE)
        self._memory = self._bytes.data
        self._address = self._bytes.ctypes.data
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
        whole = indices < self._whole
        rows[whole] = self._rows[indices[whole]]
        tail = self._bytes[self._whole * PAGE_SIZE :]
        rows[~whole, : len(tail)] = tail
        return rows

    def _adjacent(self, indices: Selection) -> slice | None:
        """The pages as a slice, if they follow each other and are whole."""
        if not len(indices) or indices[-1] >= self._whole:
            return None
        adjacent = compact(indices)
        return slice(adjacent.start, adjacent.stop) if isinstance(adjacent, range) else None

    def checksums(self, indices: Selection) -> Checksums:
        adjacent = self._adjacent(indices)
        if adjacent is not None:
            size = slice(adjacent.start * PAGE_SIZE, adjacent.stop * PAGE_SIZE)
            return checksum_adjacent(self._memory[size])
        pages = numbers(indices)
        if (pages >= self._whole).any():
            return super().checksums(pages)
        rows = map(self._rows.__getitem__, pages.tolist())
        return checksum_each(rows)

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
        """Those of the `starts`, counted from page `first`, where so many equal pages begin."""
        probes = np.arange(0, pages, pages // _RUN_PROBES)
        words = self._rows.view(np.uint64)[first + starts[:, None] + probes, 0]
        likely = starts[(words == words[:, :1]).all(axis=1)]
        begin = self._address + (first + likely) * PAGE_SIZE
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
        begin = self._address + (adjacent.start + likely) * PAGE_SIZE
        zeros = np.full(len(likely), _ZEROS.ctypes.data)
        same = yield from equal_bytes(begin, zeros, np.full(len(likely), len(_ZEROS)))
        runs: Indices = likely[same][:, None] + np.arange(_ZERO_PAGES)
        return runs.reshape(-1)

    def fingerprints(self, chosen: Selection) -> Words:
        """A number that pages with equal bytes share, from a few words of each."""
        adjacent = self._adjacent(chosen)
        if adjacent is not None:
            return fingerprint_rows(self._rows[adjacent])
        indices = numbers(chosen)
        whole = indices < self._whole
        if whole.all():
            return fingerprint_rows(self._rows, indices)
        fingerprints = np.empty(len(indices), np.uint64)
        fingerprints[whole] = fingerprint_rows(self._rows, indices[whole])
        fingerprints[~whole] = fingerprint_rows(self.rows(indices[~whole]))
        return fingerprints

    def addresses(self, indices: Indices) -> Addresses:
        return np.where(indices < self._whole, self._address + indices * PAGE_SIZE, 0)


def _rows_of_words(words: Words) -> Rows:
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

    def _words(self, count: int) -> Words:
        return np.zeros((count, _WORDS), np.uint64)

    def _states(self, indices: Indices) -> Words:
        return indices.astype(np.uint64) + np.uint64(self.value)  # wraps at 2**64


class _Uniform(_Described):
    """Pages that are all the same."""

    uniform = True
    quick = True

    def checksums(self, indices: Selection) -> Checksums:
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
    quick = True

    def rows(self, indices: Indices) -> Rows:
        words = self._words(len(indices))
        words[:, 0] = self._states(indices)
        return _rows_of_words(words)

    def checksums(self, indices: Selection) -> Checksums:
        if len(indices) < _MANY_INDEX_PAGES:
            return super().checksums(indices)
        return checksums_by_first_word(self._states(numbers(indices)))


class PatternContent(_Described):
    """Page i: 512 outputs of splitmix64, 8 bytes little-endian each, from state value + i."""

    kind = "pattern"

    def rows(self, indices: Indices) -> Rows:
        return _rows_of_words(splitmix_pages(self._states(indices)))


class SeedContent(_Described):
    """Page i: 4080 zero bytes, then value and i as 8 bytes little-endian each.

    No two pages of one seed are equal, nor of two seeds.
    """

    kind = "seed"
    quick = True

    def rows(self, indices: Indices) -> Rows:
        words = self._words(len(indices))
        words[:, -2] = self.value
        words[:, -1] = indices
        return _rows_of_words(words)

    def checksums(self, indices: Selection) -> Checksums:
        if len(indices) < _MANY_SEED_PAGES:
            return super().checksums(indices)
        return checksums_by_last_words(self.value, numbers(indices).astype(np.uint64))


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
