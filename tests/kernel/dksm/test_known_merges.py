"""Regions that merge as one before did."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dksmfs.kernel.content.content import Content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.dksm.known_merges import KnownMerges
from dksmfs.kernel.machine import Machine, Shortcut
from dksmfs.kernel.units import PAGE_SIZE
from tests.kernel.conftest import programs_profile
from tests.kernel.programs import (
    AT,
    Program,
    advertise,
    compare_with_page_by_page,
    counted,
    pages_done,
    programs,
    sharing,
)

NUMBERS = counted(np.arange(100))
OTHERS = counted(np.arange(100) + 50)  # half of the pages are among those of `NUMBERS`
ALIKE = counted(np.repeat(7, 100))
FLEET: Program = [("map", NUMBERS, 0, 0)] * 3  # the second merges page by page, the third as it did


@settings(programs_profile(), max_examples=40)
@given(programs(st.sampled_from([NUMBERS, NUMBERS, OTHERS, ALIKE]), most=10))
def test_known_merges_alone(program: Program) -> None:
    compare_with_page_by_page(FLEET[:1] + program, 32, KnownMerges, Batches)


@pytest.mark.parametrize("content", [NUMBERS, ALIKE])
def test_what_merged_once_merges_again(content: Content) -> None:
    program: Program = [("map", content, 0, 0)] * 4
    assert pages_done(program, KnownMerges, Batches)[2:] == [100, 100]


CHANGES: dict[str, Program] = {
    "descriptors are added": [("map", counted(np.arange(1000, 1010)), 0, 0)],
    "a page with a descriptor is written": [("write", NUMBERS, 0, 5)],
    "frames with descriptors are freed": [("exit", NUMBERS, 0, 0)] * 3,
    "descriptors are dropped": [("exit", NUMBERS, 0, 0)] * 2 + [("map", OTHERS, 0, 0)],
}


@pytest.mark.parametrize("steps", list(CHANGES.values()), ids=list(CHANGES))
def test_nothing_is_known_when_the_table_has_changed(steps: Program) -> None:
    program = FLEET + steps + FLEET[:1]
    assert pages_done(program, KnownMerges, Batches)[-1] == 0
    compare_with_page_by_page(program, 32, KnownMerges, Batches)


def test_nothing_is_known_of_memory_that_a_client_may_write() -> None:
    """Nor of any other, as what a page finds may have changed."""
    changing = StoredContent(bytearray(b"x" * PAGE_SIZE), stable=False)
    program = [*FLEET, ("map", changing, 0, 0), *FLEET]
    assert pages_done(program, KnownMerges, Batches)[-3:] == [0, 0, 0]


def test_what_a_client_writes_meanwhile_is_no_longer_merged_with() -> None:
    """The second and third region merge with pages that then get other bytes."""
    memory = np.zeros((100, PAGE_SIZE // 8), "<u8")
    memory[:, 0] = np.arange(100)
    changing = StoredContent(bytearray(memory.tobytes()), stable=False)
    program: Program = [
        ("map", changing, 0, 0),
        *FLEET,
        ("change", changing, 0, 5),
        ("change", changing, 9, 70),
        *FLEET,
    ]
    compare_with_page_by_page(program, 32, KnownMerges, Batches)


@pytest.mark.parametrize("shortcuts", [(), (KnownMerges, Batches)], ids=["none", "known"])
def test_a_frame_that_is_freed_on_the_way_makes_its_descriptor_stale(
    shortcuts: tuple[Shortcut, ...],
) -> None:
    """The first page of `two` merges with that of `one`, as the page of `three` did. Its frame is
    freed, and the second page passes by the descriptor of it."""
    machine = Machine("never", checksum_bits=0, shortcuts=shortcuts)  # all pages are in one chain
    machine.dksm.set_run(1)
    content = counted(np.array([1, 2]))
    one, two, three = (machine.spawn(name) for name in ("one", "two", "three"))
    for pid, filled in ((one, counted(np.array([9, 2]))), (two, content), (three, content)):
        machine.mmap(pid, 2 * PAGE_SIZE, address=AT, content=filled)
    for pid, page in ((one, 1), (two, 0), (one, 0)):
        advertise(machine, pid, AT + page * PAGE_SIZE, PAGE_SIZE)
    machine.write(one, AT, b"\1")
    advertise(machine, three, AT, 2 * PAGE_SIZE)
    assert (machine.dksm.pages_merged, machine.dksm.hashtable_entries) == (2, 3)
    advertise(machine, two, AT, 2 * PAGE_SIZE)
    assert (machine.dksm.pages_merged, machine.dksm.hashtable_entries) == (4, 2)


def test_two_pages_that_merged_once_merge_again() -> None:
    program: Program = [("map", counted(np.array([3, 4])), 0, 0)] * 4
    assert pages_done(program, KnownMerges, Batches)[2:] == [2, 2]


@pytest.mark.parametrize("shortcuts", [(), (KnownMerges, Batches)], ids=["none", "known"])
def test_only_those_pages_are_known_that_have_merged(shortcuts: tuple[Shortcut, ...]) -> None:
    """Pages 30 to 49 merge with frames behind which other pages are."""
    machine = Machine("never", shortcuts=shortcuts)
    machine.dksm.set_run(1)
    half = np.arange(50)
    first, second, third = (machine.spawn("p") for _ in range(3))
    machine.mmap(
        first, 100 * PAGE_SIZE, address=AT, content=counted(np.concatenate([half, half + 1000]))
    )
    for pid in (second, third):
        machine.mmap(pid, 100 * PAGE_SIZE, address=AT, content=NUMBERS)
    advertise(machine, first, AT, 100 * PAGE_SIZE)
    advertise(machine, second, AT + 30 * PAGE_SIZE, 20 * PAGE_SIZE)
    advertise(machine, third, AT + 30 * PAGE_SIZE, 70 * PAGE_SIZE)
    pages = sharing(machine, [(first, 100 * PAGE_SIZE), (third, 100 * PAGE_SIZE)])
    assert pages == [*range(100), *range(100, 130), *range(30, 50), *range(130, 180)]
    assert (machine.dksm.pages_merged, machine.dksm.hashtable_entries) == (40, 150)


def test_pages_that_all_are_one_frame_are_counted_one_by_one() -> None:
    """They are a run of one frame, of which the first page is at home."""
    again: Program = [("again", ALIKE, 0, 0)]
    program: Program = [("map", ALIKE, 0, 0)]
    compare_with_page_by_page(program + again + 3 * program + 2 * again, 32, KnownMerges, Batches)


def test_pages_without_access_are_rejected_whatever_they_are_known_to_merge_with() -> None:
    machine = Machine("never", shortcuts=(KnownMerges, Batches))
    machine.dksm.set_run(1)
    for prot in ("rw", "rw", "rw", "none"):
        pid = machine.spawn("p")
        machine.mmap(pid, 100 * PAGE_SIZE, address=AT, prot=prot, content=NUMBERS)
        advertise(machine, pid, AT, 100 * PAGE_SIZE)
    assert (machine.dksm.pages_merged, machine.dksm.merging_failed) == (200, 100)
