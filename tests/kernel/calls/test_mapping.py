"""mmap, mprotect, mlock and fork: mappings, their families and their page tables."""

import pytest

from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.units import PAGE_SIZE
from tests.kernel.conftest import AT, MERGEABLE


def mapping_count(machine: Machine, pid: int) -> int:
    return len(machine.smaps(pid))


def test_mlock_behind_the_end_of_a_file_makes_fork_copy_the_page_tables(
    machine: Machine, pid: int
) -> None:
    machine.mkfile("f", 1, parse_content("index:1"))
    machine.mmap(pid, 2 * PAGE_SIZE, address=AT, kind="file-private", file="f")
    machine.touch(pid, AT, 1)
    with pytest.raises(OSError, match="ENOMEM"):
        machine.mlock(pid, AT + PAGE_SIZE, PAGE_SIZE)
    machine.madvise(machine.fork(pid, "child"), AT, 2 * PAGE_SIZE, MERGEABLE)
    assert machine.dksm.merging_failed == 2  # absent, but there is a table


def test_mlock_of_inaccessible_memory_makes_no_page_table(machine: Machine, pid: int) -> None:
    machine.mmap(pid, 4 * PAGE_SIZE, address=AT, prot="none")
    with pytest.raises(OSError, match="ENOMEM"):
        machine.mlock(pid, AT + PAGE_SIZE, PAGE_SIZE)
    machine.madvise(pid, AT, 4 * PAGE_SIZE, MERGEABLE)
    assert machine.dksm.merging_failed == 0


def test_locked_memory_that_becomes_writable_is_copied_at_once(machine: Machine, pid: int) -> None:
    """mprotect_fixup does not leave it to the next write to break the sharing."""
    other = machine.spawn("b")
    for process in (pid, other):
        content = parse_content("const:7")
        machine.mmap(process, PAGE_SIZE, address=AT, prot="r", content=content)
        machine.madvise(process, AT, PAGE_SIZE, MERGEABLE)
    shared = machine.pagemap(pid, AT, PAGE_SIZE)
    machine.mlock(other, AT, PAGE_SIZE)
    assert machine.pagemap(other, AT, PAGE_SIZE) == shared
    machine.mprotect(other, AT, PAGE_SIZE, "rw")
    assert machine.pagemap(other, AT, PAGE_SIZE) != shared
    assert machine.pagemap(pid, AT, PAGE_SIZE) == shared


def test_content_that_is_shorter_than_its_mapping_ends_in_zeros(machine: Machine, pid: int) -> None:
    machine.mmap(pid, 3 * PAGE_SIZE, address=AT, content=StoredContent(b"short"))
    assert machine.read(pid, AT, 3 * PAGE_SIZE) == b"short".ljust(3 * PAGE_SIZE, b"\0")


def test_mapping_that_was_writable_once_stays_apart_from_one_that_never_was(
    machine: Machine, pid: int
) -> None:
    """It counts for overcommit from then on (VM_ACCOUNT)."""
    for address in (AT, AT + 2 * PAGE_SIZE):
        machine.mmap(pid, PAGE_SIZE, address=address)
        machine.mprotect(pid, address, PAGE_SIZE, "r")
    machine.mmap(pid, PAGE_SIZE, address=AT + PAGE_SIZE, prot="r")
    assert mapping_count(machine, pid) == 3
    machine.mprotect(pid, AT, 3 * PAGE_SIZE, "rw")
    assert mapping_count(machine, pid) == 1


def test_neighbours_of_different_protection_are_one_family(machine: Machine, pid: int) -> None:
    machine.mmap(pid, 2 * PAGE_SIZE, address=AT)
    machine.mprotect(pid, AT + PAGE_SIZE, PAGE_SIZE, "rwx")
    machine.fill(pid, AT, 2 * PAGE_SIZE, parse_content("index:1"))
    assert mapping_count(machine, pid) == 2
    machine.mprotect(pid, AT + PAGE_SIZE, PAGE_SIZE, "rw")
    assert mapping_count(machine, pid) == 1  # mappings with pages of two families stay apart


def test_mapping_that_came_by_fork_does_not_grow(machine: Machine, pid: int) -> None:
    machine.mmap(pid, PAGE_SIZE, address=AT, content=parse_content("zero"))
    child = machine.fork(pid, "child")
    for process in (pid, child):
        machine.mmap(process, PAGE_SIZE, address=AT + PAGE_SIZE)
    assert (mapping_count(machine, pid), mapping_count(machine, child)) == (1, 2)


def test_fork_copies_page_tables_that_only_another_mapping_has_pages_in(
    machine: Machine, pid: int
) -> None:
    """Of a mapping with a family, all page tables are copied, whoever they were made for."""
    start = AT + 500 * PAGE_SIZE
    machine.mmap(pid, 20 * PAGE_SIZE, address=start)
    machine.write(pid, start, b"x")
    machine.mmap(pid, PAGE_SIZE, address=AT + 530 * PAGE_SIZE, prot="r")
    machine.touch(pid, AT + 530 * PAGE_SIZE, 1)
    child = machine.fork(pid)
    machine.madvise(child, start, 20 * PAGE_SIZE, MERGEABLE)
    assert (machine.dksm.pages_scanned, machine.dksm.merging_failed) == (1, 19)


def test_child_has_accessed_no_merged_page(machine: Machine, pid: int) -> None:
    """fork clears the accessed bit (pte_mkold). So the entry of the second page, which is the
    first one's frame, is another one than that of the first page, which has just merged."""
    machine.mmap(pid, 2 * PAGE_SIZE, address=AT, content=parse_content("const:1"))
    machine.madvise(pid, AT, 2 * PAGE_SIZE, MERGEABLE)
    assert (machine.dksm.pages_merged, machine.dksm.merging_failed) == (1, 0)
    machine.madvise(machine.fork(pid), AT, 2 * PAGE_SIZE, MERGEABLE)
    assert (machine.dksm.pages_merged, machine.dksm.merging_failed) == (2, 1)


@pytest.mark.parametrize(
    ("content", "mappings"), [(None, 1), ("index:1", 2)], ids=["no families", "two families"]
)
def test_mapping_between_two_joins_both_unless_their_families_differ(
    machine: Machine, pid: int, content: str | None, mappings: int
) -> None:
    between = AT + 2 * PAGE_SIZE
    for address in (AT, between + PAGE_SIZE):
        machine.mmap(pid, 2 * PAGE_SIZE, address=address)
        if content is not None:
            machine.fill(pid, address, 2 * PAGE_SIZE, parse_content(content))
    machine.mmap(pid, PAGE_SIZE, address=between)
    assert [mapping.start for mapping in machine.smaps(pid)] == [AT, between + PAGE_SIZE][:mappings]


def test_mapping_between_two_of_one_family_joins_both(machine: Machine, pid: int) -> None:
    machine.mmap(pid, 3 * PAGE_SIZE, address=AT, content=parse_content("index:1"))
    machine.munmap(pid, AT + PAGE_SIZE, PAGE_SIZE)
    assert mapping_count(machine, pid) == 2
    machine.mmap(pid, PAGE_SIZE, address=AT + PAGE_SIZE)
    assert mapping_count(machine, pid) == 1
