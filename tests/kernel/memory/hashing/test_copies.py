"""Pages in a row that are copies of pages in a row."""

from unittest.mock import patch

import numpy as np
import pytest

from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.memory.hashing.copies import Copies
from dksmfs.kernel.memory.hashing.hashes import FrameHashes, Question
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import Selection
from tests.kernel.programs import (
    Program,
    counted,
    pages_done,
    run,
    small_thresholds,
)


@pytest.mark.parametrize(("distance", "hashed"), [(0, 16), (500, 128)])
def test_all_but_the_first_copies_of_a_batch_are_compared(distance: int, hashed: int) -> None:
    """A batch has 64 pages, of which 8 are hashed first."""
    program: Program = [
        ("map", counted(np.arange(128) + start), 0, 0) for start in (1, 1 + distance)
    ]
    counts: list[int] = []
    hash_each = FrameHashes.hash_each

    def counting(hashes: FrameHashes, question: Question, left: Selection) -> Work[None]:
        counts.append(len(left))
        yield from hash_each(hashes, question, left)

    with small_thresholds(), patch.object(FrameHashes, "hash_each", counting):
        steps = run(Machine("never", shortcuts=(Copies, Batches)), program)
        next(steps)
        counts.clear()
        list(steps)
    assert sum(counts) == hashed


def test_memory_that_a_client_may_write_has_no_copies() -> None:
    memory = np.arange(1, 129 * 512, dtype="<u8").tobytes()
    program: Program = [
        ("map", StoredContent(memory, stable=False), 0, 0),
        ("map", StoredContent(memory, stable=False), 0, 0),
    ]
    assert pages_done(program, Copies, Batches) == [0, 0]


def test_copies_in_a_row_that_end() -> None:
    """One of three copies of a region has another page; what follows is no copy of anything."""
    numbers = np.arange(1, 301)
    changed = np.where(numbers == 200, 0, numbers)
    program = [
        ("map", counted(values), 0, 0) for values in (numbers, numbers, changed, numbers + 300)
    ]
    with patch.object(Copies, "first_pages", 100):
        seen = list(run(Machine("never"), program))
    assert seen[0::2] == [
        (300, 0, 0, 300),
        (600, 300, 0, 300),
        (900, 599, 0, 301),
        (1200, 599, 0, 601),
    ]
