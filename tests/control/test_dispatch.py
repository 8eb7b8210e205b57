"""Requests handed to the machine directly, without any socket."""

import errno
from collections.abc import Generator
from typing import Any

import pytest

from dksmfs.control import job
from dksmfs.control import messages as m
from dksmfs.control.dispatch import TABLE, Dispatcher
from dksmfs.control.job import Caller, Memory
from dksmfs.control.limits import MAX_POPULATED
from dksmfs.control.messages import METHODS, Carried
from dksmfs.control.wire import INVALID_PARAMS, ProtocolError
from dksmfs.kernel.errors import AccessFault
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.sysfs.tables import dksm_tree

PAGE = 4096
PID, AT = 1, 0x10000


@pytest.fixture
def dispatcher() -> Dispatcher:
    """A dispatcher of a fresh machine without huge pages."""
    machine = Machine(thp="never")
    return Dispatcher(machine, dksm_tree(machine))


def spawn(dispatcher: Dispatcher, caller: Caller | None = None) -> int:
    return dispatcher.handle(m.Spawn("vm"), caller).pid


def mapped(dispatcher: Dispatcher, pid: int, pages: int = 4, content: Any = "const:7") -> int:
    return dispatcher.handle(m.Mmap(pid, pages * PAGE, content=content)).address


def test_the_table_has_a_row_for_every_method() -> None:
    assert set(TABLE) == set(METHODS.values())


def test_a_madvise_from_request_to_statistics(dispatcher: Dispatcher) -> None:
    dispatcher.handle(m.Store("run", "1\n"))
    pid = spawn(dispatcher)
    address = mapped(dispatcher, pid)
    assert dispatcher.handle(m.Madvise(pid, address, 4 * PAGE, "mergeable")) == m.Done()
    stats = dispatcher.handle(m.ReadStats())
    assert stats == m.Stats(1, 4, 3, 0, 1, 4096)
    assert dispatcher.handle(m.Show("pages_merged")).data == "3\n"
    pages = dispatcher.handle(m.ViewPagemap(pid, address, 4 * PAGE)).pages
    assert len(set(pages)) == 1
    [process] = dispatcher.handle(m.ViewSharing()).processes
    assert process.mappings == [m.SharedMapping(address, [1, 1, 1, 1])]


def test_a_long_request_comes_in_steps(dispatcher: Dispatcher) -> None:
    dispatcher.handle(m.Store("run", "1"))
    pid = spawn(dispatcher)
    address = mapped(dispatcher, pid, 100_000)
    steps = dispatcher.start(m.Madvise(pid, address, 100_000 * PAGE, 12))
    assert isinstance(steps, Generator)
    scanned = [dispatcher.handle(m.ReadStats()).pages_scanned for _ in steps]
    assert scanned == sorted(scanned)
    assert scanned[0] < 20_000 < scanned[-1] == 100_000
    assert len(set(scanned)) > 5


def test_accesses(dispatcher: Dispatcher) -> None:
    pid = spawn(dispatcher)
    address = mapped(dispatcher, pid)
    dispatcher.handle(m.Write(pid, address + 1, b"ab"))
    assert dispatcher.handle(m.Read(pid, address, 4)).data == b"\x07ab\0"
    dispatcher.handle(m.Fill(pid, address, PAGE, Carried(data=b"short")))
    assert dispatcher.handle(m.Read(pid, address, 7)).data == b"short\0\0"
    contents = dispatcher.handle(m.ViewContents(pid, address, 2 * PAGE)).pages
    assert [text and text.split("/")[0] for text in contents] == ["74726f6873", "7"]
    dispatcher.handle(m.Mprotect(pid, address, PAGE, "none"))
    with pytest.raises(AccessFault) as caught:
        dispatcher.handle(m.Read(pid, address, 1))
    assert (caught.value.errno, caught.value.signal) == (errno.EFAULT, "SIGSEGV")


