"""Pages whose hash is computed."""

import pytest

from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.memory.hashing.computed import Computed
from tests.kernel.programs import (
    pages_done,
)


@pytest.mark.parametrize(
    ("text", "computed"), [("zero", 200), ("const:1", 200), ("index:7", 200), ("pattern:1", 0)]
)
def test_pages_that_are_mostly_zeros_are_computed(text: str, computed: int) -> None:
    assert pages_done([("map", parse_content(text), 0, 0)], Computed, Batches) == [computed]
