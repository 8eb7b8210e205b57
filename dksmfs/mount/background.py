"""Starting a daemon that outlives the command: it reports once, when its files can be read."""

import ctypes
import json
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from dksmfs.errors import DksmfsError
from dksmfs.instances import Instance, instance_of, instance_path

PR_SET_PDEATHSIG = 1
REPORT_DESCRIPTOR = 3
LAST_DESCRIPTOR = 1 << 20
"""More than any process has open: the default hard limit of systemd is 2^19."""


def start_in_background(instance: Instance, thp: str, *, outlives: bool = True) -> Instance:
    """Start the daemon of ``instance`` and return when its files can be read.

    Unless it ``outlives`` this process it ends with it, even if that is killed.
    """
    reader, writer = os.pipe()
    parent = os.getpid()
    child = os.fork()
    log = _log_path(instance, child or os.getpid())
    if child == 0:
        if not outlives:
            _end_with(parent)
        _become_daemon(replace(instance, log=str(log)), thp, writer)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:
            report = pipe.readline()
        if not report:
            raise DksmfsError(f"the daemon ended before its files could be read; see {log}")
        return _started(json.loads(report))
    except (KeyboardInterrupt, OSError):
        os.kill(child, signal.SIGTERM)  # its own session does not hear Ctrl-C
        os.waitpid(child, 0)
        _remove_empty(log)
        raise


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _log_path(instance: Instance, daemon: int) -> Path:
    """Return a log file of its own for each daemon: two may try to start at the same place."""
    record = instance_path(instance.mountpoint)
    return record.with_name(f"{record.stem}-{daemon}.log")


def _remove_empty(log: Path) -> None:
    with suppress(FileNotFoundError):
        if log.stat().st_size == 0:
            log.unlink()


def _started(report: dict[str, Any]) -> Instance:
    if "error" in report:
        raise DksmfsError(report["error"])
    instance = instance_of(report)
    next(instance.dksm_directory.iterdir(), None)  # an answer from the mount itself
    return instance


def _become_daemon(instance: Instance, thp: str, writer: int) -> NoReturn:
    """Detach from the caller (its session, directory and descriptors), serve, and exit."""
    status = 1
    try:
        log = Path(instance.log or os.devnull)
        _detach(log, writer)
        status = _serve(instance, thp)
        _remove_empty(log)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _detach(log: Path, writer: int) -> None:
    os.setsid()
    os.chdir("/")
    os.dup2(writer, REPORT_DESCRIPTOR, inheritable=False)
    os.closerange(REPORT_DESCRIPTOR + 1, LAST_DESCRIPTOR)
    nothing = os.open(os.devnull, os.O_RDWR)
    kept = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    for standard, opened in ((0, nothing), (1, kept), (2, kept)):
        os.dup2(opened, standard)
    for opened in (nothing, kept):
        os.close(opened)


def _serve(instance: Instance, thp: str) -> int:
    with os.fdopen(REPORT_DESCRIPTOR, "wb", buffering=0) as pipe:

        def report(message: dict[str, Any]) -> None:
            try:
                pipe.write(json.dumps(message).encode() + b"\n")
            except BrokenPipeError:  # the command was killed: nobody knows of this instance
                signal.raise_signal(signal.SIGTERM)
            pipe.close()

        try:
            serve(instance, thp, lambda started: report(asdict(started)))
        except DksmfsError as error:
            if pipe.closed:
                raise
            report({"error": str(error)})
            return 1
        except Exception as error:
            if not pipe.closed:
                report({"error": f"the daemon failed: {error!r}; see {instance.log}"})
            raise
    return 0


def serve(instance: Instance, thp: str, ready: Callable[[Instance], None]) -> None:
    """Serve ``instance`` in this process until it is told to end."""
    # The engine does no linear algebra: without this, numpy starts threads and buffers for it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from dksmfs.mount.daemon import run_daemon
    except ImportError as error:
        raise DksmfsError(
            f"mounting needs pyfuse3, which cannot be imported ({error}); install it (Debian: apt "
            "install fuse3 libfuse3-dev gcc pkg-config python3-dev; then: pip install pyfuse3)"
        ) from error

    run_daemon(instance, thp, ready)
