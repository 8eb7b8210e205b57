"""The requests that a reader in a loop makes, answered from the kernel's own format.

Of open, read, close and fstat the kernel makes requests of a few fixed fields (`linux/fuse.h`: the
layout never changes, what is new goes behind it), and the answers wait for nothing. pyfuse3 takes
several times as long to make a coroutine and objects for each of them. The answers themselves are
those of `SysfsOperations`, and whoever stands between it and the programs gets all requests.
"""

import errno
import mmap
import struct
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

from pyfuse3 import FileHandleT, InodeT

from dksmfs.mount.operations import SysfsOperations

_OPCODE: Final = 4 if sys.byteorder == "little" else 7  # the only byte of it that is not always 0
_HEADER_SIZE: Final = 40  # fuse_in_header; of it and of what follows, what each request needs:
_UNIQUE_IN: Final = struct.Struct("=8xQ")
_LOOKUP_IN: Final = struct.Struct("=I4xQQ")  # length of the request, unique, nodeid
_GETATTR_IN: Final = struct.Struct("=8xQQ")  # unique, nodeid
_OPEN_IN: Final = struct.Struct("=8xQQ16xI")  # unique, nodeid, flags
_READ_IN: Final = struct.Struct("=8xQ24xQQI")  # unique, fh, offset, size; also of fuse_write_in
_RELEASE_IN: Final = struct.Struct("=8xQ24xQ")  # unique, fh
_WRITE_DATA: Final = _HEADER_SIZE + 40  # behind fuse_write_in

_OUT: Final = "=IiQ"  # fuse_out_header: length of the reply, errno, unique; followed by
_REPLY: Final = struct.Struct(_OUT)
_REPLY_SIZE: Final = _REPLY.size
_ENTRY_REPLY: Final = struct.Struct(_OUT + "128s")  # fuse_entry_out
_ATTR_REPLY: Final = struct.Struct(_OUT + "104s")  # fuse_attr_out
_OPEN_REPLY: Final = struct.Struct(_OUT + "QII")
_WRITE_REPLY: Final = struct.Struct(_OUT + "II")
_FORGET_INODE: Final = struct.Struct(_OUT + "Qqq")  # fuse_notify_inval_inode_out

_FORGETS = (2, 42)  # FUSE_FORGET, FUSE_BATCH_FORGET: the nodes stay as long as the mount
_LOOKUP, _GETATTR, _OPEN, _READ, _WRITE, _RELEASE = 1, 3, 14, 15, 16, 18
_DIRECT_IO, _KEEP_CACHE = 1, 2  # what pyfuse3 says of a file that is opened with direct_io
_NOTIFY_INVAL_INODE = 2
_NO_CONTENTS = -1  # an offset: only attributes are to be forgotten

Request = mmap.mmap
"""A request, and behind it whatever else is in the buffer."""


class QuickAnswers:
    """Answers in bytes to requests in bytes."""

    def __init__(self, operations: SysfsOperations) -> None:
        self._operations = operations
        self._answers: dict[int, Callable[[Request], bytes]] = {
            _LOOKUP: self._lookup,
            _GETATTR: self._getattr,
            _OPEN: self._open,
            _READ: self._read,
            _RELEASE: self._release,
        }

    def to(self, request: Request) -> bytes | None:
        """Return the reply to a request, which is empty if it wants none; None if that takes more
        than these answers."""
        opcode = request[_OPCODE]
        answer = self._answers.get(opcode)
        if answer is None or self._operations.interference is not None:
            return b"" if opcode in _FORGETS else None
        try:
            return answer(request)
        except OSError as error:
            (unique,) = _UNIQUE_IN.unpack_from(request)
            return refusal(unique, error.errno or errno.EIO)

    def _lookup(self, request: Request) -> bytes:
        length, unique, parent = _LOOKUP_IN.unpack_from(request)
        found = self._operations.find(parent, request[_HEADER_SIZE : length - 1])  # and a NUL
        return _ENTRY_REPLY.pack(_ENTRY_REPLY.size, 0, unique, found.entry_out)

    def _getattr(self, request: Request) -> bytes:
        unique, number = _GETATTR_IN.unpack_from(request)
        inode = self._operations.inodes[number]
        return _ATTR_REPLY.pack(_ATTR_REPLY.size, 0, unique, inode.attr_out)

    def _open(self, request: Request) -> bytes:
        unique, number, flags = _OPEN_IN.unpack_from(request)
        handle = self._operations.open_file(self._operations.inodes[number], flags)
        return _OPEN_REPLY.pack(_OPEN_REPLY.size, 0, unique, handle, _DIRECT_IO | _KEEP_CACHE, 0)

    def _read(self, request: Request) -> bytes:
        unique, handle, offset, size = _READ_IN.unpack_from(request)
        data = self._operations.files[handle].read(offset, size)
        return _REPLY.pack(_REPLY_SIZE + len(data), 0, unique) + data

    def _release(self, request: Request) -> bytes:
        unique, handle = _RELEASE_IN.unpack_from(request)
        self._operations.close_file(handle)
        return _REPLY.pack(_REPLY_SIZE, 0, unique)


class Write(NamedTuple):
    """A request to write."""

    unique: int
    handle: FileHandleT
    offset: int
    data: bytes


def write_of(request: Request) -> Write | None:
    """Return what a request wants to write, if it does."""
    if request[_OPCODE] != _WRITE:
        return None
    unique, handle, offset, size = _READ_IN.unpack_from(request)
    data = request[_WRITE_DATA : _WRITE_DATA + size]
    return Write(unique, FileHandleT(handle), offset, data)


def written(unique: int, taken: int) -> bytes:
    """The reply to a write of which so many bytes were taken."""
    return _WRITE_REPLY.pack(_WRITE_REPLY.size, 0, unique, taken, 0)


def refusal(unique: int, number: int) -> bytes:
    """The refusal of a request, with this errno."""
    return _REPLY.pack(_REPLY_SIZE, -number, unique)


def forget_attributes(inode: InodeT) -> bytes:
    """What makes the kernel forget the attributes that it keeps of an inode."""
    size = _FORGET_INODE.size
    return _FORGET_INODE.pack(size, _NOTIFY_INVAL_INODE, 0, inode, _NO_CONTENTS, 0)
