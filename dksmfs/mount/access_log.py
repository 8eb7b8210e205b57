"""The log of accesses: which process did what to which file, and what came of it.

Bounded: the oldest accesses make room for new ones, and whoever reads the log is told how many it
missed.

What the kernel asks of a file system is not what programs asked of the kernel: on the way to a file
it looks up every directory, and whether it asks for the attributes depends on the clock. So a look
at a node (LOOKUP, GETATTR) counts as a ``stat`` only if the same thread does not go on to open it,
or to look at something below it. Of an ``fstat`` on an open file the mount often learns nothing;
it is never logged.
"""

import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dksmfs.injection import KEPT, Access, Seen


class Who(NamedTuple):
    """A process that uses the files."""

    pid: int | None
    command: str
    uid: int | None


_MOST_LOOKS = 1000
"""Threads whose last look is waited upon; a look of one that has ended waits until it is oldest."""

NOBODY = Who(None, "?", None)
"""Who opened a file while there was no log."""


@dataclass(slots=True)
class _Look:
    """A look at a node that may turn out to be a part of something else."""

    inode: int
    file: str
    who: Who
    time: float


class AccessLog:
    """The last ``kept`` accesses; calls ``grown`` when there is a new one."""

    def __init__(self, grown: Callable[[], None] = lambda: None, kept: int = KEPT) -> None:
        self._accesses: deque[Access] = deque(maxlen=kept)
        self._grown = grown
        self._last_number = 0
        self._looks: dict[int, _Look] = {}

    @property
    def kept(self) -> int:
        """How many accesses are kept."""
        return self._accesses.maxlen or 0

    def resize(self, kept: int) -> None:
        """Keep so many from now on."""
        self._accesses = deque(self._accesses, maxlen=kept)

    def clear(self) -> None:
        """Forget everything, and count from 1 again."""
        self._accesses.clear()
        self._looks.clear()
        self._last_number = 0

    @property
    def unsettled(self) -> bool:
        """Whether there are looks that may turn out to be a part of something else."""
        return bool(self._looks)

    def after(self, number: int, limit: int, older_than_s: float = 0.0) -> tuple[list[Access], int]:
        """Return up to ``limit`` accesses behind that number, and how many of those were lost.

        Looks that are older than ``older_than_s`` are settled before.
        """
        last = time.time() - older_than_s
        for thread, look in list(self._looks.items()):
            if look.time <= last:
                self.settle(thread)
        first = self._accesses[0].number if self._accesses else self._last_number + 1
        lost = max(first - number - 1, 0)
        skipped = max(number + 1 - first, 0)
        found = [self._accesses[at] for at in range(skipped, len(self._accesses))[:limit]]
        return found, lost

    def record(
        self,
        who: Who,
        operation: Seen,
        file: str,
        *,
        offset: int = 0,
        size: int = 0,
        result: int = 0,
        errno: str | None = None,
        at: float | None = None,
    ) -> None:
        """Add one access."""
        self._last_number += 1
        now = time.time() if at is None else at
        self._accesses.append(
            Access(self._last_number, now, *who, operation, file, offset, size, result, errno)
        )
        self._grown()

    def look(self, thread: int, uid: int, inode: int, file: str, parent: int | None) -> None:
        """A thread looks at a node; ``parent`` is set if it looked the name up there."""
        before = self._looks.get(thread)
        if before is not None and before.inode == parent:
            who = before.who  # on its way further down
        else:
            self.settle(thread)
            who = who_is(thread, uid)
        self._looks.pop(thread, None)
        self._looks[thread] = _Look(inode, file, who, time.time())
        if len(self._looks) > _MOST_LOOKS:
            self.settle(next(iter(self._looks)))
        self._grown()

    def use(self, thread: int, uid: int, inode: int) -> Who:
        """A thread opens a node: its look at it was a part of that. Returns who it is."""
        before = self._looks.get(thread)
        if before is None or before.inode != inode:
            self.settle(thread)
            return who_is(thread, uid)
        del self._looks[thread]
        return before.who

    def miss(self, thread: int, uid: int, parent: int, file: str) -> None:
        """A thread looked up a name that is not there."""
        before = self._looks.get(thread)
        if before is not None and before.inode == parent:
            del self._looks[thread]
        self.settle(thread)
        self.record(who_is(thread, uid), "stat", file, result=-1, errno="ENOENT")

    def settle(self, thread: int) -> None:
        """What this thread looked at last was all it wanted."""
        look = self._looks.pop(thread, None)
        if look is not None:
            self.record(look.who, "stat", look.file, at=look.time)


def who_is(thread: int, uid: int) -> Who:
    """Return the process that a thread belongs to, from what /proc says of it."""
    try:
        status = Path(f"/proc/{thread}/status").read_text(errors="replace")
        fields = dict(line.split(":\t", 1) for line in status.splitlines()[:5] if ":\t" in line)
        pid = int(fields["Tgid"])
        if pid == thread:
            return Who(pid, fields["Name"], uid)
        return Who(pid, Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n"), uid)
    except (OSError, KeyError, ValueError):
        return Who(thread or None, "?", uid)


def is_killed(who: Who) -> bool:
    """Whether a process has ended, or will as soon as it is let: SIGKILL is pending."""
    if who.pid is None:
        return False
    try:
        threads = list(Path(f"/proc/{who.pid}/task").iterdir())
    except FileNotFoundError:
        return True
    return any(_has_sigkill(thread) for thread in threads)


def _has_sigkill(thread: Path) -> bool:
    try:
        lines = (thread / "status").read_text(errors="replace").splitlines()
    except OSError:
        return False  # one thread less
    pending = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(signals & 1 << signal.SIGKILL - 1 for signals in pending)
