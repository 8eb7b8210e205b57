"""The path of the control socket: made, checked and removed here."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dksmfs.errors import DksmfsError

LONGEST_PATH = 107
"""Bytes: unix(7), ``sun_path`` of 108 with its final NUL."""

BACKLOG = 128
"""Clients that may wait before they are accepted: they come in bursts, when test runs start."""


def check_socket_path(path: str) -> None:
    """Refuse a path that no socket can have."""
    length = len(os.fsencode(path))
    if length > LONGEST_PATH:
        raise DksmfsError(
            f"the socket path {path} has {length} bytes, and Linux allows {LONGEST_PATH}; "
            "give a shorter one with --socket"
        )


def remove_dead_socket(path: str) -> bool:
    """Remove the socket at ``path`` if nobody listens there; tell whether the path is free."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return True
        except OSError:
            return False
    return False


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Listen at ``path`` (mode 0600) for the length of a block."""
    check_socket_path(path)
    if not remove_dead_socket(path):
        raise DksmfsError(
            f"cannot listen at {path}: it exists and is in use, or is no socket; "
            "give another path with --socket"
        )
    with socket.socket(socket.AF_UNIX) as listener:
        _bind(listener, path)
        mine = Path(path).stat()
        try:
            yield listener
        finally:
            with suppress(FileNotFoundError):
                if os.path.samestat(Path(path).stat(), mine):
                    Path(path).unlink()


def _bind(listener: socket.socket, path: str) -> None:
    before = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError as error:
        raise DksmfsError(f"cannot listen at {path}: {error.strerror}") from error
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
