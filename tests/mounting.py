"""Whether FUSE can be mounted here, found out without any code of ours."""

import array
import ctypes
import os
import shutil
import socket
import subprocess
import tempfile
from functools import cache

import pytest

LIBC = ctypes.CDLL(None, use_errno=True)
FUSERMOUNT = shutil.which("fusermount3", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")


def need_mounts() -> None:
    """Skip a test where nothing can be mounted."""
    if reason := why_not():
        pytest.skip(f"needs FUSE mounts: {reason}")


def need_private_mounts() -> None:
    """Skip a test where unshare(1) makes no private mount namespace: in a chroot whose root is no
    mount point, for one."""
    if reason := why_no_private_mounts():
        pytest.skip(f"needs private mounts: {reason}")


@cache
def why_no_private_mounts() -> str | None:
    """What unshare(1) says, if it fails."""
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else None


@cache
def why_not() -> str | None:
    """Mount an unanswered file system and unmount it; returns what went wrong, if anything did."""
    with tempfile.TemporaryDirectory(prefix="dksmfs-probe-") as place:
        try:
            device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
        try:
            return None if _mount_directly(device, place) else _mount_by_helper(place)
        finally:
            os.close(device)


def _mount_directly(device: int, place: str) -> bool:
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    if LIBC.mount(b"probe", place.encode(), b"fuse", ctypes.c_ulong(0), options.encode()) != 0:
        return False
    LIBC.umount2(place.encode(), 2)  # MNT_DETACH
    return True


def _mount_by_helper(place: str) -> str | None:
    """As an ordinary user does: fusermount3(1) sends the descriptor back."""
    if FUSERMOUNT is None:
        return "mount(2) is not permitted, and there is no fusermount3"
    ours, its = socket.socketpair()
    with ours, its:
        done = subprocess.run(
            [FUSERMOUNT, "--", place],
            env={**os.environ, "_FUSE_COMMFD": str(its.fileno())},
            pass_fds=[its.fileno()],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            return (done.stderr.strip().splitlines() or ["fusermount3 failed"])[-1]
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
        for _, _, data in ancillary:
            os.close(array.array("i", data)[0])
    subprocess.run([FUSERMOUNT, "-u", "-z", "--", place], check=True)
    return None
