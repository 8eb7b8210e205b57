"""What the system lets this process do about mounts, and its commands for that."""

import ctypes
import os
import re
import shutil
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)

_CAP_SYS_ADMIN = 21  # capabilities(7)
_MNT_DETACH = 2  # umount2(2)
_UMOUNT_NOFOLLOW = 8

_SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


def may_mount() -> bool:
    """Whether mount(2) is allowed; otherwise fusermount3(1) may do it for us."""
    status = Path("/proc/self/status").read_text()
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return effective is not None and bool(int(effective[1], 16) >> _CAP_SYS_ADMIN & 1)


def unmount(mountpoint: str) -> None:
    """Take the topmost mount away, even while it is in use or dead; OSError as umount2(2)."""
    if _LIBC.umount2(os.fsencode(mountpoint), _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), mountpoint)


def fusermount() -> str | None:
    """The path of fusermount3, whatever PATH says: libfuse looks there, too. None without it."""
    return shutil.which("fusermount3", path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")
