"""A client's connection, as the server uses it: nothing here waits, but `send_all`."""

import socket
from typing import Any, Final

import trio

_READ_SIZE: Final = 1 << 16
_CLOSE_ON_EXEC: Final = int(socket.MSG_CMSG_CLOEXEC)  # an enum is converted at each call


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

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """The descriptor, to be polled."""
        return self._socket.fileno()

    def receive(self, ancillary_size: int) -> tuple[bytes, list[Any], int, Any]:
        """recvmsg(2): data (none at the end), ancillary data, flags, and who sent it;
        BlockingIOError if nothing has come."""
        return self._socket.recvmsg(_READ_SIZE, ancillary_size, _CLOSE_ON_EXEC)

    def send(self, data: bytearray) -> None:
        """Send what can be sent at once, and remove it; OSError if the client is gone."""
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            return
        del data[:sent]

    async def send_all(self, data: bytearray) -> None:
        """Send everything; OSError if the client is gone."""
        while data:
            self.send(data)
            if data:
                await trio.lowlevel.wait_writable(self._socket)

    async def wait(self) -> None:
        """Wait until there is something to receive."""
        await trio.lowlevel.wait_readable(self._socket)

    def close(self) -> None:
        """Close the connection."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
