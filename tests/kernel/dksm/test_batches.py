"""Hundreds of pages at once, against the same engine made to hash each page and take one by one."""

import numpy as np
import pytest
from hypothesis import given, settings

from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.units import PAGE_SIZE
from tests.kernel.conftest import programs_profile
from tests.kernel.programs import (
    AT,
    Program,
    advertise,
    compare_with_page_by_page,
    contents,
    counted,
    pages_done,
    programs,
    sharing,
    short_contents,
    small_contents,
)


@settings(programs_profile(), max_examples=40)
@given(programs(contents, most=12))
def test_many_pages_at_once(program: Program) -> None:
    compare_with_page_by_page(program)


@settings(programs_profile(), max_examples=20)
@given(programs(small_contents, most=8))
def test_many_pages_that_collide(program: Program) -> None:
    """There are eight checksums: each chain is looked through for each page, so there are fewer."""
    compare_with_page_by_page(program, 3)


@settings(programs_profile(), max_examples=20)
@given(programs(short_contents, most=8))
def test_batches_alone(program: Program) -> None:
    compare_with_page_by_page(program, 6, Batches)


def test_all_pages_are_decided_on_in_batches() -> None:
    content = counted(np.arange(100))
    program: Program = [("map", content, 0, 0), ("map", content, 0, 0), ("again", content, 0, 0)]
    assert pages_done(program, Batches) == [100, 100, 100]


@pytest.mark.parametrize("text", ["seed:1", "pattern:1", "const:7", "stored"])
@pytest.mark.parametrize("checksum_bits", [32, 4])
def test_content_that_was_advertised_by_processes_that_have_ended(
    text: str, checksum_bits: int
) -> None:
    """A machine that is restarted: each page finds only stale descriptors, some twice."""
    content = counted(np.arange(1, 201)) if text == "stored" else parse_content(text)
    program = [
        ("map", content, 0, 0),
        ("fork", content, 0, 0),
        ("again", content, 1, 0),
        ("exit", content, 0, 0),
        ("exit", content, 0, 0),
        ("map", content, 0, 0),
        ("exit", content, 0, 0),
        ("map", counted(np.arange(1, 101)), 0, 0),
        ("map", content, 0, 0),
        ("write", content, 1, 5),
        ("map", content, 0, 0),
    ]
    compare_with_page_by_page(program, checksum_bits)


@pytest.mark.parametrize("piece", [1, 3, 20])
def test_pages_that_were_written_piece_by_piece(piece: int) -> None:
    """They merge as those of one content do, whole pages and parts of pages alike."""
    numbers = np.concatenate([np.arange(1, 151), np.arange(100, 200), np.full(40, 7)])
    image = b"".join(bytes([number]) * PAGE_SIZE for number in numbers.tolist())
    size, pages = len(image), piece * PAGE_SIZE

    def run_with(*, piecemeal: bool) -> object:
        machine = Machine("never")
        machine.dksm.set_run(1)
        regions = []
        for name in ("a", "b"):
            pid = machine.spawn(name)
            regions.append((pid, size))
            machine.mmap(pid, size, address=AT, content=None if piecemeal else StoredContent(image))
            for start in range(0, size, pages) if piecemeal else ():
                machine.write(pid, AT + start, image[start : start + pages])
            machine.write(pid, AT + 100, b"in part")
            advertise(machine, pid, AT, size)
            machine.check_invariants()
        dksm = machine.dksm
        counters = dksm.pages_scanned, dksm.pages_merged, dksm.merging_failed
        return counters, dksm.hashtable_entries, sharing(machine, regions)

    assert run_with(piecemeal=True) == run_with(piecemeal=False)


def test_a_long_chain_of_memory_that_a_client_may_write_is_looked_at_each_time() -> None:
    """A page that was written finds its own descriptor, as all pages are in one chain."""
    numbers = np.zeros((60, PAGE_SIZE // 8), "<u8")
    numbers[:, 0] = np.arange(60)
    memory = StoredContent(bytearray(numbers.tobytes()), stable=False)
    program: Program = [
        ("map", memory, 0, 0),
        ("again", memory, 0, 0),
        ("change", memory, 77, 5),
        ("again", memory, 0, 0),
    ]
    compare_with_page_by_page(program, 0, Batches)


def test_a_long_chain_is_looked_at_again_when_memory_has_changed() -> None:
    """Other frames are freed, and get other bytes, between two batches."""
    content = counted(np.arange(60))
    program: Program = [
        ("map", content, 0, 0),
        ("again", content, 0, 0),
        ("write", content, 77, 5),
        ("again", content, 0, 0),
        ("map", counted(np.arange(60) + 30), 0, 0),
        ("exit", content, 0, 0),
        ("again", content, 0, 0),
        ("map", content, 0, 0),
    ]
    compare_with_page_by_page(program, 0, Batches)
