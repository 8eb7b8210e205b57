"""A daemon for one process, which ends when that does, however it does: for tests.

It makes a directory of its own below the temporary one, with the mount, the socket and a file that
it holds a lock on. Whoever kills the daemon too leaves these behind; the next one that starts
clears them.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from dksmfs.errors import DksmfsError
from dksmfs.instances import Instance, Record, instance_of
from dksmfs.mount.leftovers import clear

PREFIX = "dksmfs-machine-"

STARTING_S = 60.0
"""A directory without an instance file that is younger than this may belong to one that starts."""

_LONGEST_DIRECTORY = 60
"""Bytes of a temporary directory that leave room for the path of a socket in it (unix(7))."""


def main() -> NoReturn:
    """Serve the process that started this one: the arguments are its pid and the huge page mode.

    The first line on standard output is a JSON object: the instance, or an error.
    """
    owner, thp = int(sys.argv[-2]), sys.argv[-1]
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # while the daemon does not listen for signals
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    watched = os.pidfd_open(os.getppid())
    if os.getppid() != owner:
        os._exit(1)  # it has ended already
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # no linear algebra: no threads for it
    try:
        _serve(watched, thp)
    except SystemExit:  # the owner has lost patience
        os._exit(1)
    os._exit(0)


def _serve(owner: int, thp: str) -> None:
    try:
        clear_killed()
        with _directory() as directory:
            os.environ["XDG_RUNTIME_DIR"] = str(directory)  # where the instance file goes
            instance = Instance(
                pid=os.getpid(),
                mountpoint=str(directory / "sys"),
                socket=str(directory / "socket"),
                root="sys",
                created=(str(directory / "sys"),),
            )
            from dksmfs.mount.daemon import run_daemon

            run_daemon(instance, thp, lambda started: _report(asdict(started)), owner)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending
    except DksmfsError as error:
        _report({"error": str(error)})
    except ImportError as error:
        _report({"error": f"the mount cannot be served: {error}"})


def _report(message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):  # the owner has ended, which is noticed elsewhere
        os.write(1, json.dumps(message).encode() + b"\n")


@contextmanager
def _directory() -> Iterator[Path]:
    """Have a directory that every user may enter, and a log in it for what goes wrong."""
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) > _LONGEST_DIRECTORY:
        place = "/tmp"
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))
    try:
        directory.chmod(0o755)
        with (directory / "log").open("ab") as log:
            os.dup2(log.fileno(), 2)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def clear_killed() -> None:
    """Clear what killed daemons of this user left behind."""
    for place in {tempfile.gettempdir(), "/tmp"}:
        for directory in Path(place).glob(f"{PREFIX}*-*"):
            with suppress(OSError, DksmfsError):
                if directory.lstat().st_uid == os.geteuid():
                    clear_directory(directory, STARTING_S)


def clear_directory(directory: Path, starting_s: float = 0.0) -> None:
    """Clear what one daemon left, unless it lives or, within so many seconds, may yet start."""
    records = list(directory.glob("dksmfs/*.json"))
    for path in records:
        with suppress(ValueError, KeyError, TypeError):
            if not clear(Record(path, instance_of(json.loads(path.read_bytes())), alive=False)):
                return
    if records or time.time() - directory.stat().st_mtime >= starting_s:
        shutil.rmtree(directory)
