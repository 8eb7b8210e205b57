"""Single facts about the machine, each of which was wrong once or is easily got wrong."""

import gc
import weakref

import pytest

from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.errors import AccessFault
from dksmfs.kernel.machine import ADVICE, Machine
from dksmfs.kernel.units import PAGE_SIZE

AT = 0x10_0000_0000  # starts a 2 MiB area
MERGEABLE = ADVICE["mergeable"]


@pytest.fixture
def machine() -> Machine:
    machine = Machine("never")
    machine.dksm.set_run(1)
    return machine


@pytest.fixture
def pid(machine: Machine) -> int:
    return machine.spawn("a")


def test_a_machine_is_freed_with_its_last_reference() -> None:
    machine = Machine("always")
    machine.mmap(machine.spawn("a"), 1024 * PAGE_SIZE, content=parse_content("zero"))
    gone = weakref.ref(machine.memory)
    gc.disable()
    try:
        del machine
        assert gone() is None
    finally:
        gc.enable()


def words(machine: Machine, pid: int, pages: int) -> list[int | None]:
    """The first 8 bytes of each page from `AT` on."""
    contents = machine.page_contents(pid, AT, pages * PAGE_SIZE)
    return [None if page is None else page[0] for page in contents]


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


def test_write_over_a_border_copies_what_its_first_part_has_left(
    machine: Machine, pid: int
) -> None:
    machine.mmap(pid, 2 * PAGE_SIZE, address=AT, content=parse_content("const:1"))
    machine.madvise(pid, AT, 2 * PAGE_SIZE, MERGEABLE)  # both are the first page's frame now
    machine.write(pid, AT + 8, b"\2" * PAGE_SIZE)
    assert machine.read(pid, AT + PAGE_SIZE, PAGE_SIZE) == b"\2" * PAGE_SIZE


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


def test_memory_that_a_client_changes_makes_its_descriptor_stale(
    machine: Machine, pid: int
) -> None:
    memory = bytearray(PAGE_SIZE)
    content = StoredContent(memory, stable=False)
    machine.mmap(pid, PAGE_SIZE, address=AT, content=content)
    machine.madvise(pid, AT, PAGE_SIZE, MERGEABLE)
    memory[0] = 1
    other = machine.spawn("b")
    machine.mmap(other, PAGE_SIZE, address=AT, content=parse_content("zero"))
    machine.madvise(other, AT, PAGE_SIZE, MERGEABLE)
    assert (machine.dksm.pages_merged, machine.dksm.hashtable_entries) == (0, 1)


@pytest.mark.parametrize("first", [0, 7])
def test_what_is_written_during_an_advertisement_is_never_found_of_other_pages(first: int) -> None:
    other_page, pause, pauses = b"other".ljust(PAGE_SIZE, b"!"), 0, 1
    while pause < pauses:
        machine = Machine("never")
        machine.dksm.set_run(1)
        other, pid = machine.spawn("other"), machine.spawn("changing")
        machine.mmap(other, PAGE_SIZE, address=AT, content=StoredContent(other_page))
        machine.madvise(other, AT, PAGE_SIZE, MERGEABLE)
        memory = bytearray(first.to_bytes(1, "little") + bytes(PAGE_SIZE - 1)) * 600
        content = StoredContent(memory, stable=False)
        machine.mmap(pid, len(memory), address=AT, content=content)
        pauses = 0
        for _ in machine.madvise_slices(pid, AT, len(memory), MERGEABLE):
            if pauses == pause:
                memory[: 64 * PAGE_SIZE] = other_page * 64
            pauses += 1
        [shared] = machine.pagemap(other, AT, PAGE_SIZE)
        never_written = machine.pagemap(pid, AT + 64 * PAGE_SIZE, (600 - 64) * PAGE_SIZE)
        assert shared.pfn not in {page.pfn for page in never_written}
        assert len({page.pfn for page in never_written}) == 1
        pause += 1
    assert pauses > 2


def test_zeros_merge_with_zeros_though_the_first_of_them_is_written_meanwhile() -> None:
    """Whatever the pause, a page that nobody wrote merges with no page that it never was like."""
    pause, pauses = 0, 1
    while pause < pauses:
        machine = Machine("never")
        machine.dksm.set_run(1)
        zeros, pid = machine.spawn("zeros"), machine.spawn("changing")
        machine.mmap(zeros, PAGE_SIZE, address=AT, content=parse_content("zero"))
        machine.madvise(zeros, AT, PAGE_SIZE, MERGEABLE)
        memory = bytearray(128 * PAGE_SIZE)
        content = StoredContent(memory, stable=False)
        machine.mmap(pid, len(memory), address=AT, content=content)
        pauses = 0
        for _ in machine.madvise_slices(pid, AT, len(memory), MERGEABLE):
            if pauses == pause:
                memory[0] = 1
            pauses += 1
        rest = machine.pagemap(pid, AT + PAGE_SIZE, 127 * PAGE_SIZE)
        [shared] = machine.pagemap(zeros, AT, PAGE_SIZE)
        assert {page.pfn for page in rest} == {shared.pfn}
        pause += 1
    assert pauses > 2


