"""A recorded session, replayed, comes out the same; and what cannot be recorded is told."""

import pytest

from dksmfs.control import messages as m
from dksmfs.control.job import Caller, Memory
from dksmfs.scenario import record
from dksmfs.scenario import steps as scenario_steps
from dksmfs.scenario.recording import BASE
from tests.scenario.sessions import PAGE, Session, mismatches, steps


def operations(session: Session) -> list[str]:
    """The names of the steps recorded; what was recorded comes out the same."""
    scenario = session.stop()
    assert mismatches(scenario) == []
    assert scenario.note == ""
    return [step["op"] for step in steps(scenario)]


def test_a_session_comes_out_the_same() -> None:
    session = Session()
    session.start()
    session.write("dksm/run", b"1\n")
    first = session.ask(m.Spawn("vm")).pid
    second = session.ask(m.Spawn("vm")).pid
    for pid in (first, second):
        at = session.ask(m.Mmap(pid, 3 * PAGE, content=m.Carried(data=b"hello" * 2000))).address
        session.ask(m.Madvise(pid, at, 3 * PAGE, "mergeable"))
    session.ask(m.Write(second, at + 4090, b"across a border"))
    assert session.ask(m.Read(first, at + 4090, 15)).data != b"across a border"
    child = session.ask(m.Fork(second)).pid
    session.ask(m.Exit(child))
    scenario = session.stop()
    assert mismatches(scenario) == []
    assert [(step["op"], step.get("proc")) for step in steps(scenario)] == [
        ("stats", None),
        ("write", None),
        ("stats", None),
        ("spawn", "vm"),
        ("spawn", "vm.2"),
        ("mmap", "vm"),
        ("madvise", "vm"),
        ("stats", None),
        ("mmap", "vm.2"),
        ("madvise", "vm.2"),
        ("stats", None),
        ("store", "vm.2"),
        ("load", "vm"),
        ("fork", "vm.2"),
        ("exit", "vm.2.2"),
        ("stats", None),
        ("sharing", None),
        ("contents", None),
    ]
    assert scenario.data == {"d1": b"hello" * 2000}  # once, though two processes have it


def test_replaying_a_changed_recording_notices() -> None:
    session = Session()
    session.start()
    session.write("dksm/run", b"1")
    pid = session.ask(m.Spawn("p")).pid
    session.ask(m.Mmap(pid, 4 * PAGE, BASE, content="const:3"))
    session.ask(m.Madvise(pid, BASE, 4 * PAGE, "mergeable"))
    scenario = session.stop()
    assert mismatches(scenario) == []
    scenario.steps = [
        type(step)(bytes(step).replace(b"const:3", b"index:3")) for step in scenario.steps
    ]
    assert [mismatch.operation for mismatch in mismatches(scenario)] == [
        "stats",
        "stats",
        "sharing",
        "contents",
    ]


@pytest.mark.parametrize("thp", ["always", "madvise", "never"])
@pytest.mark.parametrize("run", [b"0", b"1"])
def test_the_machine_it_begins_with_is_part_of_it(thp: str, run: bytes) -> None:
    session = Session(thp)
    session.write("dksm/run", run)
    session.start()
    pid = session.ask(m.Spawn("p")).pid
    session.ask(m.Mmap(pid, 1024 * PAGE, BASE, content="zero"))
    session.ask(m.Madvise(pid, BASE, 1024 * PAGE, "mergeable"))
    assert "mmap" in operations(session)


def test_huge_pages_switched_through_the_mounted_file() -> None:
    session = Session("always")
    session.start()
    session.write("transparent_hugepage/enabled", b"never\n")
    with pytest.raises(OSError, match="EINVAL"):
        session.write("transparent_hugepage/enabled", b"perhaps")
    assert session.ask(m.SetThp()).mode == "never"
    session.ask(m.SetThp("madvise"))
    assert operations(session) == ["thp", "stats", "thp", "thp", "stats"]


def test_stores_of_all_kinds() -> None:
    session = Session()
    session.start()
    for data in (b"1\n", b"", b"0" * 4096 + b"1", b"+00001"):
        session.write("dksm/run", data)
    for data in (b"\xff\x00", b"2"):
        with pytest.raises(OSError, match="EINVAL"):
            session.write("dksm/run", data)
    with pytest.raises(OSError, match="read-only"):
        session.ask(m.Store("pages_merged", "1"))
    with pytest.raises(OSError, match="ENOENT"):
        session.ask(m.Store("nothing", "1"))  # where it is mounted, that is another errno
    with pytest.raises(OSError, match="EIO"):
        session.write("dksm/pages_merged", b"1")  # somebody has changed its mode
    written = [step for step in operations(session) if step == "write"]
    assert len(written) == 6 + 1


