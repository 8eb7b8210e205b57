"""Hundreds of pages at once, against the same engine made to hash each page and take one by one."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dksmfs.kernel.content.content import Content
from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.linear import Numbers
from dksmfs.kernel.machine import ADVICE, Machine
from dksmfs.kernel.memory.hashing.copies import Copies
from dksmfs.kernel.units import PAGE_SIZE
from tests.kernel.conftest import programs_profile

AT = 0x10_0000_0000 + 500 * PAGE_SIZE  # near the end of a 2 MiB area
WORDS = PAGE_SIZE // 8

# Runs of pages: how many, which page the first is like, whether the next ones are like the next.
runs = st.tuples(st.sampled_from([1, 1, 2, 9, 63, 64, 130]), st.integers(0, 5), st.booleans())


def stored(parts: list[tuple[int, int, bool]], changed: int, *, stable: bool) -> Content:
    """Pages that often are like others, or like them but for a word that is looked at last."""
    numbers = np.concatenate(
        [first * 40 + np.arange(count) * counts for count, first, counts in parts]
    )
    pages = np.zeros((len(numbers), WORDS), "<u8")
    pages[:, 0] = numbers // 3
    pages[:, 300] = numbers % 3
    pages[changed % len(pages), 400] = 1
    return StoredContent(memoryview(bytearray(pages.tobytes())), stable=stable)


Program = list[tuple[str, Content, int, int]]


def stored_contents(most_runs: int) -> st.SearchStrategy[Content]:
    parts = st.lists(runs, min_size=1, max_size=most_runs)
    return st.builds(stored, parts, st.integers(0, 600), stable=st.booleans())


described_contents = st.sampled_from(["zero", "const:1", "index:0", "index:7", "seed:1"]).map(
    parse_content
)
contents = stored_contents(6) | described_contents
small_contents = stored_contents(2)


def steps_of(content: st.SearchStrategy[Content], most: int) -> st.SearchStrategy[Program]:
    kinds = st.sampled_from(["map", "map", "again", "again", "part", "fork", "write", "exit"])
    step = st.tuples(kinds, content, st.integers(0, 7), st.integers(0, 400))
    return st.lists(step, min_size=2, max_size=most)


def run(machine: Machine, program: Program) -> Iterator[object]:
    """What can be seen after each step."""
    machine.dksm.set_run(1)
    regions: list[tuple[int, int]] = []  # process and size
    for what, content, which, offset in program:
        pages = len(content._bytes) // PAGE_SIZE if isinstance(content, StoredContent) else 200
        pid, size = regions[which % len(regions)] if regions else (0, 0)
        if what == "map" or not regions:
            pid, size = machine.spawn("p"), pages * PAGE_SIZE
            machine.mmap(pid, size, address=AT, content=content)
            regions.append((pid, size))
            advertise(machine, pid, AT, size)
        elif what == "again":
            advertise(machine, pid, AT, size)
        elif what == "part":
            start = offset * PAGE_SIZE % size
            advertise(machine, pid, AT + start, size - start)
        elif what == "fork":
            regions.append((machine.fork(pid), size))
            advertise(machine, regions[-1][0], AT, size)
        elif what == "write":
            machine.write(pid, AT + offset * PAGE_SIZE % size, bytes([which]) * 8)
        else:
            machine.exit(pid)
            regions.remove((pid, size))
        machine.check_invariants()
        dksm = machine.dksm
        yield dksm.pages_scanned, dksm.pages_merged, dksm.merging_failed, dksm.hashtable_entries
        yield sharing(machine, regions)


def advertise(machine: Machine, pid: int, address: int, length: int) -> None:
    for _ in machine.madvise_slices(pid, address, length, ADVICE["mergeable"]):
        pass


def sharing(machine: Machine, regions: list[tuple[int, int]]) -> list[int]:
    """The frame of each page, numbered in the order in which they turn up."""
    frames = [page.pfn for pid, size in regions for page in machine.pagemap(pid, AT, size)]
    numbers = {pfn: number for number, pfn in enumerate(dict.fromkeys(frames))}
    return [numbers[pfn] for pfn in frames]


@settings(programs_profile(), max_examples=40)
@given(steps_of(contents, most=12))
def test_many_pages_at_once(program: Program) -> None:
    compare_with_page_by_page(program, checksum_bits=32)


@settings(programs_profile(), max_examples=20)
@given(steps_of(small_contents, most=8))
def test_many_pages_that_collide(program: Program) -> None:
    """There are eight checksums: each chain is looked through for each page, so there are fewer."""
    compare_with_page_by_page(program, checksum_bits=3)


def compare_with_page_by_page(program: Program, checksum_bits: int) -> None:
    with small_thresholds():
        seen = list(run(Machine("never", checksum_bits=checksum_bits), program))
    literal = Machine("never", checksum_bits=checksum_bits, shortcuts=())
    assert seen == list(run(literal, program))


@contextmanager
def small_thresholds() -> Iterator[None]:
    """What the shortcuts do for many pages, for few."""
    with (
        patch.object(Copies, "first_pages", 8),
        patch("dksmfs.kernel.dksm.batches.BATCH_PAGES", 64),
        patch("dksmfs.kernel.dksm.table._FEW_CHAINS", 1),
        patch("dksmfs.kernel.dksm.descriptors._LONG", 3),
    ):
        yield


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


def counted(values: Numbers) -> Content:
    """Pages that show a number each, and are zero elsewhere."""
    pages = np.zeros((len(values), WORDS), "<u8")
    pages[:, 0] = values
    return StoredContent(pages.tobytes())


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
