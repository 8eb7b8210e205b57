"""The mounted files as the socket's clients reach them: faults, accesses, a fresh start."""

from collections.abc import Awaitable, Callable

from dksmfs.injection import Access, Fault, Kind
from dksmfs.mount.access_log import AccessLog
from dksmfs.mount.interference import Interference
from dksmfs.mount.operations import SysfsOperations


class MountedFiles:
    """What clients ask of the files. The operations have an interference only while one is needed.

    ``restart`` stops DKSM and starts it again; ``grown`` is called when the log has grown.
    """

    def __init__(
        self,
        operations: SysfsOperations,
        restart: Callable[[], Awaitable[None]],
        grown: Callable[[], None],
    ) -> None:
        self._operations = operations
        self._grown = grown
        self._restart = restart
        self._interference = Interference(operations.root, restart)

    @property
    def open_files(self) -> int:
        """How many files somebody has open."""
        return len(self._operations.files)

    @property
    def kept(self) -> int:
        """How many accesses the log keeps; 0 if it is off."""
        log = self._interference.log
        return 0 if log is None else log.kept

    @kept.setter
    def kept(self, kept: int) -> None:
        if kept == self.kept:
            return
        if kept == 0:
            self._interference.log = None
        elif self._interference.log is None:
            self._interference.log = AccessLog(self._grown, kept)
        else:
            self._interference.log.resize(kept)
        self._set_in_place()

    @property
    def unsettled(self) -> bool:
        """Whether there are looks that may turn out to be a part of something else."""
        log = self._interference.log
        return log is not None and log.unsettled

    def renew(self) -> None:
        """Be as just mounted, but for the log, which stays on if it was, and is empty."""
        kept = self.kept
        self._interference.clear()  # whoever waits goes on
        self._operations.renew()
        self._interference = Interference(self._operations.root, self._restart)
        self.kept = kept
        self._set_in_place()

    def add(self, fault: Fault) -> None:
        """Let something be wrong; OSError ENOENT if there is no such file."""
        self._interference.add(fault)
        self._set_in_place()

    def clear(self, file: str | None, kind: Kind | None) -> None:
        """Drop the faults of a file (None: of all) and of a kind (None: any)."""
        self._interference.clear(file, kind)
        self._set_in_place()

    def faults(self) -> list[Fault]:
        """The faults that can still happen."""
        return self._interference.faults()

    def accesses(
        self, after: int, limit: int, older_than_s: float = 0.0
    ) -> tuple[list[Access], int]:
        """Accesses behind that number, and how many of those were lost."""
        log = self._interference.log
        return ([], 0) if log is None else log.after(after, limit, older_than_s)

    def _set_in_place(self) -> None:
        needed = self._interference.needed
        self._operations.interference = self._interference if needed else None
