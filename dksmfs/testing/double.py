"""A private machine with its mount and its socket: what the fixture `dksm` is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from dksmfs.control.blocking import Blocking
from dksmfs.control.client import Machine
from dksmfs.injection import KEPT
from dksmfs.instances import DKSM_BELOW_SYS, Instance
from dksmfs.testing.warm import POOL

Thp = Literal["always", "madvise", "never"]


class Dksm(Machine[Blocking]):
    """A machine of one's own: all that a client has, and where its files are."""

    def __init__(self, door: Blocking, instance: Instance) -> None:
        super().__init__(door)
        self._instance = instance

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


@contextmanager
def machine(*, thp: Thp = "never", log: bool | int = True) -> Iterator[Dksm]:
    """Have a machine of one's own, mounted, while a block runs.

    `thp` is the huge page mode. Real kernels start with "always", in which most of large regions
    does not merge; tests of programs seldom are about that. `log`: keep the accesses to the files,
    so many if it is a number. UnavailableError where nothing can be mounted.
    """
    daemon = POOL.take(thp)
    try:
        dksm = Dksm(daemon.door, daemon.instance)
        dksm.log(KEPT if log is True else int(log))
        yield dksm
    finally:
        POOL.give_back(daemon)
