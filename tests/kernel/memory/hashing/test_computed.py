"""Pages whose hash is computed."""

import pytest
from hypothesis import given, settings

from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.memory.hashing.computed import Computed
from tests.kernel.conftest import programs_profile
from tests.kernel.programs import (
    Program,
    compare_with_page_by_page,
    pages_done,
    programs,
    short_contents,
)


@settings(programs_profile(), max_examples=15)
@given(programs(short_contents, most=8))
def test_formulas_alone(program: Program) -> None:
    compare_with_page_by_page(program, 32, Computed, Batches)


@pytest.mark.parametrize(
    ("text", "computed"), [("zero", 200), ("const:1", 200), ("index:7", 200), ("pattern:1", 0)]
)
def test_pages_that_are_mostly_zeros_are_computed(text: str, computed: int) -> None:
    assert pages_done([("map", parse_content(text), 0, 0)], Computed, Batches) == [computed]
