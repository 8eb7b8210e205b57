"""The rules, page by page."""

from dksmfs.kernel.machine import Machine
from dksmfs.kernel.units import PAGE_SIZE
from tests.kernel.conftest import AT, MERGEABLE


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
