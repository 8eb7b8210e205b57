"""A private machine with its mount and its socket: what the fixture `dksm` is."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from dksmfs.control import messages as m
from dksmfs.control.blocking import Blocking
from dksmfs.control.client import Machine, Process, Region
from dksmfs.errors import DksmfsError
from dksmfs.injection import KEPT
from dksmfs.instances import DKSM_BELOW_SYS
from dksmfs.scenario.names import Names
from dksmfs.scenario.state import load_state, save_state
from dksmfs.scenario.targets import SocketTarget
from dksmfs.testing.warm import POOL, Daemon

Thp = Literal["always", "madvise", "never"]


class Dksm(Machine[Blocking]):
    """A machine of one's own: all that a client has, and where its files are."""

    def __init__(self, daemon: Daemon, *, thp: Thp, log: bool | int, record: bool) -> None:
        super().__init__(daemon.door)
        self._instance = daemon.instance
        self._first_thp = thp
        self._record = record
        self._unsavable = ""
        self.log(KEPT if log is True else int(log))
        self._begin_recording()

    def __repr__(self) -> str:
        return f"<dksm at {self.path}>"

    @property
    def sys(self) -> Path:
        """The fake /sys."""
        return Path(self._instance.mountpoint)

    @property
    def path(self) -> Path:
        """The directory of the six files, inside of `sys`."""
        return self.sys / DKSM_BELOW_SYS

    @property
    def socket(self) -> Path:
        """The control socket, for other clients of the same machine."""
        return Path(self._instance.socket)

    # A plain method: this machine is never one to be awaited.
    def reset(self, thp: Thp | None = None) -> int:
        """Let the machine be as new, with the huge page mode that it had at first unless given
        one. Returns how many mounted files somebody still has open."""
        open_files = super().reset(thp or self._first_thp)
        self._begin_recording()
        return open_files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the state of the machine: what has happened to it since it was new, as a scenario.

        The file (compressed if its name ends in .gz) is for `load`, and for `dksmfs replay`.
        DksmfsError if a scenario cannot say it all, as where pages follow those of real programs.
        """
        if self._unsavable:
            raise DksmfsError(f"this state cannot be saved: {self._unsavable}")
        stopped = self._door.run(self._door.ask(m.StopRecording(go_on=True)))
        parts, more = [], True
        while more:
            part = self._door.run(self._door.ask(m.TakeRecording()))
            parts.append(part.data)
            more = part.more
        if stopped.note:
            self._unsavable = stopped.note
            raise DksmfsError(f"this state cannot be saved: {stopped.note}")
        save_state(path, b"".join(parts))

    def load(self, path: str | os.PathLike[str]) -> dict[str, Process[Blocking]]:
        """Be as new, and then in the state that a scenario file leads to: of `save`, of
        `dksmfs record`, or written by hand. Returns the processes that run then, by name."""
        self.reset("never")
        names = load_state(os.fspath(path), SocketTarget(self._ask))
        return self._processes_of(names)

    def _processes_of(self, names: Names) -> dict[str, Process[Blocking]]:
        processes = {}
        for name, proc in names:
            process = processes[name] = Process(self._door, proc.pid, name)
            process.regions = [
                Region(process, region.address(), region.length) for region in proc.regions.values()
            ]
        return processes

    def _ask(self, request: m.Request[Any], descriptors: Sequence[int]) -> Any:
        return self._door.run(self._door.ask(request, descriptors))

    def _begin_recording(self) -> None:
        self._unsavable = "" if self._record else "the machine was made with record=False"
        if self._record:
            self._door.run(self._door.ask(m.StartRecording("state")))


@contextmanager
def machine(
    *,
    thp: Thp = "never",
    log: bool | int = True,
    record: bool = True,
    load: str | os.PathLike[str] | None = None,
) -> Iterator[Dksm]:
    """Have a machine of one's own, mounted, while a block runs.

    `thp` is the huge page mode. Real kernels start with "always", in which most of a large region
    does not merge; tests of programs seldom are about that. `log`: keep the accesses to the files,
    so many if it is a number. `record`: keep what happens to the machine, for `save`. `load`: the
    state to begin with. UnavailableError where nothing can be mounted.
    """
    daemon = POOL.take(thp)
    try:
        dksm = Dksm(daemon, thp=thp, log=log, record=record)
        if load is not None:
            dksm.load(load)
        yield dksm
    finally:
        POOL.give_back(daemon)
