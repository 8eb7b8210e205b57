"""Pages that are the same pages of a description."""

import numpy as np
from hypothesis import given, settings

from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.memory.hashing.same_pages import SamePages
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
def test_same_pages_alone(program: Program) -> None:
    compare_with_page_by_page(program, 32, SamePages, Batches)


def test_pages_of_a_description_are_hashed_once() -> None:
    content = parse_content("seed:1")
    program: Program = [("map", content, 0, 0), ("map", content, 0, 0), ("exit", content, 0, 0)]
    assert pages_done(program, SamePages, Batches) == [0, 200, 0]


def test_stored_pages_are_no_pages_of_a_description() -> None:
    content = counted(np.arange(100))
    program: Program = [("map", content, 0, 0), ("map", content, 0, 0)]
    assert pages_done(program, SamePages, Batches) == [0, 0]
