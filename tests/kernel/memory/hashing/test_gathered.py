"""Pages that were written one by one."""

import numpy as np
from hypothesis import given, settings

from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.memory.hashing.gathered import Gathered
from tests.kernel.conftest import programs_profile
from tests.kernel.programs import (
    Program,
    compare_with_page_by_page,
    counted,
    pages_done,
    programs,
    short_contents,
)


@settings(programs_profile(), max_examples=15)
@given(programs(short_contents, most=8))
def test_gathered_alone(program: Program) -> None:
    compare_with_page_by_page(program, 32, Gathered, Batches)


def test_pages_that_were_written_one_by_one_are_hashed_together() -> None:
    content = counted(np.arange(60))
    program: Program = [("map", content, 0, 0), ("scatter", content, 0, 0)]
    assert pages_done(program, Gathered, Batches) == [0, 20]
