"""Reading and writing memory: what is mapped, and what is written."""

import pytest

from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.errors import AccessFault
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.units import PAGE_SIZE
from tests.kernel.conftest import AT, MERGEABLE, words


def test_read_behind_the_end_of_a_file_maps_the_pages_near(machine: Machine, pid: int) -> None:
    machine.mkfile("f", 2, parse_content("index:1"))
    machine.mmap(pid, 4 * PAGE_SIZE, address=AT, kind="file-private", file="f")
    with pytest.raises(AccessFault) as fault:
        machine.touch(pid, AT + 3 * PAGE_SIZE, 1)
    assert (fault.value.signal, fault.value.address) == ("SIGBUS", AT + 3 * PAGE_SIZE)
    assert words(machine, pid, 4) == [1, 2, None, None]


def test_read_far_behind_the_end_of_a_file_makes_no_page_table(machine: Machine, pid: int) -> None:
    machine.mkfile("f", 2, parse_content("index:1"))
    machine.mmap(pid, 64 * PAGE_SIZE, address=AT, kind="file-private", file="f")
    with pytest.raises(AccessFault):
        machine.touch(pid, AT + 32 * PAGE_SIZE, 1)
    machine.madvise(pid, AT, 64 * PAGE_SIZE, MERGEABLE)
    assert machine.dksm.merging_failed == 0


def test_write_behind_the_end_of_a_file_makes_fork_copy_the_page_tables(
    machine: Machine, pid: int
) -> None:
    machine.mkfile("f", 2, parse_content("index:1"))
    machine.mmap(pid, 4 * PAGE_SIZE, address=AT, kind="file-private", file="f")
    machine.touch(pid, AT, 1)
    assert words(machine, machine.fork(pid, "child"), 4) == [None] * 4
    with pytest.raises(AccessFault):
        machine.write(pid, AT + 3 * PAGE_SIZE, b"x")
    assert words(machine, machine.fork(pid, "child"), 4) == [1, 2, None, None]


def test_write_over_a_border_copies_what_its_first_part_has_left(
    machine: Machine, pid: int
) -> None:
    machine.mmap(pid, 2 * PAGE_SIZE, address=AT, content=parse_content("const:1"))
    machine.madvise(pid, AT, 2 * PAGE_SIZE, MERGEABLE)  # both are the first page's frame now
    machine.write(pid, AT + 8, b"\2" * PAGE_SIZE)
    assert machine.read(pid, AT + PAGE_SIZE, PAGE_SIZE) == b"\2" * PAGE_SIZE


def test_read_of_a_file_maps_sixteen_pages(machine: Machine, pid: int) -> None:
    machine.mkfile("f", 40, parse_content("index:1"))
    machine.mmap(pid, 40 * PAGE_SIZE, address=AT, kind="file-private", file="f")
    machine.touch(pid, AT + 20 * PAGE_SIZE, 1)
    assert words(machine, pid, 40) == [None] * 16 + list(range(17, 33)) + [None] * 8


@pytest.mark.parametrize("by", ["fill", "write"])
def test_of_two_stores_to_one_page_the_last_counts(machine: Machine, pid: int, by: str) -> None:
    machine.mkfile("f", 2, parse_content("zero"))
    for address in (AT, AT + 2 * PAGE_SIZE):
        machine.mmap(pid, 2 * PAGE_SIZE, address=address, kind="file-shared", file="f")
    content = parse_content("index:1")
    if by == "fill":
        machine.fill(pid, AT, 4 * PAGE_SIZE, content)
    else:
        machine.mmap(pid, 4 * PAGE_SIZE, address=2 * AT, content=content)
        machine.write(pid, AT, machine.read(pid, 2 * AT, 4 * PAGE_SIZE))
    assert words(machine, pid, 4) == [3, 4, 3, 4]
    machine.check_invariants()
