"""Taking the kernel's requests: most are answered at once, and pyfuse3 gets the others.

A reader asks again within microseconds: `open`, `read` and `close` are five requests, and a loop
around them has no end. So we read what the kernel asks ourselves, and answer what we can without
a turn of trio's scheduler (`quick.py`). pyfuse3 knows nothing of this: where it has the descriptor
of the mount it finds a socket, on which come the requests that are left for it. Its replies go
from there to the kernel.
"""

import errno
import io
import mmap
import os
import socket
import stat
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import pyfuse3
import trio
from pyfuse3 import InodeT

from dksmfs.mount import quick
from dksmfs.mount.operations import SysfsOperations

Attend = Callable[[int, Callable[[], bool]], Awaitable[None]]
"""Calls a function whenever there is something to read from a descriptor, until it returns True."""

_TURN_REQUESTS: Final = 64
"""Requests in a row, of less than 10 microseconds each, before everybody else has a turn."""

_BUFFER_SIZE: Final = (1 << 20) + 4096
"""As large as libfuse's, which has told the kernel that it takes as much (``max_write``)."""

_FUSE_DEVICE = os.makedev(10, 229)  # Documentation/admin-guide/devices.txt
_NO_MORE_TASKS = 1 << 30
"""Tasks of pyfuse3: those that wait, as stores do for the machine's lock, must not be the last."""


def fuse_descriptors() -> set[int]:
    """Return the descriptors through which this process talks to FUSE; pyfuse3 keeps its secret."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 (a Path for each is slow)
        with suppress(OSError):
            status = os.fstat(int(name))
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == _FUSE_DEVICE:
                found.add(int(name))
    return found


async def answer_requests(fuse: int, operations: SysfsOperations, attend: Attend) -> None:
    """Answer the requests that come on the descriptor ``fuse`` until the mount has gone."""
    with _in_place_of(fuse) as (kernel, others):
        async with trio.open_nursery() as nursery:
            requests = Requests(kernel, others, operations, nursery)
            nursery.start_soon(pyfuse3.main, 1, _NO_MORE_TASKS)
            nursery.start_soon(attend, others.fileno(), requests.pass_on_reply)
            with operations.telling(requests.forget_attributes), suppress(_UnmountedError):
                await attend(kernel, requests.answer)
            nursery.cancel_scope.cancel()


@contextmanager
def _in_place_of(fuse: int) -> Iterator[tuple[int, socket.socket]]:
    """Let those who use the descriptor ``fuse`` talk to a socket; return the kernel and the socket.

    Messages keep their boundaries, and the longest that goes through has 64 KiB (``setxattr``).
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kernel = os.dup(fuse)
    os.set_blocking(kernel, False)
    with ours, theirs:
        os.dup2(theirs.fileno(), fuse, inheritable=False)
        ours.setblocking(False)
        try:
            yield kernel, ours
        finally:
            os.dup2(kernel, fuse, inheritable=False)
            os.close(kernel)


class _UnmountedError(Exception):
    """The mount has gone."""


class Requests:
    """The requests of one mount. ``others`` is where those go that are not answered at once."""

    def __init__(
        self,
        kernel: int,
        others: socket.socket,
        operations: SysfsOperations,
        nursery: trio.Nursery,
    ) -> None:
        device = io.FileIO(kernel, "r+", closefd=False)
        self._read, self._write = device.readinto, device.write
        self._others = others
        self._left: deque[bytes] = deque()
        self._buffer = mmap.mmap(-1, _BUFFER_SIZE)  # takes no memory until it is used
        self._operations = operations
        self._answer_to = quick.QuickAnswers(operations).to
        self._nursery = nursery

    def answer(self) -> bool:
        """Answer the requests that have come; never return True."""
        buffer, read = self._buffer, self._read
        try:
            for _ in range(_TURN_REQUESTS):
                length = read(buffer)
                if length is None:
                    break  # there are no more
                reply = self._answer_to(buffer)
                if reply is None:
                    self._leave_to_others(length)
                    break
                if reply:
                    self._write(reply)
        except OSError as error:
            _check_no_harm(error)
        return False

    def _leave_to_others(self, length: int) -> None:
        """Let a task answer the request in the buffer: ours if it is a write, which may be too long
        for a socket, and one of pyfuse3 otherwise."""
        write = quick.write_of(self._buffer)
        if write is None:
            self._left.append(self._buffer[:length])
            self._pass_on_requests()
        else:
            self._nursery.start_soon(self._store, write)

    def _pass_on_requests(self) -> None:
        """Give pyfuse3 what is left for it, as far as the socket has room."""
        with suppress(BlockingIOError):
            while self._left:
                self._others.send(self._left[0])
                self._left.popleft()

    async def _store(self, write: quick.Write) -> None:
        try:
            taken = await self._operations.write(write.handle, write.offset, write.data)
        except pyfuse3.FUSEError as error:
            self._reply(quick.refusal(write.unique, error.errno))
        else:
            self._reply(quick.written(write.unique, taken))

    def pass_on_reply(self) -> bool:
        """Give the kernel what pyfuse3 replies; which has made room for another request."""
        with suppress(BlockingIOError):
            self._reply(self._others.recv(_BUFFER_SIZE))
        self._pass_on_requests()
        return False

    def forget_attributes(self, inodes: Iterable[InodeT]) -> None:
        """Have the kernel ask again for the attributes of these inodes."""
        with suppress(_UnmountedError):
            for inode in inodes:
                self._reply(quick.forget_attributes(inode))

    def _reply(self, reply: bytes) -> None:
        try:
            self._write(reply)
        except OSError as error:
            _check_no_harm(error)


def _check_no_harm(error: OSError) -> None:
    """Let pass what the kernel says of a request or a reply when who asked was killed meanwhile."""
    if error.errno == errno.ENODEV:
        raise _UnmountedError from error
    if error.errno != errno.ENOENT:
        raise error
