"""Calls that are looked at, or given up, in one of their pauses."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dksmfs.kernel.calls import faults
from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.machine import ADVICE, Machine
from dksmfs.kernel.memory import page_tables
from dksmfs.kernel.pausing import Work, finished
from dksmfs.kernel.units import HUGE_PAGES, PAGE_SIZE
from tests.kernel.conftest import programs_profile

BASE = 0x1000000000
AREA = HUGE_PAGES * PAGE_SIZE
REGION = 3 * AREA
FAR = BASE + 64 * AREA

Call = Callable[[Machine, int], Work[Any]]

places = st.tuples(
    st.sampled_from([0, 0, PAGE_SIZE, AREA, AREA + 7 * PAGE_SIZE, 2 * AREA]),
    st.sampled_from([PAGE_SIZE, 9 * PAGE_SIZE, AREA, 2 * AREA + PAGE_SIZE, 3 * REGION]),
)
contents = st.sampled_from(["zero", "const:1", "index:0"]).map(parse_content)


def _on_range(name: str, *args: Any) -> st.SearchStrategy[Call]:
    def call(place: tuple[int, int]) -> Call:
        at, length = place
        return lambda machine, pid: getattr(machine, name).work(pid, BASE + at, length, *args)

    return places.map(call)


changes: st.SearchStrategy[Call] = st.one_of(
    _on_range("munmap"),
    _on_range("mprotect", "r"),
    _on_range("mprotect", "none"),
    _on_range("mlock"),
    _on_range("munlock"),
    *(_on_range("madvise", advice) for advice in ADVICE.values()),
    _on_range("read"),
    _on_range("touch"),
    _on_range("mremap", FAR),
    _on_range("mremap", FAR + PAGE_SIZE),
    contents.flatmap(lambda content: _on_range("fill", content)),
    st.builds(
        lambda place, content: (
            lambda m, pid: m.mmap.work(pid, place[1], address=BASE + place[0], content=content)
        ),
        places,
        contents | st.none(),
    ),
    st.builds(
        lambda at, size: lambda m, pid: m.write.work(pid, BASE + at, bytes([1]) * size),
        st.sampled_from([5, AREA - 9, AREA]),
        st.sampled_from([3, 3 * PAGE_SIZE, AREA]),
    ),
    st.builds(
        lambda pages, content: lambda m, _: m.mkfile.work("f", pages, content),
        st.sampled_from([1, 600, 40000]),
        contents,
    ),
    st.just(lambda m, pid: m.fork.work(pid)),
    st.just(lambda m, pid: m.exit.work(pid)),
)
views: st.SearchStrategy[Call] = st.one_of(
    st.just(lambda m, _: m.processes.work()),
    st.just(lambda m, pid: m.smaps.work(pid)),
    st.just(lambda m, pid: m.pagemap.work(pid, BASE, 3 * REGION)),
    st.just(lambda m, pid: m.page_contents.work(pid, BASE, REGION)),
)
pauses = st.integers(0, 12)


@pytest.fixture(scope="module", autouse=True)
def _short_pieces() -> Iterator[None]:
    """Pauses come so often that a few areas have many."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (page_tables, faults):
            patch.setattr(module, "PIECE_PAGES", HUGE_PAGES)
            patch.setattr(module, "PIECE_PARTS", 2)
        yield


def _machine(thp: str) -> tuple[Machine, int]:
    """A process with a mapping of each kind, and a child that has the same."""
    machine = Machine(thp)
    machine.dksm.set_run(1)
    machine.mkfile("f", 1000, parse_content("index:0"))
    pid = machine.spawn("a")
    machine.mmap(pid, REGION, address=BASE, content=parse_content("index:0"))
    at = BASE + REGION
    for kind in ("shared-anon", "file-private", "file-shared"):
        file = "f" if "file" in kind else None
        machine.mmap(pid, 600 * PAGE_SIZE, address=at, kind=kind, file=file)
        machine.fill(pid, at + 5 * PAGE_SIZE, 550 * PAGE_SIZE, parse_content("const:1"))
        at += AREA + 100 * PAGE_SIZE
    machine.fork(pid, "child")
    machine.fill(pid, BASE + 700 * PAGE_SIZE, 9 * PAGE_SIZE, parse_content("const:2"))
    return machine, pid


def _pids(machine: Machine) -> list[int]:
    return [process.pid for process in machine.processes()]


def _nothing_leaks(machine: Machine) -> None:
    """When all processes have ended, only the file has frames."""
    for pid in _pids(machine):
        machine.exit(pid)
    machine.dksm.set_run(0)
    machine.mkfile("f", 1, parse_content("zero"))
    machine.check_invariants()
    fresh = Machine("never").memory.frames.room
    assert machine.memory.frames.room == fresh - 1


@programs_profile()
@given(
    thp=st.sampled_from(["never", "always"]),
    before=st.lists(changes, max_size=2),
    change=changes,
    paused=pauses,
)
def test_a_call_may_be_given_up_in_any_pause(
    thp: str, before: list[Call], change: Call, paused: int
) -> None:
    machine, pid = _machine(thp)
    for call in before:
        with suppress(OSError):
            list(call(machine, pid))
    processes = _pids(machine)
    work = change(machine, pid)
    with suppress(OSError):
        list(islice(work, paused))
    work.close()
    assert set(_pids(machine)) <= {*processes, max(processes) + 1}
    machine.check_invariants()
    _nothing_leaks(machine)


def test_a_fork_that_is_given_up_leaves_no_child() -> None:
    machine, pid = _machine("always")
    before, processes = machine.smaps(pid), _pids(machine)
    work = machine.fork.work(pid)
    for _ in islice(work, 5):
        pass
    assert machine.smaps(pid) != before  # the child maps the same frames
    work.close()
    assert machine.smaps(pid) == before
    assert _pids(machine) == processes
    machine.check_invariants()


@programs_profile()
@given(thp=st.sampled_from(["never", "always"]), change=changes, view=views, paused=pauses)
def test_entries_and_frames_agree_in_every_pause(
    thp: str, change: Call, view: Call, paused: int
) -> None:
    machine, pid = _machine(thp)
    with suppress(OSError):
        for at, _ in enumerate(change(machine, pid)):
            if at == paused:
                list(view(machine, pid))
                _mapped_frames_are_in_use(machine)
    _nothing_leaks(machine)


def _mapped_frames_are_in_use(machine: Machine) -> None:
    for pid in _pids(machine):
        for part in machine.address_space(pid).tables.everything():
            assert all(map(machine.memory.frames.in_use, part.present_frames().tolist()))


@programs_profile()
@given(thp=st.sampled_from(["never", "always"]), change=changes, view=views, paused=pauses)
def test_a_view_goes_on_when_all_has_changed_in_its_pause(
    thp: str, change: Call, view: Call, paused: int
) -> None:
    machine, pid = _machine(thp)
    work = view(machine, pid)
    list(islice(work, 1 + paused))
    with suppress(OSError):
        list(change(machine, pid))
    list(work)
    machine.check_invariants()


def test_a_process_that_ends_in_a_pause_is_not_listed() -> None:
    machine, pid = _machine("never")
    work = machine.processes.work()
    next(work)
    machine.exit(pid)
    assert [process.name for process in finished(work)] == ["child"]
