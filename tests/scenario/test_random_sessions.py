"""Random sessions, recorded and replayed, come out the same."""

from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dksmfs.control import messages as m
from dksmfs.control.job import Caller, Memory
from dksmfs.control.wire import ProtocolError
from dksmfs.scenario.recording import BASE
from tests.scenario.sessions import PAGE, Session, mismatches

CONTENTS = ["zero", "const:1", "index:0", "index:2", "pattern:5", "seed:0x9"]
KINDS = ["anon", "anon", "anon", "shared-anon", "file-private", "file-shared", "hugetlb"]
PROTS = ["none", "r", "rw", "rw", "rwx"]
ADVICES: list[Any] = ["mergeable"] * 6 + ["dontneed", "hugepage", "nohugepage", "unmergeable", 99]
STORES = [b"0", b"1\n", b"2", b"+1", b"", b"1\x00junk"]


class Walk:
    """Draws requests that mostly make sense for a session as it is."""

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.session = Session(self.one(["never", "always"]))
        self.callers = [Caller(), Caller(), None]
        self.pids = [1]
        self.addresses = [BASE, BASE + 500 * PAGE, BASE - 8 * PAGE]

    def one(self, choices: list[Any]) -> Any:
        return self.draw(st.sampled_from(choices))

    def number(self, low: int, high: int) -> int:
        drawn: int = self.draw(st.integers(low, high))
        return drawn

    def address(self, *, odd: bool = False) -> int:
        start: int = self.one(self.addresses) + self.number(-2, 10) * PAGE
        return start + (self.number(1, 4095) if odd and self.number(0, 2) == 0 else 0)

    def length(self) -> int:
        pages: int = self.one([1, 2, 3, 8, 8, 520, 1100])
        return self.number(0, 5000) if self.number(0, 9) == 0 else pages * PAGE

    def content(self, size: int) -> tuple[m.Content, tuple[Memory, ...]]:
        kind = self.number(0, 5)
        data = self.one([b"a", b"b" * 5000, bytes(PAGE)])
        data = data * (-(-min(size, 64 * PAGE) // len(data)) or 1)
        if kind == 0:
            return m.Carried(data=data), ()
        if kind == 1:
            return m.Carried(memfd=0), (Memory(memoryview(data), stable=True),)
        return self.one(CONTENTS), ()

    def step(self) -> None:
        """Do something."""
        self.one(MOVES)(self)

    def ask(self, request: m.Request[Any], *memory: Memory) -> None:
        reply = self.session.ask(request, *memory, caller=self.one(self.callers))
        if isinstance(reply, m.Spawned):
            self.pids.append(reply.pid)
        elif isinstance(reply, m.Mapped):
            self.addresses.append(reply.address)

    def range(self, *, odd: bool = False) -> tuple[int, int, int]:
        return self.one(self.pids), self.address(odd=odd), self.length()

    def spawn(self) -> None:
        self.ask(m.Spawn(self.one(["a", "b", "x" * 64]), detached=self.one([True, False])))

    def fork(self) -> None:
        self.ask(m.Fork(self.one(self.pids), self.one([None, "child"])))

    def exit(self) -> None:
        self.ask(m.Exit(self.one(self.pids)))

    def hang_up(self) -> None:
        self.session.dispatcher.hang_up(self.one(self.callers[:2]))

    def mmap(self) -> None:
        length, kind = self.length(), self.one(KINDS)
        file = self.one(["f", "g"]) if kind.startswith("file") else None
        content, memory = self.content(length) if self.number(0, 3) else (None, ())
        address = self.one([None, self.address(), self.address(odd=True)])
        pid, prot = self.one(self.pids), self.one(PROTS)
        self.ask(m.Mmap(pid, length, address, prot, kind, file, content), *memory)

    def munmap(self) -> None:
        self.ask(m.Munmap(*self.range()))

    def mprotect(self) -> None:
        self.ask(m.Mprotect(*self.range(), self.one(PROTS)))

    def mremap(self) -> None:
        self.ask(m.Mremap(*self.range(), self.address(odd=True)))

    def mlock(self) -> None:
        self.ask(self.one([m.Mlock, m.Munlock, m.Touch])(*self.range(odd=True)))

    def fill(self) -> None:
        pid, address, length = self.range()
        content, memory = self.content(length)
        self.ask(m.Fill(pid, address, length, content), *memory)

    def load(self) -> None:
        self.ask(m.Read(*self.range(odd=True)))

    def store(self) -> None:
        pid, address, _ = self.range(odd=True)
        self.ask(m.Write(pid, address, self.one([b"", b"z", b"long" * 2000])))

    def mkfile(self) -> None:
        pages = self.number(0, 9)
        content, memory = self.content(pages * PAGE)
        self.ask(m.Mkfile(self.one(["f", "g"]), pages, content), *memory)

    def madvise(self) -> None:
        self.ask(m.Madvise(*self.range(odd=True), self.one(ADVICES)))

    def write(self) -> None:
        self.session.write("dksm/run", self.one(STORES))

    def thp(self) -> None:
        self.session.write("transparent_hugepage/enabled", self.one([b"always", b"never", b"no"]))


MOVES = [
    *[Walk.spawn, Walk.fork, Walk.exit, Walk.hang_up],
    *[Walk.mmap] * 5,
    *[Walk.munmap, Walk.mprotect, Walk.mremap, Walk.mlock],
    *[Walk.fill, Walk.load, Walk.store, Walk.mkfile],
    *[Walk.madvise] * 4,
    *[Walk.write, Walk.thp],
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_sessions_come_out_the_same(data: st.DataObject) -> None:
    walk = Walk(data)
    walk.session.start()
    for _ in range(walk.number(1, 40)):
        with suppress(OSError, ProtocolError):
            walk.step()
    walk.session.machine.check_invariants()
    scenario = walk.session.stop()
    assert scenario.note == ""
    assert mismatches(scenario) == []
