"""Carries the advertisements of real programs to a machine: a simulated process for each."""

import errno
import os
import select
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from dksmfs.control.messages import RealMapping
from dksmfs.host.processes import (
    PAGE_SIZE,
    USER_END,
    Mapped,
    RealProcess,
    children,
    identity,
    parse_maps,
    with_huge_page_advice,
)
from dksmfs.host.report import Report, Row
from dksmfs.host.seccomp import MADV_MERGEABLE
from dksmfs.kernel.calls.madvise import advised_range

if TYPE_CHECKING:
    from dksmfs.control.blocking import Blocking
    from dksmfs.control.client import Machine, Process

MAX_MAPPINGS: Final = 12_000
"""Mappings told to the machine, the nearest ones to the range: more would not fit a request."""

PAGES_OF_A_FORK: Final = 50
"""While the kernel looks at so many pages, a further process can come to the same point."""

_MAX_GENERATIONS: Final = 64


class Answer(NamedTuple):
    """What a madvise returns, 0 or an errno; how many pages DKSM looked at for it; and whether
    processes of the same family have not come to that point yet."""

    error: int
    pages: int = 0
    more_to_come: bool = False


@dataclass
class Watched:
    """A real process and the simulated one that follows it."""

    real: RealProcess
    simulated: "Process[Blocking]"
    row: Row
    text: bytes = b""
    mapped: Sequence[Mapped] = ()
    told: Sequence[RealMapping] = ()


