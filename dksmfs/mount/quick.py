"""The requests that a reader in a loop makes, answered from the kernel's own format.

Of open, read, close and fstat the kernel makes requests of a few fixed fields (`linux/fuse.h`: the
layout never changes, what is new goes behind it), and the answers wait for nothing. pyfuse3 takes
several times as long to make a coroutine and objects for each of them. The answers themselves are
those of `SysfsOperations`, and whoever stands between it and the programs gets all requests.
"""

import errno
import mmap
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from pyfuse3 import FileHandleT, FlagT, InodeT

from dksmfs.mount.inodes import ENTRY_ATTR
from dksmfs.mount.operations import SysfsOperations

_HEADER: Final = struct.Struct("=4xIQQ16x")  # fuse_in_header: opcode, unique, nodeid
_READ_IN: Final = struct.Struct("=QQI")  # the beginning of fuse_read_in
_OPEN_IN: Final = struct.Struct("=I")
_RELEASE_IN: Final = struct.Struct("=Q")
_WRITE_IN: Final = struct.Struct("=QQIIQII")
_REPLY: Final = struct.Struct("=IiQ")  # fuse_out_header
_OPEN_OUT: Final = struct.Struct("=QII")
_WRITE_OUT: Final = struct.Struct("=II")
_ATTR_OUT: Final = bytes(16)  # fuse_attr_out, but for the attributes: they may not be kept

_FORGETS = (2, 42)  # FUSE_FORGET, FUSE_BATCH_FORGET: the nodes stay as long as the mount
_LOOKUP, _GETATTR, _OPEN, _READ, _WRITE, _RELEASE = 1, 3, 14, 15, 16, 18
_DIRECT_IO, _KEEP_CACHE = 1, 2  # what pyfuse3 says of a file that is opened with direct_io

Request = mmap.mmap
"""A request, and behind it whatever else is in the buffer."""


class QuickAnswers:
    """Answers in bytes to requests in bytes."""

    def __init__(self, operations: SysfsOperations) -> None:
        self._operations = operations
        self._answers: dict[int, Callable[[Request, InodeT], bytes]] = {
            _LOOKUP: self._lookup,
            _GETATTR: self._getattr,
            _OPEN: self._open,
            _READ: self._read,
            _RELEASE: self._release,
        }

    def to(self, request: Request) -> bytes | None:
        """Return the reply to a request, which is empty if it wants none; None if that takes more
        than these answers."""
        opcode, unique, inode = _HEADER.unpack_from(request)
        answer = self._answers.get(opcode)
        if answer is None or self._operations.interference is not None:
            return b"" if opcode in _FORGETS else None
        try:
            result = answer(request, inode)
        except OSError as error:
            return refusal(unique, error.errno or errno.EIO)
        return _REPLY.pack(_REPLY.size + len(result), 0, unique) + result

    def _lookup(self, request: Request, parent: InodeT) -> bytes:
        name = request[_HEADER.size : request.find(b"\0", _HEADER.size)]
        return self._operations.find(parent, name).entry

    def _getattr(self, _: Request, inode: InodeT) -> bytes:
        return _ATTR_OUT + self._operations.inode(inode).entry[ENTRY_ATTR:]

    def _open(self, request: Request, inode: InodeT) -> bytes:
        (flags,) = _OPEN_IN.unpack_from(request, _HEADER.size)
        handle = self._operations.open_file(self._operations.inode(inode), FlagT(flags))
        return _OPEN_OUT.pack(handle, _DIRECT_IO | _KEEP_CACHE, 0)

    def _read(self, request: Request, _: InodeT) -> bytes:
        handle, offset, size = _READ_IN.unpack_from(request, _HEADER.size)
        return self._operations.file(handle).read(offset, size)

    def _release(self, request: Request, _: InodeT) -> bytes:
        (handle,) = _RELEASE_IN.unpack_from(request, _HEADER.size)
        self._operations.close_file(FileHandleT(handle))
        return b""


class Write(NamedTuple):
    """A request to write."""

    unique: int
    handle: FileHandleT
    offset: int
    data: bytes


def write_of(request: Request) -> Write | None:
    """Return what a request wants to write, if it does."""
    opcode, unique, _ = _HEADER.unpack_from(request)
    if opcode != _WRITE:
        return None
    handle, offset, size, *_ = _WRITE_IN.unpack_from(request, _HEADER.size)
    start = _HEADER.size + _WRITE_IN.size
    return Write(unique, FileHandleT(handle), offset, request[start : start + size])


def written(unique: int, taken: int) -> bytes:
    """The reply to a write of which so many bytes were taken."""
    return _REPLY.pack(_REPLY.size + _WRITE_OUT.size, 0, unique) + _WRITE_OUT.pack(taken, 0)


def refusal(unique: int, number: int) -> bytes:
    """The refusal of a request, with this errno."""
    return _REPLY.pack(_REPLY.size, -number, unique)
