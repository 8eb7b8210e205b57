"""Ending an instance, whatever state its daemon is in."""

import os
import select
import signal
from contextlib import suppress
from pathlib import Path

from dksmfs.errors import DksmfsError, NoInstanceError
from dksmfs.instances import Record, records
from dksmfs.mount.leftovers import clear, detach, is_our_mount

END_TIMEOUT_S = 5.0
"""A daemon ends within milliseconds; one that takes this long is stuck and is killed."""


def stop(record: Record) -> None:
    """End the instance of ``record`` and return when it is gone."""
    _end_daemon(record)
    # A daemon that ends by itself removes its file; what a killed one leaves is cleared for it.
    if record.path.exists():
        clear(record)


def stop_mount(mountpoint: str) -> None:
    """End the instance mounted at ``mountpoint``, of whatever user."""
    for record in records():
        if record.instance.mountpoint == mountpoint:
            return stop(record)
    if not is_our_mount(mountpoint):
        raise NoInstanceError(f"nothing of dksmfs is mounted at {mountpoint}; see: dksmfs status")
    return detach(mountpoint)


def _end_daemon(record: Record) -> None:
    try:
        daemon = os.pidfd_open(record.instance.pid)
    except ProcessLookupError:
        return _check_gone(record)
    try:
        if not _has_open(record.instance.pid, record.path):
            return _check_gone(record)
        signal.pidfd_send_signal(daemon, signal.SIGTERM)
        signal.pidfd_send_signal(daemon, signal.SIGCONT)  # a stopped process would not hear it
        if not _ended(daemon, END_TIMEOUT_S):
            signal.pidfd_send_signal(daemon, signal.SIGKILL)
            if not _ended(daemon, END_TIMEOUT_S):
                raise DksmfsError(f"the daemon (pid {record.instance.pid}) cannot be killed")
    except ProcessLookupError:
        pass
    finally:
        os.close(daemon)


def _has_open(pid: int, path: Path) -> bool:
    """Tell whether the process has the file open, as the daemon has that locked its own."""
    with suppress(OSError):
        return any(path.samefile(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _check_gone(record: Record) -> None:
    """Refuse to go on if the lock is held all the same: by a process that we cannot see."""
    if any(found.alive for found in records() if found.path == record.path):
        raise DksmfsError(
            f"the daemon of {record.instance.mountpoint} is not visible from here; "
            "end it in the container (pid namespace) that it was started in"
        )


def _ended(daemon: int, timeout_s: float) -> bool:
    ready, _, _ = select.select([daemon], [], [], timeout_s)
    return bool(ready)