class Observer:
    """The processes that have advertised, and their families."""

    def __init__(self, machine: "Machine[Blocking]") -> None:
        self._machine = machine
        self._watched: dict[int, Watched] = {}
        self._orphans: set[int] = set()  # the children that this process had at the last look
        self._report = Report()

    def pidfds(self) -> dict[int, int]:
        """Which descriptor becomes readable when which process has ended."""
        return {watched.real.pidfd: pid for pid, watched in self._watched.items()}

    def reap(self) -> None:
        """Take note of the watched processes that have ended.

        What they forked has become a child of this process, which adopts orphans. Their exit and
        that change are one step of the kernel (exit_notify), so with the children read first, each
        new one has its parent among the ended. Those that were here before are somebody else's:
        the program itself, say, which may be the parent of the ended one.
        """
        found = set(children(os.getpid()))
        orphans, self._orphans = found - self._orphans, found
        poll = select.poll()
        by_descriptor = self.pidfds()
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(0):
            self._ended(by_descriptor[descriptor], orphans)

    def madvise(self, pid: int, address: int, length: int, advice: int) -> Answer:
        """What process `pid` asked for, and what its kernel would answer."""
        began = time.perf_counter()
        try:
            return self._madvise(pid, address, length, advice)
        finally:
            self._report.seconds += time.perf_counter() - began

    def _madvise(self, pid: int, address: int, length: int, advice: int) -> Answer:
        self.reap()  # what is gone is no partner for what is advertised now
        watched = self.watch(pid)
        if watched.row.calls:
            self._adopt_children(watched)
        mapped = self.mappings(watched)
        try:
            first, last = advised_range(address, length, advice)
        except OSError as error:
            return Answer(error.errno or 0)
        start, end = min(first * PAGE_SIZE, USER_END), min(last * PAGE_SIZE, USER_END)
        pages = 0
        if advice == MADV_MERGEABLE and start < end:
            pages = self.advertise(watched, start, end - start)
        has_holes = _covered(mapped, start, end) < end - start
        more = pages >= PAGES_OF_A_FORK and self._has_siblings_to_come(watched)
        return Answer(errno.ENOMEM if has_holes else 0, pages, more)

    def _has_siblings_to_come(self, watched: Watched) -> bool:
        for pid in children(watched.real.parent):
            sibling = self._watched.get(pid)
            if sibling is None:
                found = identity(pid)
                if found is not None and found[1] == watched.real.image:
                    return True
            elif not sibling.row.calls:
                return True
        return False

    def advertise(self, watched: Watched, start: int, length: int) -> int:
        """Let the machine do what DKSM does about a range in bytes; returns the pages it took."""
        mapped = self.mappings(watched)
        if self._machine.thp != "never":
            advice = watched.real.huge_page_advice()
            mapped = with_huge_page_advice(list(mapped), advice)
        told = _nearest([one.mapping for one in mapped], start)
        changed = told != watched.told
        watched.told = told
        row = watched.row
        row.calls += 1
        row.pages += _covered(mapped, start, start + length) // PAGE_SIZE
        done = watched.simulated.advise(start, length, told if changed else None)
        row.scanned += done.scanned
        row.merged += done.merged
        row.failed += done.failed
        row.saved += done.saved
        return done.scanned + done.failed

    def mappings(self, watched: Watched) -> Sequence[Mapped]:
        """What the process maps now."""
        text = watched.real.maps()
        if text != watched.text:
            watched.text, watched.mapped = text, parse_maps(text)
        return watched.mapped

    def watch(self, pid: int) -> Watched:
        """The process, watched from now on; an exec makes it a new one."""
        watched = self._watched.get(pid)
        if watched is not None and not watched.real.is_there:
            self._ended(pid)
            watched = None
        return watched or self._begin(RealProcess(pid), None)

    def _begin(self, real: RealProcess, parent: Watched | None) -> Watched:
        parent = parent or self._family(real)
        try:
            if parent is None:
                simulated = self._machine.process(real.name)
            else:
                simulated = parent.simulated.fork(real.name)
            memory = real.open_memory()
            try:
                simulated.follow(memory, real.pagemap)
            finally:
                os.close(memory)
        except BaseException:
            real.close()
            raise
        watched = Watched(real, simulated, Row(real.pid, real.name))
        if parent is not None:
            watched.told = parent.told
        self._watched[real.pid] = watched
        self._report.rows.append(watched.row)
        return watched

    def _family(self, real: RealProcess) -> Watched | None:
        """The nearest watched ancestor that runs the same program, so that it was forked."""
        pid = real.parent
        for _ in range(_MAX_GENERATIONS):
            watched = self._watched.get(pid)
            if watched is not None:
                same = watched.real.image == real.image and watched.real.is_there
                return watched if same else None
            found = identity(pid)
            if found is None or found[1] != real.image:
                return None
            pid = found[0]
        return None

    def _adopt_children(self, watched: Watched) -> None:
        """Watch the processes that this one forked: they share its frames."""
        for pid in watched.real.children():
            self._adopt(pid, watched)

    def _adopt(self, pid: int, parent: Watched) -> None:
        found = identity(pid)
        if pid in self._watched or found is None or found[1] != parent.real.image:
            return
        with suppress(FileNotFoundError, ProcessLookupError):
            self._begin(RealProcess(pid), parent)

    def _ended(self, pid: int, orphans: Iterable[int] = ()) -> None:
        """A process has ended, or runs another program: its frames are its children's, or free."""
        watched = self._watched[pid]
        try:
            for child in (*watched.real.children(), *orphans):
                self._adopt(child, watched)
            watched.simulated.exit()
        except ProcessLookupError:
            pass  # the machine noticed, too
        finally:
            del self._watched[pid]
            watched.real.close()

    def report(self) -> Report:
        """What happened, until now."""
        with suppress(OSError):
            self._report.stats = msgspec.to_builtins(self._machine.stats)
        rows = [row for row in self._report.rows if row.calls]
        return Report(rows, self._report.seconds, self._report.stats)


def _covered(mapped: Sequence[Mapped], start: int, end: int) -> int:
    """How many bytes of the range are mapped."""
    return sum(max(min(one.mapping.end, end) - max(one.mapping.start, start), 0) for one in mapped)


def _nearest(mappings: list[RealMapping], start: int) -> list[RealMapping]:
    if len(mappings) <= MAX_MAPPINGS:
        return mappings
    at = next((i for i, mapping in enumerate(mappings) if mapping.end > start), len(mappings))
    first = max(min(at - MAX_MAPPINGS // 2, len(mappings) - MAX_MAPPINGS), 0)
    return mappings[first : first + MAX_MAPPINGS]
