"""What a killed daemon leaves behind, and how it is cleared.

After SIGKILL the kernel keeps the mount, and everything below it answers ENOTCONN, even to stat(2).
libfuse's ``auto_unmount`` would watch for that with a process of its own for every mount; but it
unmounts by path some time after the death, and so may hit the next mount at the same place.
"""

import errno
import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path

from dksmfs.errors import DksmfsError
from dksmfs.instances import Record, records, take_lock
from dksmfs.mount.listening import remove_dead_socket
from dksmfs.mount.questions import Answer, ask
from dksmfs.mount.system import fusermount, unmount

FILE_SYSTEM_NAME = "dksmfs"

STAT_TIMEOUT_S = 2.0
"""A daemon that takes longer than this to answer a stat(2) is alive but stopped or stuck."""


def is_our_mount(mountpoint: str) -> bool:
    """Tell whether the topmost file system at ``mountpoint`` is one of ours, dead or alive."""
    kind = None
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        if _unescaped(before.split(b" ")[4]) == os.fsencode(mountpoint):
            kind = after.split(b" ")[0]
    return kind == f"fuse.{FILE_SYSTEM_NAME}".encode()


def _unescaped(path: bytes) -> bytes:
    """Undo the octal escapes of proc_pid_mountinfo(5)."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), path)


def detach(mountpoint: str) -> None:
    """Take our mounts away from ``mountpoint``, even while they are in use or dead."""
    while is_our_mount(mountpoint):
        try:
            unmount(mountpoint)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise DksmfsError(f"cannot unmount {mountpoint}: {error.strerror}") from error
            _detach_as_user(mountpoint)


def _detach_as_user(mountpoint: str) -> None:
    command = fusermount()
    if command is None:
        raise DksmfsError(
            f"cannot unmount {mountpoint}: ordinary users need fusermount3 for that; "
            "install it (Debian: apt install fuse3) or run as root"
        )
    done = subprocess.run([command, "-u", "-z", "--", mountpoint], capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["fusermount3 failed"]
        raise DksmfsError(f"cannot unmount {mountpoint}: {said[-1]}")


def remove_directories(directories: tuple[str, ...]) -> None:
    """Remove the directories that an instance made, innermost first, as far as they are empty."""
    for directory in directories:
        with suppress(OSError):
            Path(directory).rmdir()


def clear(record: Record) -> bool:
    """Clear what a dead instance left; return False if a living one has taken its place."""
    lock = take_lock(record.path)
    if lock is None:
        return False
    try:
        left = record.instance
        detach(left.mountpoint)
        remove_directories(left.created)
        remove_dead_socket(left.socket)
        for path in (left.log, record.path):
            if path is not None:
                Path(path).unlink(missing_ok=True)
    finally:
        os.close(lock)
    return True


def clear_leftovers(mountpoint: str | None = None) -> list[str]:
    """Clear what killed daemons of this user left, and any dead mount of ours at ``mountpoint``.

    Returns the mount points that were cleared.
    """
    dead = [record for record in records() if not record.alive and clear(record)]
    cleared = [record.instance.mountpoint for record in dead]
    if mountpoint is not None and _is_dead_mount(mountpoint):
        detach(mountpoint)
        cleared.append(mountpoint)
    return cleared


def _is_dead_mount(mountpoint: str) -> bool:
    """Tell whether there is a mount of ours that nobody serves, with or without instance file."""
    if not is_our_mount(mountpoint):
        return False
    return ask([lambda: _stat_errno(mountpoint)], STAT_TIMEOUT_S) == [Answer(errno.ENOTCONN)]


def _stat_errno(path: str) -> int:
    try:
        Path(path).stat()
    except OSError as error:
        return error.errno or 0
    return 0
