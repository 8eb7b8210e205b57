"""Ending an instance, whatever state its daemon is in."""

import os
import select
import signal

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
        return
    try:
        # Only a daemon that still holds its lock after that is certainly the process we opened.
        if not _still_alive(record):
            return
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


def _still_alive(record: Record) -> bool:
    return any(found.alive for found in records() if found.path == record.path)


def _ended(daemon: int, timeout_s: float) -> bool:
    ready, _, _ = select.select([daemon], [], [], timeout_s)
    return bool(ready)
