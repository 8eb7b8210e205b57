"""Physical memory: what is free, and how often a frame is mapped."""

from collections.abc import Callable

import numpy as np
import pytest

from dksmfs.kernel.machine import Machine
from dksmfs.kernel.memory import frames as frames_module
from dksmfs.kernel.memory.frames import Frames
from dksmfs.kernel.units import HUGE_PAGES, PAGE_SIZE, Pfn

AT = 0x10_0000_0000
HUGE = HUGE_PAGES * PAGE_SIZE


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Machine]:
    """Makes machines with four huge pages of memory beside the zero page."""
    monkeypatch.setattr(frames_module, "FRAME_LIMIT", 5 * HUGE_PAGES)
    return Machine


def test_huge_pages_that_were_freed_are_free(small_machine: Callable[[str], Machine]) -> None:
    machine = small_machine("always")
    for _ in range(3):
        pid = machine.spawn("huge")
        machine.mmap(pid, 4 * HUGE, address=AT)
        machine.write(pid, AT, bytes(4 * HUGE))
        assert [mapping.anon_huge_kb for mapping in machine.smaps(pid)] == [4 * HUGE // 1024]
        machine.exit(pid)
    machine.thp = "never"
    for _ in range(2):  # by whoever needs small ones
        pid = machine.spawn("small")
        machine.mmap(pid, 4 * HUGE, address=AT)
        machine.write(pid, AT, bytes(4 * HUGE))
        machine.check_invariants()
        machine.exit(pid)


def test_without_frames_in_a_row_small_pages_are_mapped(
    small_machine: Callable[[str], Machine],
) -> None:
    machine = small_machine("never")
    first = machine.spawn("first")
    machine.mmap(first, 4 * HUGE, address=AT)
    machine.write(first, AT, bytes(4 * HUGE))
    machine.munmap(first, AT, 3 * HUGE)
    machine.thp = "always"
    second = machine.spawn("second")
    machine.mmap(second, 2 * HUGE, address=AT)
    machine.write(second, AT, bytes(2 * HUGE))
    [mapping] = machine.smaps(second)
    assert (mapping.rss_kb, mapping.anon_huge_kb) == (2 * HUGE // 1024, 0)
    with pytest.raises(OSError, match="memory"):
        machine.write(second, machine.mmap(second, 2 * HUGE), bytes(2 * HUGE))
    machine.check_invariants()


def test_a_frame_may_be_mapped_any_number_of_times() -> None:
    """Each of 32,768 processes can map it at all of its 2**35 pages."""
    frames = Frames(checksum_bits=32)
    pfn = Pfn(*frames.allocate_anonymous(1, 0))
    many = np.full(1000, pfn)
    expected = 1
    for count in (2**29, 2**30, 2**31 + 5, 2**45):
        frames.add_mappings(pfn, count)
        frames.get(many)
        expected += count + len(many)
        assert frames.mapcounts(np.array([pfn, pfn - 1])).tolist() == [expected, 0]
        assert frames.references(pfn) == expected
    for count in (2**45, 2**31 + 5, 2**30, 2**29):
        frames.put(many)
        frames.drop_mappings(pfn, count)
        expected -= count + len(many)
        assert frames.mapcounts(np.array([pfn])).tolist() == [expected]
    assert frames.in_use(pfn)
    frames.put(range(pfn, pfn + 1))
    assert not frames.in_use(pfn)


def test_counts_grow_past_their_column_by_single_entries_too() -> None:
    frames = Frames(checksum_bits=32)
    pfn = Pfn(*frames.allocate_anonymous(1, 0))
    frames.add_mappings(pfn, 2**30 - 2)
    for number in range(1, 5):
        frames.get(range(pfn, pfn + 1))
        assert frames.mapcounts(np.array([pfn])).tolist() == [2**30 - 1 + number]
    for number in range(4, 0, -1):
        frames.put(np.array([pfn]))
        assert frames.mapcounts(np.array([pfn])).tolist() == [2**30 - 2 + number]
