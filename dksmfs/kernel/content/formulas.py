"""Pages that are computed from a word each, and the hashes of those that are mostly zeros.

XXH64 takes the 4096 bytes of a page as 128 stripes of four words, one word for each of four lanes,
which are merged at the end. If pages differ in one word, they do so in one lane. It is computed for
many pages at once, on an array of its states; and no page is needed.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

_PAGE_BYTES: Final = 4096
_PAGE_WORDS: Final = 512
_STRIPES: Final = 128
# Pages dealt with at once: what is computed for them stays in the processor's L2 cache.
_HASHED_AT_ONCE: Final = 8192  # 64 KiB of states
_GENERATED_AT_ONCE: Final = 64  # 256 KiB


def _constant(value: int) -> Words:
    """An array without dimensions; turning an int into one takes numpy 0.2 us, each time."""
    return np.array(value % (1 << 64), np.uint64)


_PRIME_1: Final = 0x9E3779B185EBCA87
_PRIME_2: Final = 0xC2B2AE3D27D4EB4F
_P1: Final = _constant(_PRIME_1)
_P2: Final = _constant(_PRIME_2)
_P3: Final = _constant(0x165667B19E3779F9)
_P4: Final = _constant(0x85EBCA77C2B2AE63)
_LENGTH: Final = _constant(_PAGE_BYTES)
_BITS: Final = tuple(_constant(bits) for bits in range(64))

_SPLITMIX_STEPS: Final = np.arange(1, _PAGE_WORDS + 1, dtype=np.uint64) * np.uint64(
    0x9E3779B97F4A7C15
)
_SPLITMIX_MIXES: Final = (
    (_BITS[30], _constant(0xBF58476D1CE4E5B9)),
    (_BITS[27], _constant(0x94D049BB133111EB)),
)

_FIRST_STATES: Final = (_PRIME_1 + _PRIME_2, _PRIME_2, 0, -_PRIME_1)  # of the lanes, with seed 0


def splitmix_pages(states: Words) -> Words:
    """A page for each of `states`: what splitmix64 puts out from there on."""
    words = np.empty((len(states), _PAGE_WORDS), np.uint64)
    scratch = np.empty((min(len(states), _GENERATED_AT_ONCE), _PAGE_WORDS), np.uint64)
    for here in _blocks(len(states), _GENERATED_AT_ONCE):
        np.add(states[here, None], _SPLITMIX_STEPS, out=words[here])
        _mix_splitmix(words[here], scratch[: here.stop - here.start])
    return words


def _mix_splitmix(words: Words, scratch: Words) -> None:
    for bits, factor in _SPLITMIX_MIXES:
        np.right_shift(words, bits, out=scratch)
        words ^= scratch
        words *= factor
    np.right_shift(words, _BITS[31], out=scratch)
    words ^= scratch


def hashes_by_first_word(words: Words) -> Words:
    """The hash of each page of one of `words` and 511 zero words."""
    hashes = np.empty(len(words), np.uint64)
    first_states, last_states = _states_after(0), _states_after(_STRIPES)
    for here in _blocks(len(words), _HASHED_AT_ONCE):
        lane = _taken(first_states[0], words[here])
        _take_zeros(lane, _STRIPES - 1)
        hashes[here] = _merged([lane, *last_states[1:]])
    return hashes


def hashes_by_last_words(before_last: int, words: Words) -> Words:
    """The hash of each page of 510 zero words, the word `before_last`, and one of `words`."""
    hashes = np.empty(len(words), np.uint64)
    lanes = _states_after(_STRIPES - 1)
    stripe = np.array([[0], [0], [before_last]], np.uint64)
    fixed = [_taken(lane, word) for lane, word in zip(lanes[:3], stripe, strict=True)]
    for here in _blocks(len(words), _HASHED_AT_ONCE):
        hashes[here] = _merged([*fixed, _taken(lanes[3], words[here])])
    return hashes


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@cache
def _states_after(stripes: int) -> tuple[Words, ...]:
    """The state of each lane after a number of stripes of zeros, as arrays of one state."""
    states = np.array([[state % (1 << 64)] for state in _FIRST_STATES], np.uint64)
    _take_zeros(states, stripes)
    states.flags.writeable = False
    return tuple(states)


def _taken(states: Words, words: Words) -> Words:
    """The states of lanes that have taken one of `words` each."""
    taken = words * _P2
    taken += states
    _mix(taken, np.empty_like(taken))
    return taken


def _take_zeros(states: Words, count: int) -> None:
    """Update lanes with `count` zero words each."""
    scratch = np.empty_like(states)
    for _ in range(count):
        _mix(states, scratch)


def _mix(states: Words, scratch: Words) -> None:
    np.left_shift(states, _BITS[31], out=scratch)
    np.right_shift(states, _BITS[33], out=states)
    states |= scratch
    states *= _P1


def _merged(lanes: Iterable[Words]) -> Words:
    """The hashes of pages whose lanes have ended in these states; at least one lane has a
    state for each page."""
    lanes = list(lanes)
    merged = sum(map(_turned, lanes, (1, 7, 12, 18)), start=np.zeros(1, np.uint64))
    for lane in lanes:
        merged ^= _taken(_BITS[0], lane)
        merged *= _P1
        merged += _P4
    merged += _LENGTH
    for bits, prime in ((33, _P2), (29, _P3)):
        merged ^= merged >> _BITS[bits]
        merged *= prime
    merged ^= merged >> _BITS[32]
    return merged


def _turned(states: Words, bits: int) -> Words:
    turned: Words = states << _BITS[bits]
    turned |= states >> _BITS[64 - bits]
    return turned
