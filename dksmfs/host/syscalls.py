"""System calls that Python's library does not have, by way of the C library."""

import ctypes
import os
import platform
from typing import Final

from dksmfs.errors import DksmfsError

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_SLAVE: Final = 1 << 19

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38

LIBC: Final = ctypes.CDLL(None, use_errno=True)
LIBC.mount.argtypes = [*[ctypes.c_char_p] * 3, ctypes.c_ulong, ctypes.c_char_p]
LIBC.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
LIBC.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]


class Numbers:
    """System call numbers of one architecture, and what audit.h calls it."""

    def __init__(self, audit: int, madvise: int, process_madvise: int, prctl: int) -> None:
        self.audit = audit
        self.madvise = madvise
        self.process_madvise = process_madvise
        self.prctl = prctl


_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}

ARCHITECTURES: Final = {
    # The second one is that of 32-bit programs.
    "x86_64": (Numbers(0xC000003E, 28, 440, 157), Numbers(0x40000003, 219, 440, 172)),
    "aarch64": (Numbers(0xC00000B7, 233, 440, 167), Numbers(0x40000028, 220, 440, 172)),
}


def architecture() -> tuple[Numbers, ...]:
    """The numbers of this machine."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        known = " and ".join(ARCHITECTURES)
        raise DksmfsError(f"watching madvise works on {known} only, and this is {machine}")
    return ARCHITECTURES[machine]


def check(result: int, what: str) -> int:
    """Return what a call returned; OSError if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, argument: int = 0) -> None:
    """prctl(2)."""
    check(LIBC.prctl(option, argument, 0, 0, 0), "prctl")


def unshare(flags: int) -> None:
    """unshare(2)."""
    check(LIBC.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    encoded = (os.fsencode(text) for text in (source, target, kind))
    check(LIBC.mount(*encoded, flags, os.fsencode(data)), f"cannot mount at {target}")


def seccomp(operation: int, flags: int, argument: "ctypes.Structure") -> int:
    """seccomp(2)."""
    number = _SECCOMP[platform.machine()]
    result: int = LIBC.syscall(number, operation, flags, ctypes.byref(argument))
    return result