def test_refusals_are_recorded_and_what_never_reached_the_machine_is_not() -> None:
    session = Session()
    session.start()
    mine, other = Caller(), Caller()
    pid = session.ask(m.Spawn("p"), caller=mine).pid
    before = len(session.recorder._recording._encoded)  # type: ignore[union-attr]
    for request, reason, seen in (
        (m.Madvise(pid, 1, PAGE, "mergeable"), "EINVAL", 1),
        (m.Madvise(pid, 2**64 - PAGE, PAGE, 99), "EINVAL", 1),
        (m.Read(pid, 0, 1), "SIGSEGV", 1),
        (m.Mmap(pid, PAGE, 5), "EINVAL", 1),
        (m.Mmap(pid, 0), "EINVAL", 1),
        (m.Mmap(pid, 2**47), "ENOMEM", 1),
        (m.Mmap(pid, PAGE, kind="file-private", file="none"), "ENOENT", 1),
        (m.Mremap(pid, 0, 7, 3), "EINVAL", 1),
        (m.Exit(99), "ESRCH", 0),
    ):
        with pytest.raises(OSError, match=reason):
            session.ask(request, caller=mine)
        before += seen
        assert len(session.recorder._recording._encoded) == before  # type: ignore[union-attr]
    with pytest.raises(OSError, match="EPERM"):
        session.ask(m.Exit(pid), caller=other)
    with pytest.raises(Exception, match="expected zero"):
        session.ask(m.Mmap(pid, PAGE, content="noise"), caller=mine)
    assert "exit" not in operations(session)


def test_processes_that_exit_with_their_connection() -> None:
    session = Session()
    session.start()
    client = Caller()
    for name in ("a", "b"):
        session.ask(m.Spawn(name), caller=client)
    session.dispatcher.hang_up(client)
    session.dispatcher.hang_up(Caller())
    assert operations(session) == ["stats", "spawn", "spawn", "exit", "exit", "stats"]


def test_regions_keep_their_names_wherever_they_go() -> None:
    session = Session()
    session.start()
    pid = session.ask(m.Spawn("p")).pid
    session.ask(m.Mmap(pid, 8 * PAGE, BASE - 16 * PAGE, content="index:0"))
    session.ask(m.Mremap(pid, BASE - 16 * PAGE, 8 * PAGE, BASE))
    session.ask(m.Mremap(pid, BASE + 2 * PAGE, 3 * PAGE, BASE + 64 * PAGE))
    session.ask(m.Munmap(pid, BASE + 64 * PAGE, PAGE))
    session.ask(m.Madvise(pid, BASE + 65 * PAGE, 2 * PAGE, "dontneed"))
    session.ask(m.Munmap(pid, BASE - PAGE, 4 * PAGE))
    scenario = session.stop()
    assert mismatches(scenario) == []
    moved, part, cut, dropped, rest = [
        {key: value for key, value in step.items() if key not in ("result", "proc")}
        for step in steps(scenario)
        if step["op"] in ("mremap", "munmap", "madvise")
    ]
    assert moved == {"op": "mremap", "region": "r1", "new_vpn": 0}
    assert part["new_region"] == "r2"
    assert cut == {"op": "munmap", "region": "r2", "start": 0, "count": 1}
    assert dropped == {**cut, "op": "madvise", "start": 1, "count": 2, "advice": "dontneed"}
    assert rest == {"op": "munmap", "address": -PAGE, "length": 4 * PAGE}
    (sharing,) = [step["result"] for step in steps(scenario) if step["op"] == "sharing"]
    assert sharing["p"]["regions"] == {
        "r1": [None, None, None, None, None, 1, 2, 3],
        "r2": [None, None, None],
    }


def test_files_made_meanwhile() -> None:
    session = Session()
    session.ask(m.Mkfile("old", 2, "zero"))
    session.start()
    pid = session.ask(m.Spawn("p")).pid
    session.ask(m.Mkfile("new", 3, "index:7"))
    at = session.ask(m.Mmap(pid, 4 * PAGE, kind="file-private", file="new")).address
    with pytest.raises(OSError, match="SIGBUS"):
        session.ask(m.Touch(pid, at, 4 * PAGE))
    assert "mkfile" in operations(session)


def test_a_memfd_is_kept_as_it_was_and_changes_behind_are_told() -> None:
    session = Session()
    session.start()
    pid = session.ask(m.Spawn("p")).pid
    memory = bytearray(b"a" * PAGE + b"unused")
    mapped = Memory(memoryview(memory), stable=False)
    session.ask(m.Mmap(pid, PAGE, BASE, content=m.Carried(memfd=0)), mapped)
    memory[:1] = b"b"
    scenario = session.stop()
    assert scenario.data == {"d1": b"a" * PAGE}
    assert "changed memory that it shares" in scenario.note


