"""Comparing pages in our own memory."""

import ctypes
from typing import Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.pausing import Work
from dksmfs.kernel.units import PAGE_SIZE, Mask

Addresses = npt.NDArray[np.int64]  # in our own memory, bytes
Words = npt.NDArray[np.uint64]

_COMPARED_PAGES: Final = (64, 8, 1)
"""Pages compared by one call, and by the calls after it where it finds a difference. Both sides of
a call fit in the processor's L2 cache. Equal pages take few calls, and one that differs some 20."""

_COMPARED_BYTES: Final = 1024 * PAGE_SIZE  # between pauses

_FEW_PAGES: Final = (
    64  # up to this number, to compare one by one is faster than to find adjacent ones
)

# PyDLL does not let go of the interpreter's lock, which takes longer than comparing a page.
_memcmp = ctypes.PyDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def equal_pages(left: Addresses, right: Addresses) -> Work[Mask]:
    """Whether the page at address `left[i]` has the same bytes as the one at `right[i]`."""
    if len(left) <= _FEW_PAGES:
        return (yield from equal_bytes(left, right, np.full(len(left), PAGE_SIZE)))
    # What is asked twice in a row is answered once: many pages often are compared with one.
    again = np.zeros(len(left), np.bool_)
    again[1:] = (left[1:] == left[:-1]) & (right[1:] == right[:-1])
    asked = ~again & (left != right)
    if asked.all():
        return (yield from _equal_chains(left, right))
    equal = ~asked
    equal[asked] = yield from _equal_chains(left[asked], right[asked])
    answers: Mask = equal[np.maximum.accumulate(np.where(again, 0, np.arange(len(left))))]
    return answers


def _equal_chains(left: Addresses, right: Addresses) -> Work[Mask]:
    """`equal_pages`; pages in a row that shall all equal one page are compared with their
    predecessors instead. That is one comparison of memory with itself, and proves the same if it
    finds no difference."""
    follows = np.zeros(len(left), np.bool_)
    follows[1:] = (np.diff(left) == PAGE_SIZE) & (right[1:] == right[:-1])
    if not follows.any():
        return (yield from _equal_runs(left, right, _COMPARED_PAGES))
    neighbours = np.where(follows, left - PAGE_SIZE, right)
    equal = yield from _equal_runs(left, neighbours, _COMPARED_PAGES)
    chain = np.cumsum(~follows)
    broken = np.zeros(len(left) + 1, np.bool_)
    broken[chain[~equal]] = True
    unproven = follows & broken[chain]
    if unproven.any():
        ours, theirs = left[unproven], right[unproven]
        equal[unproven] = yield from _equal_runs(ours, theirs, _COMPARED_PAGES)
    return equal


def _equal_runs(left: Addresses, right: Addresses, at_once: tuple[int, ...]) -> Work[Mask]:
    """`equal_pages`, in one go for up to `at_once[0]` pages that follow each other on both sides;
    by less at once where these differ."""
    starts = np.ones(len(left), np.bool_)
    starts[1:] = (np.diff(left) != PAGE_SIZE) | (np.diff(right) != PAGE_SIZE)
    starts[:: at_once[0]] = True
    first = np.flatnonzero(starts)
    pages = np.diff(first, append=len(left))
    same = yield from equal_bytes(left[first], right[first], pages * PAGE_SIZE)
    equal = np.repeat(same, pages)
    undecided = np.repeat(~same & (pages > 1), pages)
    if undecided.any():
        ours, theirs = left[undecided], right[undecided]
        equal[undecided] = yield from _equal_runs(ours, theirs, at_once[1:])
    return equal


def equal_bytes(left: Addresses, right: Addresses, sizes: npt.NDArray[np.int64]) -> Work[Mask]:
    """Whether the `sizes[i]` bytes at `left[i]` are those at `right[i]`."""
    equal = np.empty(len(left), np.bool_)
    at_once = max(_COMPARED_BYTES // int(sizes.max(initial=1)), 1)
    for start in range(0, len(left), at_once):
        here = slice(start, start + at_once)
        orders = map(_memcmp, left[here].tolist(), right[here].tolist(), sizes[here].tolist())
        equal[here] = np.fromiter(orders, np.intc) == 0
        yield
    return equal
