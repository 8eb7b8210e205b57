"""A real server on a real socket, and a client that sends whatever bytes it is told to."""

import array
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from dksmfs.control.attendant import attending, epoll_of_trio
from dksmfs.control.messages import Hello
from dksmfs.control.server import serve_control
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.sysfs.tables import dksm_tree

HELLO = Hello(version="0.1.0", mountpoint="/somewhere/dksm", pid=1234)
PAGE = 4096

Answer = dict[str, Any]


@dataclass
class Served:
    """A machine behind a socket."""

    path: str
    machine: Machine = field(default_factory=lambda: Machine(thp="never"))
    exclusive: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(1, max_value=1))
    server: trio.CancelScope = field(default_factory=trio.CancelScope)


@asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    """Serve a machine; afterwards its books must agree, and no descriptor may be left open."""
    before = open_descriptors()
    # Not tmp_path: a socket's path may have 107 bytes only.
    with tempfile.TemporaryDirectory(prefix="dksmfs-test-") as directory:
        served = Served(str(Path(directory, "socket")))
        stream = trio.socket.socket(socket.AF_UNIX)
        await stream.bind(served.path)
        stream.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve, served, trio.SocketListener(stream))
            yield served
            served.server.cancel()
    served.machine.check_invariants()
    assert served.machine.processes() == [], "connections own their processes"
    assert open_descriptors() == before


async def _serve(served: Served, listener: trio.SocketListener) -> None:
    attributes = dksm_tree(served.machine)
    with served.server, attending(await epoll_of_trio()) as attendant:
        await serve_control(
            served.machine, attributes, listener, served.exclusive, HELLO, attendant
        )


def open_descriptors() -> set[str]:
    """The open descriptors of this process that are sockets, memfds or files, by what they are."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # Path.iterdir opens one too
        try:
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
        except FileNotFoundError:
            continue
        if not target.startswith(("anon_inode:", "/proc/")):  # trio's own, and this look
            found.add(f"{name} {target}")
    return found


class Raw:
    """A connection that sends bytes as they are, and reads answers one by one."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send bytes, the descriptors with the first of them."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        sent = await self.stream.socket.sendmsg([data], rights if descriptors else [])
        await self.stream.send_all(data[sent:])

    async def line(self) -> bytes:
        """The next line; empty if the server has closed the connection."""
        while b"\n" not in self._buffer:
            data = await self.stream.receive_some()
            if not data:
                return b""
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return line

    async def answer(self) -> Answer:
        """The next line, decoded."""
        answer: Answer = msgspec.json.decode(await self.line())
        return answer

    async def ask(self, method: str, descriptors: Sequence[int] = (), **params: Any) -> Answer:
        """Send a correct request and return its answer."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        if descriptors:
            request["descriptors"] = len(descriptors)
        await self.send(msgspec.json.encode(request) + b"\n", descriptors)
        return await self.answer()

    async def result(self, method: str, descriptors: Sequence[int] = (), **params: Any) -> Answer:
        """Like `ask`, for requests that succeed."""
        answer = await self.ask(method, descriptors, **params)
        assert "error" not in answer, answer["error"]
        result: Answer = answer["result"]
        return result


@asynccontextmanager
async def connection(served: Served) -> AsyncIterator[Raw]:
    """Connect."""
    async with await trio.open_unix_socket(served.path) as stream:
        yield Raw(stream)


@asynccontextmanager
async def raw_connection(served: Served) -> AsyncIterator[Raw]:
    """Connect, and take the hello."""
    async with connection(served) as raw:
        assert (await raw.answer())["method"] == "hello"
        yield raw


@contextmanager
def memfd(data: bytes, seals: int) -> Iterator[int]:
    """A memfd with these bytes and these seals."""
    import fcntl

    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(descriptor, data)
        if seals:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        yield descriptor
    finally:
        os.close(descriptor)
