"""Memory that a client shares, and may write at any time."""

import pytest

from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.units import PAGE_SIZE
from tests.kernel.conftest import AT, MERGEABLE


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
        for _ in machine.madvise.work(pid, AT, len(memory), MERGEABLE):
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
        for _ in machine.madvise.work(pid, AT, len(memory), MERGEABLE):
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
        for _ in machine.madvise.work(pids[1], AT, 200 * PAGE_SIZE, MERGEABLE):
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
