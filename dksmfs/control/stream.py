"""A client's connection, as the server uses it.

trio's own streams go through the scheduler after everything that succeeds at once, which is fair
to all tasks and costs half of a small request. This one gives way when it has to wait for the
client, and otherwise when its turn is over.
"""

import socket
from typing import Any, Final

import trio

_TURN_SECONDS: Final = 0.001
"""After so much work for one client the others get a turn; those who read files are among them."""


class Company:
    """The clients of one server; knows whether one of them is alone at the moment."""

    def __init__(self) -> None:
        self._last: Stream | None = None

    def has_only(self, stream: "Stream") -> bool:
        """Note that `stream` was heard; tell whether it was the last one to be heard before."""
        alone = self._last is stream
        self._last = stream
        return alone


class Stream:
    """The connection of `stream`, which must not be used any more."""

    def __init__(self, stream: trio.SocketStream, company: Company) -> None:
        self._company = company
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        self._may_have_more = False
        self._begin_turn()

    def fileno(self) -> int:
        """The descriptor, to be polled."""
        return self._socket.fileno()

    async def receive(self, size: int, ancillary_size: int) -> tuple[bytes, list[Any], int]:
        """recvmsg(2): data (none at the end), ancillary data and flags."""
        while True:
            if not self._may_have_more:
                await trio.lowlevel.wait_readable(self._socket)
                self._begin_turn()
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    size, ancillary_size, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                self._may_have_more = False
            else:
                # One that is alone often has the next request ready when it got its reply. To look
                # at one of many clients in vain costs more than that saves.
                self._may_have_more = self._company.has_only(self) or len(data) == size
                return data, ancillary, flags

    async def send_all(self, data: bytes | bytearray) -> None:
        """Send everything; `trio.BrokenResourceError` if the client is gone."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)
                self._begin_turn()
            except OSError as error:
                raise trio.BrokenResourceError("the client is gone") from error

    async def give_way(self) -> None:
        """Let others have a turn if this one was long enough."""
        if trio.current_time() > self._turn_ends:
            await trio.lowlevel.checkpoint()
            self._begin_turn()

    def close(self) -> None:
        """Close the connection."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()

    def _begin_turn(self) -> None:
        self._turn_ends = trio.current_time() + _TURN_SECONDS
