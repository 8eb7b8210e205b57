"""Reading the statistics while one client advertises gibibytes and sixteen ask for small things.

Each read is open, read and close of one file. Besides the time, the text must be a whole number,
and the numbers of one file may only grow.
"""

import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from benchmarks import daemon
from benchmarks.contents import PAGE_SIZE, sealed_memory
from benchmarks.core import Report, at_most
from dksmfs.control.client import connect

FILES = ("pages_scanned", "pages_merged", "hashtable_entries")
CLIENTS = 16
_REQUESTS = (
    b'{"jsonrpc":"2.0","id":1,"method":"stats","params":{}}\n',
    b'{"jsonrpc":"2.0","id":1,"method":"show","params":{"file":"pages_scanned"}}\n',
    b'{"jsonrpc":"2.0","id":1,"method":"show","params":{"file":"run"}}\n',
    b'{"jsonrpc":"2.0","id":1,"method":"spawn","params":{"name":"small"}}\n',  # waits its turn
)


def run(quick: bool) -> Report:
    """Read until the advertisement ends."""
    mebibytes, rounds = (512, 1) if quick else (4096, 3)
    report = Report()
    p50_ms: list[float] = []
    p99_ms: list[float] = []
    worst_ms: list[float] = []
    rates: list[float] = []
    alone: list[float] = []
    with ExitStack() as held:
        memory = held.enter_context(sealed_memory(_distinct_pages(mebibytes)))
        running = held.enter_context(daemon.running(held.enter_context(daemon.place())))
        for _ in range(rounds):
            alone.append(_advertise(running, memory))
            start = time.perf_counter()
            with _small_requests(running.socket), _advertising(running, memory) as advertiser:
                latencies = _read_until_end(running.mountpoint, advertiser)
            rates.append(os.fstat(memory).st_size / PAGE_SIZE / (time.perf_counter() - start))
            for samples, part in ((p50_ms, 50), (p99_ms, 99), (worst_ms, 100)):
                samples.append(float(np.percentile(latencies, part)) * 1e3)
    case = f"{mebibytes} MiB, {CLIENTS} clients"
    report.add(case, "p50 of open, read, close", "ms", p50_ms)
    report.add(case, "p99 of open, read, close", "ms", p99_ms, at_most(5))
    report.add(case, "the slowest", "ms", worst_ms)
    report.add(case, "advertised meanwhile", "pages/s", rates)
    report.add(case, "advertised alone", "pages/s", alone)
    return report


def _distinct_pages(mebibytes: int) -> bytes:
    """Random bytes that repeat every 64 MiB, but for the number of each page."""
    words = np.random.default_rng(1).integers(0, 1 << 64, (64 << 20) // 8, np.uint64)
    pages = np.tile(words.reshape(-1, PAGE_SIZE // 8), (mebibytes // 64, 1))
    pages[:, 0] = np.arange(len(pages))
    return pages.tobytes()


def _read_until_end(directory: Path, advertiser: int) -> list[float]:
    """How long each read took, in seconds."""
    latencies = []
    last = dict.fromkeys(FILES, 0)
    paths = {name: str(directory / name) for name in FILES}
    while os.waitpid(advertiser, os.WNOHANG) == (0, 0):
        for name, path in paths.items():
            start = time.perf_counter()
            descriptor = os.open(path, os.O_RDONLY)
            text = os.read(descriptor, 4096)
            os.close(descriptor)
            latencies.append(time.perf_counter() - start)
            assert text.endswith(b"\n"), f"{name} is torn: {text!r}"
            assert int(text) >= last[name], f"{name} went back from {last[name]} to {text!r}"
            last[name] = int(text)
    return latencies


def _advertise(running: daemon.Daemon, memory: int) -> float:
    """Pages a second, with nobody else there."""
    with connect(running.socket) as client:
        client.set_run(0)
        client.set_run(1)
        region = client.process("busy").mmap(memfd=memory)
        start = time.perf_counter()
        region.madvise("mergeable")
        return region.pages / (time.perf_counter() - start)


@contextmanager
def _advertising(running: daemon.Daemon, memory: int) -> Iterator[int]:
    """A process that advertises this memory; its end is waited for in the block."""
    with connect(running.socket) as client:
        client.set_run(0)
        client.set_run(1)
    child = os.fork()
    if child == 0:
        try:
            with connect(running.socket) as client:
                client.process("busy").mmap(memfd=memory).madvise("mergeable")
            os._exit(0)
        finally:
            os._exit(1)
    yield child


@contextmanager
def _small_requests(path: Path) -> Iterator[None]:
    """A process with sixteen connections, each of which asks again when it has its answer."""
    child = os.fork()
    if child == 0:
        try:
            _ask_for_ever(path)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _ask_for_ever(path: Path) -> None:
    selector = selectors.DefaultSelector()
    for number in range(CLIENTS):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        selector.register(connection, selectors.EVENT_READ, _REQUESTS[number % len(_REQUESTS)])
    while True:  # the daemon's hello counts as the first answer
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.recv(1 << 20)
            key.fileobj.sendall(key.data)
