"""Pages whose hash was found before."""

import numpy as np

from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.memory.hashing.known import Known
from dksmfs.kernel.units import PAGE_SIZE
from tests.kernel.programs import (
    Program,
    counted,
    pages_done,
)


def test_pages_are_hashed_once_until_they_are_written() -> None:
    content = counted(np.arange(100))
    program: Program = [
        ("map", content, 0, 0),
        ("again", content, 0, 0),
        ("write", content, 0, 7),
        ("again", content, 0, 0),
    ]
    assert pages_done(program, Known, Batches) == [0, 100, 0, 99]


def test_memory_that_a_client_may_write_is_hashed_each_time() -> None:
    content = StoredContent(bytes(100 * PAGE_SIZE), stable=False)
    program: Program = [("map", content, 0, 0), ("again", content, 0, 0)]
    assert pages_done(program, Known, Batches) == [0, 0]
