"""Warm daemons: started once, and handed out again after a reset.

A daemon takes half a second to start, and a millisecond to be as new. It runs in a process of its
own, which ends with this one whatever happens to it.
"""

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

import dksmfs
from dksmfs.control.blocking import Blocking
from dksmfs.control.messages import Reset
from dksmfs.errors import DksmfsError
from dksmfs.instances import Instance, instance_of

END_TIMEOUT_S: Final = 10.0
"""A daemon ends within milliseconds; one that takes this long is stuck and is killed."""

_START: Final = (
    "import sys; sys.path.append(sys.argv[1]); from dksmfs.mount.owned import main; main()"
)


class UnavailableError(DksmfsError):
    """Nothing can be mounted here; the text says why, and what to do about it."""


class Daemon:
    """A daemon of this process, and our connection to it."""

    def __init__(self, process: "subprocess.Popen[bytes]", instance: Instance) -> None:
        self.owner = os.getpid()
        self.instance = instance
        self._process = process
        self.door = Blocking.open(instance.socket)

    @classmethod
    def start(cls, thp: str) -> "Daemon":
        """Start one, and return when its files can be read."""
        from dksmfs.mount.preparation import check_fuse_device

        try:
            check_fuse_device()
        except DksmfsError as error:
            raise UnavailableError(str(error)) from None
        home = str(Path(dksmfs.__file__).parents[1])
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, home, str(os.getpid()), thp],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            return cls(process, _reported(process))
        except BaseException:
            _end(process)
            raise

    def retire(self) -> None:
        """Let go of everything that the last user had; what is left of its objects is of no use."""
        with suppress(OSError):
            self.door.run(self.door.ask(Reset()))
        self.door.close()

    def reset(self, thp: str) -> bool:
        """Be as new; False if that cannot be: the daemon has ended, somebody has unmounted it, or
        a file is still open by a process that a test has left behind."""
        try:
            if not os.path.ismount(self.instance.mountpoint):
                return False
            # An answer of the mount itself: whatever was closed before has been closed by now.
            Path(self.instance.mountpoint).stat()
            self.door = Blocking.open(self.instance.socket)
            return self.door.run(self.door.ask(Reset(thp))).open_files == 0  # type: ignore[arg-type]
        except OSError:
            return False

    def stop(self) -> None:
        """End it, and clear what it may have left."""
        if os.getpid() != self.owner:
            return  # a child of the one that started it
        self.door.close()
        _end(self._process)
        directory = Path(self.instance.mountpoint).parent
        if directory.exists():
            from dksmfs.mount.owned import clear_directory

            clear_directory(directory)


def _reported(process: "subprocess.Popen[bytes]") -> Instance:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the daemon ended before its files could be read")
    report = json.loads(line)
    if "error" in report:
        raise UnavailableError(report["error"])
    return instance_of(report)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


class Pool:
    """The daemons that nobody uses at the moment."""

    def __init__(self, start: Callable[[str], Daemon] = Daemon.start) -> None:
        self._start = start
        self._idle: list[Daemon] = []
        self._unavailable: UnavailableError | None = None
        self._lock = Lock()
        self._owner = os.getpid()

    def take(self, thp: str) -> Daemon:
        """Return a daemon whose machine is as new."""
        while (daemon := self._pop()) is not None:
            if daemon.reset(thp):
                return daemon
            daemon.stop()
        if self._unavailable is not None:
            raise UnavailableError(str(self._unavailable))  # it would not go better now
        try:
            return self._start(thp)
        except UnavailableError as error:
            self._unavailable = error
            raise

    def give_back(self, daemon: Daemon) -> None:
        """Keep a daemon for the next one who needs one."""
        daemon.retire()
        with self._lock:
            self._idle.append(daemon)

    def close(self) -> None:
        """End all daemons that are idle."""
        while (daemon := self._pop()) is not None:
            with suppress(OSError):
                daemon.stop()

    def _pop(self) -> Daemon | None:
        with self._lock:
            if self._owner != os.getpid():  # those of the parent, in a forked child
                self._owner, self._idle = os.getpid(), []
            return self._idle.pop() if self._idle else None


POOL: Final = Pool()
"""Those of this process: what makes it quick is that they outlive the tests."""

atexit.register(POOL.close)
