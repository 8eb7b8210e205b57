"""Work that takes long: it pauses where others may look at the machine.

A generator yields at its pauses, and returns what was worked out. Whoever has no use for the
pauses runs it to its end.
"""

from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")
Work = Generator[None, None, Result]


def finished(work: Work[Result]) -> Result:
    """The result of the work, without pauses."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result
