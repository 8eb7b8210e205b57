"""How long readers wait while another client asks for something very large.

A process opens, reads and closes `pages_scanned` in a loop, and asks for `stats` on the socket.
Meanwhile one request at a time is made as large as the protocol lets it be, or nearly so. The
figures are the slowest read and the slowest answer of each case.
"""

import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import daemon
from benchmarks.contents import PAGE_SIZE, sealed_memory
from benchmarks.core import Report, at_most
from dksmfs.control import messages as m
from dksmfs.control import wire
from dksmfs.control.exchange import rights
from dksmfs.control.limits import MAX_INLINE, MAX_SHARING, MAX_VIEW

AT = 0x1_0000_0000
MIB, GIB = 1 << 20, 1 << 30
_WANTED = at_most(20)
_READ_SIZE = 1 << 18
_TIMES = struct.Struct("dd")
_STOPPED = _TIMES.size


@dataclass(frozen=True)
class Sizes:
    """How large the requests are."""

    size: int
    mappings: int
    processes: int
    log: int
    real: int


FULL = Sizes(16 * GIB, 60_000, 30_000, 100_000, 2 * GIB)
QUICK = Sizes(GIB, 20_000, 5_000, 20_000, 256 * MIB)


class Client:
    """A connection that sends requests in one go, and counts the answers."""

    def __init__(self, path: Path) -> None:
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.connect(str(path))
        self._data = bytearray()
        self._line()  # the hello

    def close(self) -> None:
        """Hang up, also for a process that was forked meanwhile."""
        with suppress(OSError):  # it may be closed
            self.stream.shutdown(socket.SHUT_RDWR)
        self.stream.close()

    def ask(self, request: m.Request[Any], descriptors: Iterable[int] = ()) -> Any:
        """Carry out one request; a refusal is no matter."""
        passed = list(descriptors)
        line = wire.encode_request(request, 1, len(passed))
        sent = self.stream.sendmsg([line], rights(passed))
        self.stream.sendall(line[sent:])
        answer = wire.decode_answer(self._line())
        assert isinstance(answer, wire.Answer)
        if isinstance(answer.outcome, wire.Error):
            return answer.outcome
        return wire.decode_result(request, answer.outcome)

    def send(self, data: bytes, answers: int) -> None:
        """Send bytes, and wait for so many answers."""
        sender = threading.Thread(target=self.stream.sendall, args=[data])
        sender.start()
        while answers > 0:
            answers -= self.stream.recv(_READ_SIZE).count(b"\n")
        sender.join()

    def ask_all(self, requests: Iterable[m.Request[Any]]) -> None:
        """Carry out many, all sent at once."""
        lines = [wire.encode_request(request, 1) for request in requests]
        self.send(b"".join(lines), len(lines))

    def _line(self) -> bytes:
        searched = 0
        while (end := self._data.find(b"\n", searched)) < 0:
            searched = len(self._data)
            data = self.stream.recv(_READ_SIZE)
            assert data, "the server closed the connection"
            self._data += data
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        return line


@dataclass
class Case:
    """A machine that was reset, and those who ask."""

    client: Client
    other: Client
    sizes: Sizes
    pid: int = 0
    held: list[Any] = field(default_factory=list)

    def process(self) -> int:
        """A new process of the client."""
        return int(self.client.ask(m.Spawn("vm")).pid)

    def fill(self, content: str = "seed:1") -> None:
        """A process with one large mapping."""
        self.pid = self.process()
        self.client.ask(m.Mmap(self.pid, self.sizes.size, AT, content=content))

    def map_many(self, client: Client, pid: int, mappings: int) -> None:
        """Mappings of one page that do not become one, as their protections differ."""
        client.ask_all(
            m.Mmap(
                pid, PAGE_SIZE, AT + at * PAGE_SIZE, "rw" if at % 2 else "rwx", content="const:7"
            )
            for at in range(mappings)
        )


Act = Callable[[], object]
Prepare = Callable[[Case], Act]


def _nothing(_: Case) -> Act:
    return lambda: time.sleep(0.5)


def _mmap(case: Case) -> Act:
    case.pid = case.process()
    return lambda: case.client.ask(m.Mmap(case.pid, case.sizes.size, AT, content="seed:1"))


