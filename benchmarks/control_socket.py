"""Requests on the socket, against servers that only send back what they get.

One request that waits for its reply; many on their way at once; and a thousand connections.
"""

import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks import daemon
from benchmarks.core import Report, at_least, at_most, ending, interleaved

REQUEST = b'{"jsonrpc":"2.0","id":1,"method":"stats","params":{}}\n'
CONNECTIONS = 1000
_READ_SIZE = 1 << 16
_DESCRIPTORS = 4 * CONNECTIONS  # the daemon takes half as many clients as it may open files


def run(quick: bool) -> Report:
    """Measure all three ways to ask."""
    rounds, count, connections = (5, 1000, 200) if quick else (11, 5000, CONNECTIONS)
    report = Report()
    with ExitStack() as held:
        held.enter_context(_many_descriptors())
        here = held.enter_context(daemon.place())
        sockets = {
            "trio echo": held.enter_context(_echo("trio", here)),
            "blocking echo": held.enter_context(_echo("blocking", here)),
            "dksmfs": held.enter_context(daemon.running(here)).socket,
        }
        trips = interleaved(
            {name: partial(_round_trip_us, path, count) for name, path in sockets.items()}, rounds
        )
        _add(report, "round trip", "us", trips)
        for other, limit in (("trio echo", 1.25), ("blocking echo", 2)):
            report.ratio(
                "round trip", f"dksmfs : {other}", trips["dksmfs"], trips[other], at_most(limit)
            )
        piped = interleaved(
            {name: partial(_pipelined, path, count * 20) for name, path in sockets.items()}, rounds
        )
        _add(report, "pipelined", "requests/s", piped, "dksmfs", 150_000)
        del sockets["blocking echo"]  # serves one connection at a time
        many = interleaved(
            {name: partial(_many, path, connections) for name, path in sockets.items()}, rounds
        )
        case = f"{connections:,} connections"
        _add(report, case, "requests/s", many)
        report.ratio(case, "dksmfs : trio echo", many["dksmfs"], many["trio echo"], at_least(0.9))
    return report


def _add(
    report: Report,
    case: str,
    unit: str,
    samples: dict[str, list[float]],
    ours: str = "",
    limit: float = 0,
) -> None:
    for name, values in samples.items():
        report.add(case, name, unit, values, at_least(limit) if name == ours else None)


def _round_trip_us(path: Path, count: int) -> float:
    with _connected(path) as connection:
        start = time.perf_counter()
        for _ in range(count):
            connection.sendall(REQUEST)
            _receive_lines(connection, 1)
        return (time.perf_counter() - start) / count * 1e6


def _pipelined(path: Path, count: int) -> float:
    with _connected(path) as connection:
        sender = threading.Thread(target=connection.sendall, args=[REQUEST * count])
        start = time.perf_counter()
        sender.start()
        _receive_lines(connection, count)
        duration_s = time.perf_counter() - start
        sender.join()
    return count / duration_s


def _many(path: Path, connections: int, turns: int = 10) -> float:
    with ExitStack() as held:
        clients = [held.enter_context(_connected(path)) for _ in range(connections)]
        start = time.perf_counter()
        for _ in range(turns):
            for client in clients:
                client.sendall(REQUEST)
            for client in clients:
                _receive_lines(client, 1)
        return connections * turns / (time.perf_counter() - start)


def _receive_lines(connection: socket.socket, count: int) -> None:
    while count > 0:
        data = connection.recv(_READ_SIZE)
        assert data, "the server closed the connection"
        count -= data.count(b"\n")


@contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    """A connection that has had an answer to its first request (and the daemon's hello)."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(REQUEST)
        data = b""
        while not (data.endswith(b"\n") and b'"id":1' in data):
            data += connection.recv(_READ_SIZE)
        yield connection


@contextmanager
def _echo(kind: str, here: Path) -> Iterator[Path]:
    path = here / kind
    command = [sys.executable, "-m", "benchmarks.echo_servers", kind, str(path)]
    environment = daemon.command_environment(here)
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    with ending(server):
        assert server.stdout is not None
        server.stdout.readline()
        yield path


@contextmanager
def _many_descriptors() -> Iterator[None]:
    found = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = min(max(found[0], _DESCRIPTORS), found[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, found[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, found)