def test_mappings(dispatcher: Dispatcher) -> None:
    pid = spawn(dispatcher)
    dispatcher.handle(m.Mkfile("disk", 2, "index:5"))
    request = m.Mmap(pid, 2 * PAGE, 0x1000000, "r", "file-private", "disk")
    assert dispatcher.handle(request).address == 0x1000000
    dispatcher.handle(m.Touch(pid, 0x1000000, 2 * PAGE))
    dispatcher.handle(m.Mlock(pid, 0x1000000, PAGE))
    dispatcher.handle(m.Munlock(pid, 0x1000000, PAGE))
    moved = dispatcher.handle(m.Mremap(pid, 0x1000000, 2 * PAGE, 0x2000000))
    assert moved.address == 0x2000000
    [mapping] = dispatcher.handle(m.ViewSmaps(pid)).mappings
    assert (mapping.start, mapping.end, mapping.kind) == (0x2000000, 0x2002000, "file-private")
    dispatcher.handle(m.Munmap(pid, 0x2000000, 2 * PAGE))
    assert dispatcher.handle(m.ViewSmaps(pid)).mappings == []


def test_memory_of_a_descriptor_is_seen_as_it_changes(dispatcher: Dispatcher) -> None:
    memory = bytearray(b"\1" * PAGE)
    pid = spawn(dispatcher)
    request = m.Mmap(pid, PAGE, content=Carried(memfd=0))
    address = dispatcher.handle(request, memory=[Memory(memoryview(memory), False)]).address
    memory[0] = 9
    assert dispatcher.handle(m.Read(pid, address, 2)).data == b"\x09\1"


def test_huge_page_mode(dispatcher: Dispatcher) -> None:
    assert dispatcher.handle(m.SetThp()).mode == "never"
    assert dispatcher.handle(m.SetThp("madvise")).mode == "madvise"
    assert dispatcher.machine.thp == "madvise"


def test_processes_belong_to_their_caller(dispatcher: Dispatcher) -> None:
    mine, yours = Caller(), Caller()
    pid = spawn(dispatcher, mine)
    child = dispatcher.handle(m.Fork(pid), mine).pid
    detached = dispatcher.handle(m.Spawn("d", detached=True), mine).pid
    owners = [p.owner for p in dispatcher.handle(m.Ps(), yours).processes]
    assert owners == ["other", "other", "detached"]
    for refused in (m.Exit(pid), m.Fork(child), m.Mmap(pid, PAGE), m.Madvise(pid, 0, 0, 12)):
        with pytest.raises(PermissionError):
            dispatcher.handle(refused, yours)
    assert dispatcher.handle(m.ViewSmaps(pid), yours).mappings == []
    orphan = dispatcher.handle(m.Fork(detached, "orphan"), yours).pid
    dispatcher.hang_up(yours)
    dispatcher.hang_up(mine)
    assert [p.pid for p in dispatcher.handle(m.Ps()).processes] == [detached, orphan]


def test_a_child_has_its_parents_name_unless_given_one(dispatcher: Dispatcher) -> None:
    pid = spawn(dispatcher)
    dispatcher.handle(m.Fork(pid))
    dispatcher.handle(m.Fork(pid, "other"))
    shown = dispatcher.handle(m.Ps()).processes
    assert [(p.name, p.parent) for p in shown] == [("vm", None), ("vm", pid), ("other", pid)]


@pytest.mark.parametrize(
    ("refused", "number"),
    [
        (m.Exit(99), errno.ESRCH),
        (m.Mmap(PID, 0), errno.EINVAL),
        (m.Mmap(PID, PAGE, AT + 1), errno.EINVAL),
        (m.Mmap(PID, PAGE, kind="file-private", file="none"), errno.ENOENT),
        (m.Mmap(PID, 1 << 47, content="zero"), errno.ENOMEM),
        (m.Fill(PID, AT, MAX_POPULATED + PAGE, "zero"), errno.ENOMEM),
        (m.Touch(PID, AT, MAX_POPULATED + PAGE), errno.ENOMEM),
        (m.Mlock(PID, AT, MAX_POPULATED + PAGE), errno.ENOMEM),
        (m.Madvise(PID, AT + 1, PAGE, 12), errno.EINVAL),
        (m.Madvise(PID, AT, PAGE, 100), errno.EINVAL),
        (m.Madvise(PID, AT, 5 * PAGE, 12), errno.ENOMEM),
        (m.Store("run", "2"), errno.EINVAL),
        (m.Store("pages_merged", "0"), errno.EACCES),
        (m.Show("nothing"), errno.ENOENT),
        (m.Show("run/x"), errno.ENOTDIR),
        (m.Show("."), errno.EISDIR),
    ],
)
def test_refusals_carry_the_kernels_errno(
    dispatcher: Dispatcher, refused: m.Request[Any], number: int
) -> None:
    assert spawn(dispatcher) == PID
    dispatcher.handle(m.Mmap(PID, 4 * PAGE, AT, content="const:7"))
    before = state(dispatcher)
    with pytest.raises(OSError, match=" ") as caught:
        dispatcher.handle(refused)
    assert caught.value.errno == number
    assert state(dispatcher) == before
    dispatcher.machine.check_invariants()


