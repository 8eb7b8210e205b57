"""Pages that are the same pages of a description."""

import numpy as np

from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.memory.hashing.same_pages import SamePages
from tests.kernel.programs import (
    Program,
    counted,
    pages_done,
)


def test_pages_of_a_description_are_hashed_once() -> None:
    content = parse_content("seed:1")
    program: Program = [("map", content, 0, 0), ("map", content, 0, 0), ("exit", content, 0, 0)]
    assert pages_done(program, SamePages, Batches) == [0, 200, 0]


def test_stored_pages_are_no_pages_of_a_description() -> None:
    content = counted(np.arange(100))
    program: Program = [("map", content, 0, 0), ("map", content, 0, 0)]
    assert pages_done(program, SamePages, Batches) == [0, 0]
