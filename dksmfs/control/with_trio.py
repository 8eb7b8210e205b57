"""The door that is awaited in trio."""

import math
import socket
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import trio

from dksmfs.control import wire
from dksmfs.control.exchange import READ_SIZE, Exchange, explained, rights
from dksmfs.control.messages import Hello, Request, Stats
from dksmfs.injection import Access

R = TypeVar("R")


class Trio:
    """A door whose `ask` is awaited in trio. Tasks may share it: they take turns."""

    suspends: Final = True

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._exchange = Exchange()
        self._turn = trio.Lock()

    @classmethod
    async def open(cls, path: str) -> "Trio":
        """Connect to the socket at `path`."""
        stream = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await stream.connect(path)
            door = cls(trio.SocketStream(stream))
            while not door._exchange.is_open:
                await door._receive()
        except BaseException as error:
            stream.close()
            raise explained(error, path) from None
        return door

    @property
    def hello(self) -> Hello:
        """What the server said first."""
        return self._exchange.hello

    async def ask(self, request: Request[R], descriptors: Sequence[int] = ()) -> R:
        """Send `request` and return its reply. A cancelled `ask` may have happened or not."""
        async with self._turn:
            number, line = self._exchange.request(request, len(descriptors))
            await self._send(line, descriptors)
            while (answer := self._exchange.answer(number)) is None:
                await self._receive()
        return wire.decode_result(request, answer.outcome)

    async def another(self) -> "Trio":
        """Open another door to the same server."""
        return await Trio.open(self._stream.socket.getpeername())

    async def event(self, timeout_s: float | None = None) -> Stats | Access | None:
        """Return the next event of this connection, which has subscribed; None if it takes too
        long."""
        with trio.move_on_after(math.inf if timeout_s is None else max(timeout_s, 0)):
            while not self._exchange.events:
                await self._receive()
        return self._exchange.events.popleft() if self._exchange.events else None

    async def hang_up(self) -> None:
        """Close the connection, as `aclose` does."""
        await self.aclose()

    def run(self, work: Coroutine[Any, Any, R]) -> Awaitable[R]:
        """Leave the awaiting to the caller."""
        return work

    async def aclose(self) -> None:
        """Close the connection: its processes exit."""
        await self._stream.aclose()

    async def _send(self, line: bytes, descriptors: Sequence[int]) -> None:
        try:
            sent = await self._stream.socket.sendmsg([line], rights(descriptors))
            await self._stream.send_all(line[sent:])
        except trio.Cancelled:
            self._stream.socket.close()  # half a line may be out: nothing can follow it
            raise

    async def _receive(self) -> None:
        self._exchange.feed(await self._stream.receive_some(READ_SIZE))
