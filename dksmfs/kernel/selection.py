"""Frames or pages that are dealt with together: an array of numbers, or a range of them.

A region gets its frames at one time, so most selections count up by one. A range takes no memory,
and what is known of its members is looked at in place (a slice), not copied.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.units import Mask, Numbers

Kind = TypeVar("Kind", bound="np.generic[Any]")
Selection = Numbers | range
"""An array of frames or pages, or a range, which counts up by one."""


def at(selection: Selection) -> Numbers | slice:
    """The selection as an index into arrays; views instead of copies where it is a range."""
    return slice(selection.start, selection.stop) if isinstance(selection, range) else selection


def numbers(selection: Selection) -> Numbers:
    """The selection as an array."""
    if isinstance(selection, range):
        return np.arange(selection.start, selection.stop)
    return selection


def part(selection: Selection, positions: Selection | Mask) -> Selection:
    """The members of the selection at some positions."""
    if isinstance(positions, range):
        return selection[positions.start : positions.stop]
    if not isinstance(selection, range):
        return selection[positions]
    if positions.dtype == np.bool_:
        positions = np.flatnonzero(positions)
    return selection.start + positions


def compact(selection: Selection) -> Selection:
    """The same selection, as a range if its members count up by one."""
    if isinstance(selection, range) or not len(selection):
        return selection
    first, count = int(selection[0]), len(selection)
    if count == 1 or (selection[-1] - first == count - 1 and (np.diff(selection) == 1).all()):
        return range(first, first + count)
    return selection


def distinct(values: npt.NDArray[Kind]) -> npt.NDArray[Kind]:
    """The values in ascending order, each once; np.unique() would load a package that takes longer
    than most calls."""
    ascending = np.sort(values)
    return ascending[starts(ascending)]


def starts(values: npt.NDArray[np.generic]) -> Mask:
    """Where another value begins."""
    begins = np.ones(len(values), np.bool_)
    begins[1:] = values[1:] != values[:-1]
    return begins


def by_block(ascending: Numbers, size: int) -> Iterator[tuple[int, slice]]:
    """The blocks of `size` numbers that ascending numbers are in: of each its number, and the
    positions of those in it."""
    blocks = ascending // size
    first = np.flatnonzero(starts(blocks))
    ends = np.append(first, len(blocks))[1:]
    for start, end in zip(first.tolist(), ends.tolist(), strict=True):
        yield int(blocks[start]), slice(start, end)
