"""System calls as they are, for comparing two file systems call by call.

Every function returns an :data:`Outcome`: ``ret`` and ``errno`` as the C library has them, and
whatever else the call told. Nothing raises OSError.
"""

import ctypes
import errno
import os
import select
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Outcome = dict[str, Any]

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_long

SYS_GETDENTS64 = 217
SYS_RENAMEAT2 = 316
SYS_OPENAT2 = 437
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
AT_FDCWD = -100
BAD_ADDRESS = ctypes.c_void_p(1)

_INOTIFY_NAMES = {
    0x2: "MODIFY",
    0x1: "ACCESS",
    0x4: "ATTRIB",
    0x8: "CLOSE_WRITE",
    0x10: "CLOSE_NOWRITE",
    0x20: "OPEN",
}
_POLL_NAMES = {
    select.POLLIN: "IN",
    select.POLLOUT: "OUT",
    select.POLLPRI: "PRI",
    select.POLLERR: "ERR",
    select.POLLHUP: "HUP",
    select.POLLNVAL: "NVAL",
}


def succeeded(ret: int = 0, **more: Any) -> Outcome:
    return {"ret": ret, "errno": None, **more}


def failed(number: int | None, **more: Any) -> Outcome:
    # one number has two names, and Python knows the other one
    name = errno.errorcode[number or 0].replace("ENOTSUP", "EOPNOTSUPP")
    return {"ret": -1, "errno": name, **more}


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
    """Make a call of the ``os`` module; its bytes become ``data``, nothing becomes 0."""
    try:
        result = function(*args, **kwargs)
    except OSError as error:
        return failed(error.errno)
    if isinstance(result, bytes):
        return succeeded(len(result), data=result.decode("latin-1"))
    return succeeded(result if isinstance(result, int) else 0)


def libc(name: str, *args: Any) -> Outcome:
    """Call a function of the C library that reports errors through errno."""
    ctypes.set_errno(0)
    ret = getattr(LIBC, name)(*args)
    return succeeded(ret) if ret != -1 else failed(ctypes.get_errno())


def longs(*values: int) -> list[ctypes.c_long]:
    """Return arguments that the C library takes as 64-bit numbers."""
    return [ctypes.c_long(value) for value in values]


@contextmanager
def opened(path: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def user(uid: int) -> Iterator[None]:
    """Be another user for a while, without a capability (only in a process of its own)."""
    if uid == 0:
        yield
        return
    os.setgroups([])
    os.setresgid(uid, uid, 0)
    os.setresuid(uid, uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


def try_open(path: str, flags: int) -> Outcome:
    """Open and close; ret 0 stands for a descriptor."""
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        return failed(error.errno)
    os.close(descriptor)
    return succeeded()


def openat2(path: str, flags: int, resolve: int) -> Outcome:
    """Open with restrictions, and close."""
    how = struct.pack("QQQ", flags, 0, resolve)
    outcome = libc("syscall", SYS_OPENAT2, AT_FDCWD, path.encode(), how, len(how))
    if outcome["errno"] is None:
        os.close(outcome["ret"])
        outcome["ret"] = 0
    return outcome


def read(descriptor: int, size: int) -> Outcome:
    return call(os.read, descriptor, size)


def pread(descriptor: int, size: int, offset: int) -> Outcome:
    return {"data": "", **call(os.pread, descriptor, size, offset)}


def access(path: str, mode: int) -> Outcome:
    return libc("access", os.fsencode(path), mode)


def lstat(path: str) -> Outcome:
    try:
        return described(os.lstat(path))
    except OSError as error:
        return failed(error.errno)


def fstat(descriptor: int) -> Outcome:
    return described(os.fstat(descriptor))


def described(found: os.stat_result) -> Outcome:
    return succeeded(
        mode=f"{found.st_mode:o}",
        nlink=found.st_nlink,
        st_uid=found.st_uid,
        st_gid=found.st_gid,
        size=found.st_size,
        blksize=found.st_blksize,
        blocks=found.st_blocks,
        rdev=found.st_rdev,
        times_equal=found.st_atime_ns == found.st_mtime_ns == found.st_ctime_ns,
    )


def statx_mask(path: str) -> Outcome:
    """Return which fields ``statx`` has for a path, the birth time being one of them."""
    buffer = ctypes.create_string_buffer(256)
    outcome = libc("statx", AT_FDCWD, path.encode(), 0x100, 0xFFF, buffer)
    mask, _, attributes = struct.unpack_from("=IIQ", buffer.raw)
    return {**outcome, "mask": hex(mask), "attributes": hex(attributes)}


def statfs(path: str) -> Outcome:
    buffer = (ctypes.c_long * 15)()
    outcome = libc("statfs", path.encode(), buffer)
    names = ("f_type", "f_bsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree")
    fields: Outcome = dict(zip(names, buffer, strict=False))
    fields["f_type"] = hex(buffer[0])
    return {**outcome, **fields, "f_namelen": buffer[8], "f_frsize": buffer[9]}


def getdents(descriptor: int, size: int) -> Outcome:
    buffer = ctypes.create_string_buffer(size)
    outcome = libc("syscall", SYS_GETDENTS64, descriptor, buffer, size)
    entries, at = [], 0
    while at < outcome["ret"]:
        _, offset, length, kind = struct.unpack_from("=QqHB", buffer.raw, at)
        name = buffer.raw[at + 19 : at + length].partition(b"\0")[0].decode(errors="replace")
        entries.append({"name": name, "d_type": kind, "d_off": offset})
        at += length
    return {**outcome, "entries": entries}


def poll(descriptor: int, events: int, timeout_ms: int = 0) -> Outcome:
    poller = select.poll()
    poller.register(descriptor, events)
    found = poller.poll(timeout_ms)
    bits = found[0][1] if found else 0
    names = "".join(f"{name} " for bit, name in _POLL_NAMES.items() if bits & bit)
    return succeeded(len(found), revents=names)


def mmap(descriptor: int, protection: int, flags: int) -> Outcome:
    address = libc("mmap", None, ctypes.c_size_t(4096), protection, flags, descriptor, 0)
    if address["ret"] == -1:
        return address
    LIBC.munmap(ctypes.c_void_p(address["ret"]), ctypes.c_size_t(4096))
    return succeeded()


def ioctl(descriptor: int, request: int) -> Outcome:
    value = ctypes.c_int(0)
    return libc("ioctl", descriptor, ctypes.c_ulong(request), ctypes.byref(value))


def inotify_events(descriptor: int) -> list[tuple[int, str]]:
    """Return the events that are waiting: (watch, ``"EVENT name"``)."""
    found, at = [], 0
    try:
        buffer = os.read(descriptor, 65536)
    except BlockingIOError:
        return []
    while at < len(buffer):
        watch, mask, _, length = struct.unpack_from("=iIII", buffer, at)
        name = buffer[at + 16 : at + 16 + length].rstrip(b"\0").decode()
        kind = "|".join(text for bit, text in _INOTIFY_NAMES.items() if mask & bit)
        found.append((watch, f"{kind} {name}"))
        at += 16 + length
    return found


def name_to_handle_at(path: str) -> Outcome:
    handle = ctypes.create_string_buffer(struct.pack("Ii128x", 128, 0))
    mount = ctypes.c_int(0)
    return libc("name_to_handle_at", AT_FDCWD, path.encode(), handle, ctypes.byref(mount), 0)