@pytest.mark.parametrize(
    "content", ["cons", "const:", "const:x", "seed:-1", "const:0x1ffffffffffffffff"]
)
def test_content_that_means_nothing_is_refused(dispatcher: Dispatcher, content: str) -> None:
    pid = spawn(dispatcher)
    with pytest.raises(ProtocolError) as caught:
        dispatcher.handle(m.Mmap(pid, PAGE, content=content))
    assert caught.value.code == INVALID_PARAMS


def test_content_that_is_too_short_is_refused(dispatcher: Dispatcher) -> None:
    pid = spawn(dispatcher)
    with pytest.raises(ProtocolError, match="1 pages, 2 are needed"):
        dispatcher.handle(m.Mmap(pid, 2 * PAGE, content=Carried(data=b"x")))
    with pytest.raises(ProtocolError, match="no descriptor 0"):
        dispatcher.handle(m.Mmap(pid, PAGE, content=Carried(memfd=0)))
    assert dispatcher.handle(m.ViewSmaps(pid)).mappings == []


def test_there_is_a_limit_to_processes(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "MAX_PROCESSES", 2)
    pid = spawn(dispatcher)
    spawn(dispatcher)
    for request in (m.Spawn("third"), m.Fork(pid)):
        with pytest.raises(BlockingIOError):
            dispatcher.handle(request)
    dispatcher.handle(m.Exit(pid))
    spawn(dispatcher)


def test_there_is_a_limit_to_a_sharing_reply(dispatcher: Dispatcher) -> None:
    pid = spawn(dispatcher)
    for _ in range(2):
        dispatcher.handle(m.Mmap(pid, 1 << 30, kind="shared-anon"))
    with pytest.raises(OSError, match="limit") as caught:
        dispatcher.handle(m.ViewSharing())
    assert caught.value.errno == errno.EMSGSIZE
    [process] = dispatcher.handle(m.ViewSharing(limit=3)).processes
    assert [mapping.pages for mapping in process.mappings] == [[None] * 3] * 2


LOOKS = [
    m.Ps(),
    m.ViewSmaps(PID),
    m.ViewPagemap(PID, AT, 3000 * PAGE),
    m.ViewContents(PID, AT, 3000 * PAGE),
    m.ViewSharing(),
]
CHANGES = [m.Exit(PID), m.Exit(PID + 1), m.Munmap(PID, AT, 2000 * PAGE), m.Reset()]


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_a_look_goes_on_whatever_changes_in_its_pauses(
    look: m.Request[Any], change: m.Request[Any]
) -> None:
    pauses = sum(1 for _ in begun(two_processes(), look))
    assert pauses > 1
    for at in range(pauses):
        dispatcher = two_processes()
        work = begun(dispatcher, look)
        for _ in range(at + 1):
            next(work)
        dispatcher.handle(change)
        assert len(list(work)) <= pauses
        dispatcher.machine.check_invariants()


def two_processes() -> Dispatcher:
    machine = Machine(thp="never")
    dispatcher = Dispatcher(machine, dksm_tree(machine))
    for pid in (PID, PID + 1):
        spawn(dispatcher)
        for address, pages in ((AT, 2000), (AT + 2001 * PAGE, 3)):
            dispatcher.handle(m.Mmap(pid, pages * PAGE, address, content="seed:1"))
    return dispatcher


def begun(dispatcher: Dispatcher, look: m.Request[Any]) -> Generator[None, None, object]:
    work = dispatcher.start(look)
    assert isinstance(work, Generator)
    return work


def state(dispatcher: Dispatcher) -> list[object]:
    """Everything that can be seen of a machine."""
    views: list[m.Request[Any]] = [m.Ps(), m.ReadStats(), m.ViewSharing(), m.SetThp()]
    return [dispatcher.handle(view) for view in views]