def _on_large(request: Callable[[int, int], m.Request[Any]]) -> Prepare:
    def prepare(case: Case) -> Act:
        case.fill()
        return lambda: case.client.ask(request(case.pid, case.sizes.size))

    return prepare


def _on_many(request: Callable[[int, int], m.Request[Any]]) -> Prepare:
    def prepare(case: Case) -> Act:
        case.pid = case.process()
        case.map_many(case.client, case.pid, case.sizes.mappings)
        return lambda: case.client.ask(request(case.pid, case.sizes.mappings * PAGE_SIZE))

    return prepare


def _on_processes(request: Callable[[], m.Request[Any]]) -> Prepare:
    def prepare(case: Case) -> Act:
        case.client.ask_all(m.Spawn("vm") for _ in range(case.sizes.processes))
        return lambda: case.client.ask(request())

    return prepare


def _with_mappings(case: Case, client: Client) -> None:
    """A thousand processes with a thousand mappings each, or as many as the sizes have."""
    count = case.sizes.processes // 30
    first = int(client.ask(m.Spawn("vm")).pid)
    case.map_many(client, first, count)
    client.ask_all(m.Fork(first) for _ in range(count - 1))


def _hang_up(case: Case) -> Act:
    case.other.ask_all(m.Spawn("vm") for _ in range(case.sizes.processes))
    return lambda: _close_and_wait(case)


def _hang_up_with_mappings(case: Case) -> Act:
    _with_mappings(case, case.other)
    return lambda: _close_and_wait(case)


def _reset_with_mappings(case: Case) -> Act:
    _with_mappings(case, case.other)
    return lambda: case.client.ask(m.Reset())


def _close_and_wait(case: Case) -> None:
    case.other.close()
    time.sleep(0.05)
    case.process()  # waits for those exits


def _sharing(case: Case) -> Act:
    case.pid = case.process()
    case.client.ask(m.Mmap(case.pid, MAX_SHARING * PAGE_SIZE, AT, content="seed:1"))
    return lambda: case.client.ask(m.ViewSharing())


def _stop(case: Case) -> Act:
    case.client.ask(m.Store("run", "1"))
    case.fill()
    case.client.ask(m.Madvise(case.pid, AT, case.sizes.size, "mergeable"))
    return lambda: case.client.ask(m.Store("run", "0"))


def _stop_by_file(case: Case) -> Act:
    _stop(case)
    return lambda: Path(case.held[0], "run").write_text("0")


def _write_lines(case: Case) -> Act:
    case.pid = case.process()
    case.client.ask(m.Mmap(case.pid, MAX_INLINE, AT))
    data = os.urandom(MAX_INLINE)
    return lambda: case.client.ask_all([m.Write(case.pid, AT, data)] * 20)


def _bad_lines(case: Case) -> Act:
    nested = b"[" * (MIB - 1) + b"\n"
    pairs = b'{"jsonrpc":"2.0","params":{' + b'"a":1,' * 140_000 + b'"b":1}}\n'
    blank = b"\n" * MIB
    return lambda: case.client.send((nested + pairs) * 10 + blank, 20)


def _many_real_mappings(case: Case) -> Act:
    case.pid = case.process()
    real = [m.RealMapping(at << 12, (at + 1) << 12, "rw", "anon") for at in range(0, 40_000, 2)]
    held = _follow(case, os.getpid())
    assert not isinstance(held, wire.Error), held
    return lambda: case.client.ask(m.Advise(case.pid, 0, 1 << 40, real))


