"""Pages that are alike in a row."""

import numpy as np
import pytest

from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.memory.hashing.repetitions import Repetitions
from dksmfs.kernel.units import PAGE_SIZE
from tests.kernel.programs import (
    Program,
    counted,
    pages_done,
)


def test_of_a_row_of_equal_pages_the_first_is_hashed() -> None:
    """A batch has 64 pages."""
    program: Program = [("map", counted(np.repeat([3, 4], 64)), 0, 0)]
    assert pages_done(program, Repetitions, Batches) == [126]


@pytest.mark.parametrize(("value", "found"), [(0, 128), (1, 0)])
def test_of_memory_that_a_client_may_write_zeros_only_are_compared(value: int, found: int) -> None:
    memory = bytes([value]) * (128 * PAGE_SIZE)
    program: Program = [("map", StoredContent(memory, stable=False), 0, 0)]
    assert pages_done(program, Repetitions, Batches) == [found]
