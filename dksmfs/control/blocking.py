"""The door that blocks."""

import socket
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from dksmfs.control import wire
from dksmfs.control.exchange import READ_SIZE, Exchange, explained, rights
from dksmfs.control.messages import Hello, Request, Stats
from dksmfs.injection import Access

R = TypeVar("R")


class Blocking:
    """A door whose `ask` blocks. Threads may share it: they take turns."""

    suspends: Final = False

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._exchange = Exchange()
        self._turn = threading.Lock()

    @classmethod
    def open(cls, path: str) -> "Blocking":
        """Connect to the socket at `path`."""
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.connect(path)
            door = cls(stream)
            while not door._exchange.is_open:
                door._receive()
        except BaseException as error:
            stream.close()
            raise explained(error, path) from None
        return door

    @property
    def hello(self) -> Hello:
        """What the server said first."""
        return self._exchange.hello

    async def ask(self, request: Request[R], descriptors: Sequence[int] = ()) -> R:
        """Send `request` and return its reply."""
        with self._turn:
            number, line = self._exchange.request(request, len(descriptors))
            sent = self._stream.sendmsg([line], rights(descriptors))
            self._stream.sendall(line[sent:])
            while (answer := self._exchange.answer(number)) is None:
                self._receive()
        return wire.decode_result(request, answer.outcome)

    async def another(self) -> "Blocking":
        """Open another door to the same server."""
        return Blocking.open(self._stream.getpeername())

    async def event(self, timeout_s: float | None = None) -> Stats | Access | None:
        """Return the next event of this connection, which has subscribed; None if it takes too
        long."""
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            while not self._exchange.events:
                if ends is not None:
                    self._stream.settimeout(max(ends - time.monotonic(), 1e-9))
                self._receive()
        except TimeoutError:
            return None
        finally:
            self._stream.settimeout(None)
        return self._exchange.events.popleft()

    async def hang_up(self) -> None:
        """Close the connection, as `close` does."""
        self.close()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run `work` to its end: it never suspends, for `ask` does not."""
        try:
            work.send(None)
        except StopIteration as stop:
            result: R = stop.value
            return result
        raise AssertionError(f"{work!r} waits for something else than the server")

    def close(self) -> None:
        """Close the connection: its processes exit."""
        self._stream.close()

    def _receive(self) -> None:
        self._exchange.feed(self._stream.recv(READ_SIZE))
