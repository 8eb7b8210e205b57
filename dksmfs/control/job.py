"""What a request is carried out with: the machine, who asks, and the memory that came along."""

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from msgspec import Struct

from dksmfs.control.following import Followed
from dksmfs.control.limits import MAX_POPULATED
from dksmfs.control.live import LiveMemory
from dksmfs.control.messages import Carried
from dksmfs.control.messages import Content as WantedContent
from dksmfs.control.wire import INVALID_PARAMS, ProtocolError
from dksmfs.kernel.content.content import Content
from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.sysfs.attribute import Directory
from dksmfs.kernel.units import PAGE_SIZE

if TYPE_CHECKING:
    from dksmfs.control.files import Files
    from dksmfs.control.recorder import Recorder

MAX_PROCESSES: Final = 1 << 15
"""Live processes of one machine, the default of /proc/sys/kernel/pid_max."""


class Caller:
    """One connection, as the owner of the processes that it starts."""

    def __init__(self) -> None:
        self.gone = False
        """Whether the client has closed it, or was killed."""


class KilledError(Exception):
    """A call stopped where it was, because its process was killed."""


class Memory(NamedTuple):
    """Content that came as a descriptor; unstable if somebody may go on writing it."""

    buffer: memoryview
    stable: bool


class Owners:
    """Whose each process is. Detached ones are nobody's, so anybody may change them."""

    def __init__(self) -> None:
        self._callers: dict[int, Caller | None] = {}

    def clear(self) -> None:
        """All processes are gone."""
        self._callers.clear()

    def add(self, pid: int, caller: Caller | None) -> None:
        """Note whose a new process is."""
        self._callers[pid] = caller

    def forget(self, pid: int) -> None:
        """The process is gone."""
        self._callers.pop(pid, None)

    def of(self, pid: int) -> Caller | None:
        """The owner of a process; None if it has none."""
        return self._callers.get(pid)

    def pids(self, caller: Caller) -> list[int]:
        """The processes of a connection, oldest first."""
        return [pid for pid, owner in self._callers.items() if owner is caller]

    def check(self, pid: int, caller: Caller | None) -> None:
        """Raise EPERM if the process belongs to another connection."""
        owner = self.of(pid)
        if owner is not None and owner is not caller:
            raise kernel_error(errno.EPERM, f"process {pid} belongs to another connection")

    def check_limit(self) -> None:
        """Raise EAGAIN if no further process fits, as fork(2) does."""
        if len(self._callers) >= MAX_PROCESSES:
            raise kernel_error(errno.EAGAIN, f"the machine has {MAX_PROCESSES} processes already")

    def relation(self, pid: int, caller: Caller | None) -> Literal["you", "other", "detached"]:
        """The owner as the caller sees it."""
        owner = self.of(pid)
        if owner is None:
            return "detached"
        return "you" if owner is caller else "other"


class Job(Struct, frozen=True):
    """A request on its way."""

    machine: Machine
    attributes: Directory
    owners: Owners
    caller: Caller | None
    memory: Sequence[Memory | LiveMemory]
    followed: Followed
    recorder: "Recorder | None" = None
    files: "Files | None" = None

    def until_killed(self, work: Work[None]) -> Work[None]:
        """Work that stops at a pause once the caller is gone (`KilledError`), as a system call
        does that looks for fatal signals."""
        for _ in work:
            if self.caller is not None and self.caller.gone:
                raise KilledError
            yield

    def content(self, wanted: WantedContent, size: int) -> Content:
        """The content for `size` bytes of pages."""
        check_populated(size)
        if isinstance(wanted, str):
            return parse_content(wanted)
        stored = self._stored(wanted)
        if stored.page_count * PAGE_SIZE < size:
            raise ProtocolError(
                INVALID_PARAMS,
                f"the content has {stored.page_count} pages, {-(-size // PAGE_SIZE)} are needed",
            )
        return stored

    def _stored(self, wanted: Carried) -> StoredContent:
        if wanted.data is not None:
            return StoredContent(wanted.data)
        if wanted.memfd is None or wanted.memfd >= len(self.memory):
            raise ProtocolError(INVALID_PARAMS, f"no descriptor {wanted.memfd} with the request")
        memory = self.memory[wanted.memfd]
        assert isinstance(memory, Memory)
        buffer, stable = memory
        return StoredContent(buffer, stable=stable)


def check_populated(size: int) -> None:
    """Raise ENOMEM for more bytes than one request may bring into being."""
    if size > MAX_POPULATED:
        raise kernel_error(errno.ENOMEM, f"{size} bytes at once; {MAX_POPULATED} are the most")
