"""Pages that were written one by one."""

import numpy as np

from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.memory.hashing.gathered import Gathered
from tests.kernel.programs import (
    Program,
    counted,
    pages_done,
)


def test_pages_that_were_written_one_by_one_are_hashed_together() -> None:
    content = counted(np.arange(60))
    program: Program = [("map", content, 0, 0), ("scatter", content, 0, 0)]
    assert pages_done(program, Gathered, Batches) == [0, 20]