def test_a_look_changes_nothing_that_an_advertisement_knows() -> None:
    """The counters and frames after an advertisement with looks in all its pauses, and without."""
    pages = [bytes([number % 50]) * PAGE_SIZE for number in range(200)]

    def advertised(*, looking: bool) -> object:
        machine = Machine("never")
        machine.dksm.set_run(1)
        pids = [machine.spawn("a"), machine.spawn("b")]
        for pid in pids:
            machine.mmap(pid, 200 * PAGE_SIZE, address=AT, content=StoredContent(b"".join(pages)))
        machine.madvise(pids[0], AT, 100 * PAGE_SIZE, MERGEABLE)
        for _ in machine.madvise_slices(pids[1], AT, 200 * PAGE_SIZE, MERGEABLE):
            before = machine.memory.frames.hashes.kept.known(range(1024)).tobytes()
            if looking:
                seen = machine.page_contents(pids[0], AT, 200 * PAGE_SIZE)
                assert [page and page[0] for page in seen] == [
                    int.from_bytes(page[:8], "little") for page in pages
                ]
            assert machine.memory.frames.hashes.kept.known(range(1024)).tobytes() == before
        frames = [page.pfn for pid in pids for page in machine.pagemap(pid, AT, 200 * PAGE_SIZE)]
        return vars(machine.dksm)["pages_merged"], machine.dksm.hashtable_entries, frames

    assert advertised(looking=True) == advertised(looking=False)


def test_content_that_is_shorter_than_its_mapping_ends_in_zeros(machine: Machine, pid: int) -> None:
    machine.mmap(pid, 3 * PAGE_SIZE, address=AT, content=StoredContent(b"short"))
    assert machine.read(pid, AT, 3 * PAGE_SIZE) == b"short".ljust(3 * PAGE_SIZE, b"\0")


def test_read_of_a_file_maps_sixteen_pages(machine: Machine, pid: int) -> None:
    machine.mkfile("f", 40, parse_content("index:1"))
    machine.mmap(pid, 40 * PAGE_SIZE, address=AT, kind="file-private", file="f")
    machine.touch(pid, AT + 20 * PAGE_SIZE, 1)
    assert words(machine, pid, 40) == [None] * 16 + list(range(17, 33)) + [None] * 8


def mapping_count(machine: Machine, pid: int) -> int:
    return len(machine.smaps(pid))


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


def test_a_page_passes_by_what_an_earlier_page_of_the_call_has_freed() -> None:
    """The first page merges, and so its own frame, that had a descriptor, is freed. The second one
    finds it on its way to the frame with its bytes."""
    machine = Machine("never", checksum_bits=0)  # all pages collide
    machine.dksm.set_run(1)
    one, two = machine.spawn("one"), machine.spawn("two")
    machine.mmap(one, 2 * PAGE_SIZE, address=AT)
    machine.mmap(two, 2 * PAGE_SIZE, address=AT)
    machine.write(one, AT, b"second")
    machine.madvise(one, AT, PAGE_SIZE, MERGEABLE)
    machine.write(two, AT, b"first")
    machine.madvise(two, AT, PAGE_SIZE, MERGEABLE)
    machine.write(one, AT + PAGE_SIZE, b"other")
    machine.madvise(one, AT + PAGE_SIZE, PAGE_SIZE, MERGEABLE)
    machine.write(one, AT + PAGE_SIZE, b"first")
    machine.write(two, AT + PAGE_SIZE, b"second")
    assert machine.dksm.hashtable_entries == 3
    machine.madvise(two, AT, 2 * PAGE_SIZE, MERGEABLE)
    assert machine.dksm.pages_merged == 2
    assert machine.dksm.hashtable_entries == 2


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


def test_memory_that_nobody_touched_costs_nothing_whatever_its_kind(
    machine: Machine, pid: int
) -> None:
    """A tebibyte each; what is touched of it is as in a small mapping."""
    size = 1 << 40
    for kind in ("anon", "shared-anon"):
        address = machine.mmap(pid, size, kind=kind)
        room = machine.memory.frames.room
        machine.write(pid, address + size // 2 - 1, b"ab")
        assert machine.read(pid, address + size // 2 - 2, 4) == b"\0ab\0"
        assert machine.memory.frames.room == room - 2
        machine.munmap(pid, address, size)
        assert machine.memory.frames.room == room
    machine.check_invariants()
