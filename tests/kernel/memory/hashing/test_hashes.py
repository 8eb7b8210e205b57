"""Each way to find hashes without hashing, alone, against the engine without any."""

import pytest
from hypothesis import given, settings

from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.machine import SHORTCUTS, Shortcut
from dksmfs.kernel.memory.hashing.hashes import HashShortcut
from tests.kernel.conftest import programs_profile
from tests.kernel.programs import Program, compare_with_page_by_page, programs, short_contents


@pytest.mark.parametrize("shortcut", [one for one in SHORTCUTS if issubclass(one, HashShortcut)])
@settings(programs_profile(), max_examples=15)
@given(program=programs(short_contents, most=8))
def test_each_alone(shortcut: Shortcut, program: Program) -> None:
    compare_with_page_by_page(program, 32, shortcut, Batches)