class Endings:
    """Sessions that a recording cannot follow to their end."""

    @staticmethod
    def data(session: Session) -> None:
        pid = session.ask(m.Spawn("q")).pid
        session.ask(m.Mmap(pid, 3 * PAGE, content=m.Carried(data=b"x" * (2 * PAGE + 1))))

    @staticmethod
    def memfd(session: Session) -> None:
        pid = session.ask(m.Spawn("q")).pid
        memory = Memory(memoryview(b"x" * (3 * PAGE)), stable=True)
        session.ask(m.Mmap(pid, 3 * PAGE, content=m.Carried(memfd=0)), memory)

    @staticmethod
    def steps(session: Session) -> None:
        pid = session.ask(m.Spawn("q")).pid
        for _ in range(100):
            session.ask(m.Touch(pid, 0, 0))

    @staticmethod
    def old_file(session: Session) -> None:
        pid = session.ask(m.Spawn("q")).pid
        session.ask(m.Mmap(pid, PAGE, kind="file-shared", file="old"))

    @staticmethod
    def cut_short(session: Session) -> None:
        pid = session.ask(m.Spawn("q")).pid
        session.ask(m.Mmap(pid, 64 << 20, BASE, content="index:0"))
        running = session.dispatcher.start(m.Madvise(pid, BASE, 64 << 20, "mergeable"))
        assert not isinstance(running, m.Done)
        next(running)
        running.close()


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (Endings.data, "its page contents are more than"),
        (Endings.memfd, "its page contents are more than"),
        (Endings.steps, "its steps are more than"),
        (Endings.old_file, "the file 'old' is older than the recording"),
        (Endings.cut_short, "cut short when its client went away"),
    ],
)
def test_what_cannot_be_recorded_ends_the_recording_and_not_the_session(
    monkeypatch: pytest.MonkeyPatch, ending: "staticmethod[[Session], None]", reason: str
) -> None:
    monkeypatch.setattr(scenario_steps, "MAX_DATA", 2 * PAGE)
    monkeypatch.setattr(record, "MAX_STEPS_SIZE", 2000)
    session = Session()
    session.ask(m.Mkfile("old", 2, "zero"))
    session.start()
    session.write("dksm/run", b"1")
    session.ask(m.Spawn("p"))
    ending(session)
    session.ask(m.Spawn("later"))
    assert not session.recorder.active
    scenario = session.stop()
    assert mismatches(scenario) == []
    assert scenario.note.startswith("the recording ended early: ")
    assert reason in scenario.note
    spawned = [step["proc"] for step in steps(scenario) if step["op"] == "spawn"]
    assert spawned == ["p", "q"]
    session.machine.check_invariants()


def test_a_recording_begins_with_nothing_behind() -> None:
    session = Session()
    session.write("dksm/run", b"1")
    pid = session.ask(m.Spawn("p")).pid
    at = session.ask(m.Mmap(pid, PAGE, content="zero")).address
    with pytest.raises(OSError, match=r"and 1 run \(p\): end them first"):
        session.start()
    session.ask(m.Madvise(pid, at, PAGE, "mergeable"))
    session.ask(m.Exit(pid))
    with pytest.raises(OSError, match="write 0 to the file run first"):
        session.start()
    session.write("dksm/run", b"0")
    session.start()
    assert operations(session) == ["stats", "stats"]


def test_one_recording_at_a_time() -> None:
    session = Session()
    session.start()
    other = Caller()
    with pytest.raises(OSError, match="a recording is on its way already"):
        session.ask(m.StartRecording("mine"), caller=other)
    for request in (m.StopRecording(), m.TakeRecording()):
        with pytest.raises(OSError, match="this connection records nothing"):
            session.ask(request, caller=other)
    with pytest.raises(OSError, match="has not been stopped"):
        session.ask(m.TakeRecording(), caller=session.me)
    session.dispatcher.hang_up(other)
    assert session.recorder.active
    session.dispatcher.hang_up(session.me)
    assert not session.recorder.active
    session.ask(m.StartRecording("mine"), caller=other)


def test_a_long_recording_comes_in_parts() -> None:
    session = Session()
    session.start()
    pid = session.ask(m.Spawn("p")).pid
    for number in range(4):
        data = m.Carried(data=bytes([number]) * (300 << 10))
        session.ask(m.Mmap(pid, 300 << 10, content=data))
    scenario = session.stop()  # takes it
    assert sum(map(len, scenario.data.values())) == 4 * (300 << 10)
    assert mismatches(scenario) == []


def test_without_a_recorder_it_is_refused() -> None:
    session = Session()
    session.dispatcher.recorder = None
    with pytest.raises(OSError, match="no recorder"):
        session.start()