def _follow(case: Case, pid: int) -> Any:
    descriptors = [os.open(f"/proc/{pid}/{name}", os.O_RDONLY) for name in ("mem", "pagemap")]
    try:
        return case.client.ask(m.Follow(case.pid), descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _real_memory(case: Case) -> Act:
    case.client.ask(m.Store("run", "1"))
    case.pid = case.process()
    memory = mmap.mmap(-1, case.sizes.real)
    case.held.append(memory)
    for at in range(0, case.sizes.real, PAGE_SIZE):
        memory[at : at + 8] = at.to_bytes(8, "little")
    start = _address_of(memory)
    _follow(case, os.getpid())
    real = [m.RealMapping(start, start + case.sizes.real, "rw", "anon")]
    return lambda: case.client.ask(m.Advise(case.pid, start, case.sizes.real, real))


def _address_of(memory: mmap.mmap) -> int:
    import ctypes

    buffer = (ctypes.c_char * 1).from_buffer(memory)
    return ctypes.addressof(buffer)


def _memfd(case: Case) -> Act:
    case.client.ask(m.Store("run", "1"))
    case.pid = case.process()
    size = min(case.sizes.size, 4 * GIB)
    page = bytes(range(256)) * 16
    with sealed_memory(page * (size // PAGE_SIZE)) as memory:
        content = m.Carried(memfd=0)
        descriptor = os.dup(memory)

    def act() -> None:
        case.client.ask(m.Mmap(case.pid, size, AT, content=content), [descriptor])
        os.close(descriptor)
        case.client.ask(m.Madvise(case.pid, AT, size, "mergeable"))
        case.client.ask(m.Exit(case.pid))

    return act


def _recording(case: Case) -> Act:
    case.client.ask(m.StartRecording("waits"))
    pid = case.process()
    case.client.ask(m.Mmap(pid, 128 * MIB, AT, content="seed:1"))
    pieces = [m.Write(pid, AT, os.urandom(300)) for _ in range(case.sizes.processes)]
    case.client.ask_all(pieces)

    def act() -> None:
        case.client.ask(m.StopRecording())
        while case.client.ask(m.TakeRecording()).more:
            pass

    return act


def _accesses(case: Case) -> Act:
    case.client.ask(m.SetLog(case.sizes.log))
    path = Path(case.held[0], "run")
    for _ in range(case.sizes.log // 2):
        path.read_bytes()

    def act() -> None:
        after = 0
        while found := case.client.ask(m.ListAccesses(after)).accesses:
            after = found[-1].number
            if after > case.sizes.log:
                break
        request = wire.encode_request(m.Subscribe(["accesses", "stats"]), 1)
        case.other.send(request, case.sizes.log // 2)
        case.client.ask(m.SetLog(0))

    return act


def _crowd(case: Case) -> Act:
    """Thirty clients that look at as much as they may."""
    case.fill("const:7")
    line = wire.encode_request(m.ViewPagemap(case.pid, AT, MAX_VIEW), 1)

    def act() -> None:
        clients = [Client(case.held[1]) for _ in range(30)]
        for client in clients:
            client.stream.sendall(line)
        for client in clients:
            client.send(b"", 1)
            client.close()

    return act


CASES: dict[str, Prepare] = {
    "nothing": _nothing,
    "mmap, large": _mmap,
    "munmap, large": _on_large(lambda pid, size: m.Munmap(pid, AT, size)),
    "mprotect, large": _on_large(lambda pid, size: m.Mprotect(pid, AT, size, "r")),
    "mlock, large": _on_large(lambda pid, size: m.Mlock(pid, AT, size)),
    "mremap, large": _on_large(lambda pid, size: m.Mremap(pid, AT, size, AT << 8)),
    "dontneed, large": _on_large(lambda pid, size: m.Madvise(pid, AT, size, "dontneed")),
    "fill, large": _on_large(lambda pid, size: m.Fill(pid, AT, size, "pattern:1")),
    "fork, large": _on_large(lambda pid, _: m.Fork(pid)),
    "exit, large": _on_large(lambda pid, _: m.Exit(pid)),
    "smaps, large": _on_large(lambda pid, _: m.ViewSmaps(pid)),
    "reset, large": _on_large(lambda *_: m.Reset()),
    "munmap, mappings": _on_many(lambda pid, size: m.Munmap(pid, AT, size)),
    "mprotect, mappings": _on_many(lambda pid, size: m.Mprotect(pid, AT, size, "r")),
    "mlock, mappings": _on_many(lambda pid, size: m.Mlock(pid, AT, size)),
    "madvise, mappings": _on_many(lambda pid, size: m.Madvise(pid, AT, size, "hugepage")),
    "fork, mappings": _on_many(lambda pid, _: m.Fork(pid)),
    "exit, mappings": _on_many(lambda pid, _: m.Exit(pid)),
    "smaps, mappings": _on_many(lambda pid, _: m.ViewSmaps(pid)),
    "sharing, mappings": _on_many(lambda *_: m.ViewSharing()),
    "ps, processes": _on_processes(lambda: m.Ps()),
    "reset, processes": _on_processes(lambda: m.Reset()),
    "record_start, processes": _on_processes(lambda: m.StartRecording("waits")),
    "hang-up, processes": _hang_up,
    "hang-up, processes with mappings": _hang_up_with_mappings,
    "reset, processes with mappings": _reset_with_mappings,
    "pagemap": _on_large(lambda pid, _: m.ViewPagemap(pid, AT, MAX_VIEW)),
    "contents": _on_large(lambda pid, _: m.ViewContents(pid, AT, MAX_VIEW)),
    "sharing": _sharing,
    "thirty clients that look": _crowd,
    "run = 0": _stop,
    "run = 0, by the file": _stop_by_file,
    "writes of 512 KiB": _write_lines,
    "lines of 1 MiB that mean nothing": _bad_lines,
    "20,000 looks at once": lambda case: lambda: case.client.ask_all([m.ReadStats()] * 20_000),
    "20,000 changes at once": lambda case: lambda: case.client.ask_all([m.SetThp()] * 20_000),
    "advise with 20,000 mappings": _many_real_mappings,
    "advise of a real process": _real_memory,
    "memfd: mmap, madvise, exit": _memfd,
    "recording": _recording,
    "access log": _accesses,
}


def run(quick: bool) -> Report:
    """Measure all cases, or those that the environment names (`WAITS`)."""
    sizes = QUICK if quick else FULL
    rounds = 1 if quick else 3
    report = Report()
    wanted = os.environ.get("WAITS", "")
    with daemon.place() as here, daemon.running(here) as running:
        for name, prepare in CASES.items():
            if wanted in name:
                measured = [_measure(running, sizes, prepare) for _ in range(rounds)]
                reads, answers, took = zip(*measured, strict=True)
                report.add(name, "slowest read of the file", "ms", reads, _WANTED)
                report.add(name, "slowest answer", "ms", answers, _WANTED)
                report.add(name, "the request takes", "s", took)
    return report


def _measure(running: daemon.Daemon, sizes: Sizes, prepare: Prepare) -> tuple[float, float, float]:
    """The slowest read and the slowest answer, in ms; how long the request took, in seconds."""
    client, other = Client(running.socket), Client(running.socket)
    client.ask(m.Reset())
    case = Case(client, other, sizes, held=[running.mountpoint, running.socket])
    act = prepare(case)
    with _reading(running) as times:
        start = time.perf_counter()
        act()
        took_s = time.perf_counter() - start
    read_s, answer_s = _TIMES.unpack(times[: _TIMES.size])
    other.close()
    client.ask(m.Reset())
    client.close()
    return read_s * 1e3, answer_s * 1e3, took_s


@contextmanager
def _reading(running: daemon.Daemon) -> Iterator[mmap.mmap]:
    """A process that reads and asks for the length of a block; the value has its slowest times."""
    times = mmap.mmap(-1, PAGE_SIZE)
    reader, ready = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _read_until_stopped(running, times, ready)
        except BaseException as error:
            print(error, file=sys.stderr)
        finally:
            os._exit(0)
    os.close(ready)
    os.read(reader, 1)
    os.close(reader)
    try:
        yield times
        times[_STOPPED] = 1
    finally:
        if not times[_STOPPED]:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _read_until_stopped(running: daemon.Daemon, times: mmap.mmap, ready: int) -> None:
    with suppress(PermissionError):
        os.nice(-20)  # who has the processors is not the daemon's business
    path = str(running.mountpoint / "pages_scanned")
    client = Client(running.socket)
    worst_read = worst_answer = 0.0
    client.ask(m.ReadStats())
    os.write(ready, b"x")
    while not times[_STOPPED]:
        start = time.perf_counter()
        descriptor = os.open(path, os.O_RDONLY)
        os.read(descriptor, 4096)
        os.close(descriptor)
        middle = time.perf_counter()
        client.ask(m.ReadStats())
        worst_read = max(worst_read, middle - start)
        worst_answer = max(worst_answer, time.perf_counter() - middle)
        _TIMES.pack_into(times, 0, worst_read, worst_answer)
