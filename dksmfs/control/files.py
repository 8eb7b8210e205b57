"""What a server asks of the mounted files: to misbehave, and to tell who used them.

How that is done is the mount's business; a machine may as well have no mount.
"""

import errno
from typing import TYPE_CHECKING, Protocol

from dksmfs.control import messages as m
from dksmfs.control.rehearsal import Accesses, Faults, MachineReset
from dksmfs.injection import Access, Fault, Kind
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.pausing import Work

if TYPE_CHECKING:
    from dksmfs.control.job import Job


class Files(Protocol):
    """The mounted files."""

    @property
    def open_files(self) -> int:
        """How many of them somebody has open."""

    @property
    def unsettled(self) -> bool:
        """Whether there are looks at files that may turn out to be a part of something else."""

    kept: int
    """How many accesses the log keeps; 0 switches it off."""

    def renew(self) -> None:
        """Be as just mounted: no faults, no accesses, modes and owners as at first."""

    def add(self, fault: Fault) -> None:
        """Let something be wrong; OSError ENOENT if there is no such file."""

    def clear(self, file: str | None, kind: Kind | None) -> None:
        """Drop the faults of a file (None: of all) and of a kind (None: any)."""

    def faults(self) -> list[Fault]:
        """The faults that can still happen."""

    def accesses(
        self, after: int, limit: int, older_than_s: float = 0.0
    ) -> tuple[list[Access], int]:
        """Accesses behind that number, and how many of those were lost. Looks that are older than
        `older_than_s` seconds are taken to be all that the program wanted."""


def reset(job: "Job", request: m.Reset) -> Work[MachineReset]:
    """The machine becomes as new; what it had is freed, with pauses."""
    if job.recorder is not None and job.caller is not None:
        job.recorder.hang_up(job.caller)  # its own recording ends with what it is about
    if job.recorder is not None and job.recorder.active:
        raise kernel_error(errno.EBUSY, "a recording is on its way: end that one first")
    job.followed.clear()
    job.owners.clear()
    yield from job.machine.reset.work(request.thp or job.machine.thp)
    if job.files is None:
        return MachineReset(0)
    job.files.renew()
    return MachineReset(job.files.open_files)


def add_fault(job: "Job", request: m.AddFault) -> m.Done:
    """Something is wrong with a file from now on."""
    _files(job).add(request.fault)
    return m.Done()


def clear_faults(job: "Job", request: m.ClearFaults) -> m.Done:
    """Faults are gone."""
    _files(job).clear(request.file, request.kind)
    return m.Done()


def faults(job: "Job", _: m.ListFaults) -> Faults:
    """The faults that can still happen."""
    return Faults(_files(job).faults())


def set_log(job: "Job", request: m.SetLog) -> m.Done:
    """The log is on, or off."""
    _files(job).kept = request.kept
    return m.Done()


def accesses(job: "Job", request: m.ListAccesses) -> Accesses:
    """A part of the log."""
    files = _files(job)
    found, lost = files.accesses(request.after, request.limit)
    return Accesses(found, lost, files.kept)


def _files(job: "Job") -> Files:
    if job.files is None:
        raise kernel_error(errno.EOPNOTSUPP, "this machine has no mounted files")
    return job.files
