"""Pages that are computed from one number: zero, const, index, pattern and seed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from dksmfs.kernel.content.content import Content, Indices
from dksmfs.kernel.content.formulas import (
    Words,
    hashes_by_first_word,
    hashes_by_last_words,
    splitmix_pages,
)
from dksmfs.kernel.content.xxh64 import Hashes, Rows, hash_rows
from dksmfs.kernel.selection import Selection, numbers
from dksmfs.kernel.units import PAGE_SIZE

_WORDS: Final = PAGE_SIZE // 8
_U64_LIMIT: Final = 1 << 64

# With this number of pages or more, it is faster to compute hashes without the pages.
_MANY_SEED_PAGES: Final = 128
_MANY_INDEX_PAGES: Final = 1024


def _rows_of_words(words: Words) -> Rows:
    return words.astype("<u8", copy=False).view(np.uint8)


@dataclass(frozen=True)
class _Described(Content):
    """Pages computed from one number, written `KIND:VALUE`."""

    value: int
    kind: ClassVar[str]
    described = True

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

    def page(self, index: int) -> bytes:  # noqa: ARG002 (all are alike)
        return self.value.to_bytes(8, "little").ljust(PAGE_SIZE, b"\0")

    def computed_hashes(self, indices: Selection) -> Hashes:
        one = hash_rows(self.rows(np.zeros(1, np.int64)))
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

    def computed_hashes(self, indices: Selection) -> Hashes:
        if len(indices) < _MANY_INDEX_PAGES:
            return self.hashes(indices)
        return hashes_by_first_word(self._states(numbers(indices)))


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

    def computed_hashes(self, indices: Selection) -> Hashes:
        if len(indices) < _MANY_SEED_PAGES:
            return self.hashes(indices)
        return hashes_by_last_words(self.value, numbers(indices).astype(np.uint64))


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
