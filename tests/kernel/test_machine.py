"""The machine as a whole."""

import gc
import weakref

from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.units import PAGE_SIZE


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
