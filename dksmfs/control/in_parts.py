"""Long lists, a part at a time."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from dksmfs.kernel.pausing import Work

T = TypeVar("T")
R = TypeVar("R")

PART_ITEMS: Final = 128
"""Items that are dealt with between two pauses."""


def in_parts(convert: Callable[[T], R], items: Sequence[T]) -> Work[list[R]]:
    """What `convert` makes of each item."""
    found: list[R] = []
    for at in range(0, len(items), PART_ITEMS):
        found += map(convert, items[at : at + PART_ITEMS])
        yield
    return found
