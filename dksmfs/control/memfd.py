"""Memory that a client hands over as a descriptor: checked, then mapped read-only.

A memfd must carry F_SEAL_SHRINK, or truncating it would kill the daemon with SIGBUS. Without
F_SEAL_WRITE its owner may go on writing it, and that is a feature: it is how a page changes
behind the machine's back.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import weakref
from collections import deque
from typing import Final

import trio

from dksmfs.control.events import Bell
from dksmfs.control.job import Memory
from dksmfs.control.limits import MAX_POPULATED
from dksmfs.kernel.errors import kernel_error

MAX_HOLES: Final = 1 << 30
"""Bytes of a memfd that were never written. Reading a hole through a mapping allocates it."""

MAX_MAPPED: Final = 1 << 14
"""Memfds mapped at the same time: a quarter of the mappings that Linux allows a process."""

_PIECE_SIZE: Final = 1 << 24
"""Bytes of one munmap(2), which takes time for each page that was read. Meanwhile nothing can be
mapped."""

_PAGE_SIZE: Final = 4096
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


class MemoryMapper:
    """Maps memfds, and counts those that are still mapped."""

    def __init__(self) -> None:
        self._mapped = 0
        self._unused: deque[tuple[int, int]] = deque()
        """Address and size of large mappings that nobody uses any more."""
        self._bell = Bell()

    def map(self, descriptor: int) -> Memory:
        """Map the memfd behind `descriptor`, which the caller may close afterwards."""
        if self._mapped >= MAX_MAPPED:
            raise kernel_error(errno.ENOMEM, f"{MAX_MAPPED} memfds are mapped already")
        size, stable = _check(descriptor)
        return Memory(self._map(descriptor, size, stable) if size else memoryview(b""), stable)

    def _map(self, descriptor: int, size: int, stable: bool) -> memoryview:
        # Before 6.7, Linux refuses a shared mapping of a sealed memfd, even to read it (EPERM).
        flags = mmap.MAP_PRIVATE if stable else mmap.MAP_SHARED
        # Not mmap.mmap: before Python 3.13 that keeps a duplicate of the descriptor open.
        address = _LIBC.mmap(None, size, mmap.PROT_READ, flags, descriptor, 0)
        if address == _MAP_FAILED:
            number = ctypes.get_errno()
            raise kernel_error(number, f"cannot map the memfd: {os.strerror(number)}")
        self._mapped += 1
        array = (ctypes.c_ubyte * size).from_address(address)
        # At exit views may still be in use; the mapping ends with the process anyway.
        weakref.finalize(array, self._unmap, address, size).atexit = False
        return memoryview(array).cast("B").toreadonly()

    async def unmap_unused(self) -> None:
        """Unmap large memory that is no longer used, until cancelled.

        A thread does it: the last one who maps a memfd waits until the kernel has freed it all.
        """
        while True:
            while self._unused:
                await trio.to_thread.run_sync(_munmap, *self._unused.popleft())
                self._mapped -= 1
            await self._bell.wait()

    def _unmap(self, address: int, size: int) -> None:
        """Unmap memory that is no longer used, at once if it is small."""
        if size > _PIECE_SIZE:
            self._unused.append((address, size))
            self._bell.ring()
        else:
            _LIBC.munmap(address, size)
            self._mapped -= 1


def _munmap(address: int, size: int) -> None:
    for at in range(0, size, _PIECE_SIZE):
        _LIBC.munmap(address + at, min(_PIECE_SIZE, size - at))


def _check(descriptor: int) -> tuple[int, bool]:
    """Return the size in bytes, and whether nobody can write it any more."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        raise kernel_error(errno.EINVAL, "the descriptor is not a memfd") from None
    if not seals & fcntl.F_SEAL_SHRINK:
        raise kernel_error(
            errno.EINVAL,
            "the memfd lacks F_SEAL_SHRINK: create it with MFD_ALLOW_SEALING, "
            "then fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)",
        )
    if os.fstatvfs(descriptor).f_bsize != _PAGE_SIZE:
        raise kernel_error(errno.EINVAL, "the memfd has huge pages (MFD_HUGETLB): use one without")
    status = os.fstat(descriptor)
    _check_size(status)
    return status.st_size, bool(seals & fcntl.F_SEAL_WRITE)


def _check_size(status: os.stat_result) -> None:
    if status.st_size > MAX_POPULATED:
        raise kernel_error(errno.ENOMEM, f"the memfd is larger than {MAX_POPULATED} bytes")
    holes = status.st_size - status.st_blocks * 512
    if holes > MAX_HOLES:
        raise kernel_error(
            errno.ENOMEM,
            f"the memfd has {holes} bytes that were never written, {MAX_HOLES} at most may be",
        )
