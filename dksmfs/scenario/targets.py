"""The machines that scenarios run on.

In memory, by the same requests that come over the socket; or a mounted one, where the files of
the dksm directory are real files.
"""

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from dksmfs.control import messages as m
from dksmfs.control.content import carried_if_any
from dksmfs.control.dispatch import Dispatcher
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.sysfs.tables import dksm_tree

R = TypeVar("R")


class Target(ABC):
    """A machine to run scenarios on. Its files are read and written by requests, too."""

    @abstractmethod
    def ask(self, request: m.Request[R]) -> R:
        """Carry out a request; OSError as the kernel answers."""

    def read(self, file: str) -> str:
        """The content of a file in the dksm directory."""
        return self.ask(m.Show(file)).data

    def write(self, file: str, data: bytes) -> int:
        """One write(2) to a file in the dksm directory; `OpenError` if it cannot be opened."""
        try:
            return self.ask(m.Store(file, data.decode("latin-1"))).ret
        except OSError as error:
            raise open_error(error) from None


class OpenError(OSError):
    """The file could not be opened."""


class MemoryTarget(Target):
    """A machine in this process: a fresh one, unless one is given."""

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or Machine(thp="never")
        self._dispatcher = Dispatcher(self.machine, dksm_tree(self.machine))

    def ask(self, request: m.Request[R]) -> R:
        """Hand the request to the machine, as the server does."""
        return self._dispatcher.handle(request)


def open_error(error: OSError) -> OSError:
    """What a store failed with, as an `OpenError` where open(2) would have failed already."""
    if error.errno in (errno.EACCES, errno.ENOENT, errno.EISDIR):
        return OpenError(*error.args)
    return error


Ask = Callable[[m.Request[Any], Sequence[int]], Any]
"""Sends a request, with descriptors, and returns the reply."""


class SocketTarget(Target):
    """A daemon that is only reached over its socket: nobody is seen to use its mounted files."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def ask(self, request: m.Request[R]) -> R:
        """Send the request; large contents go as a memfd."""
        content = getattr(request, "content", None)
        data = content.data if isinstance(content, m.Carried) else None
        with carried_if_any(data, None, None) as (carrier, descriptors):
            sent: Any = request if carrier is None else replace(request, content=carrier)
            reply: R = self._ask(sent, descriptors)
        return reply


class MountedTarget(SocketTarget):
    """A daemon: requests go over its socket, files are read and written where it is mounted.

    One daemon serves for many scenarios, one after the other. `number` is different for each:
    files in memory stay, so those of another scenario must not be found.
    """

    def __init__(
        self,
        ask: Ask,
        directory: Path,
        number: int,
    ) -> None:
        super().__init__(ask)
        self._directory = directory
        self._number = number
        self.write("run", b"0")
        self.ask(m.SetThp("never"))

    def ask(self, request: m.Request[R]) -> R:
        """Send the request, with a name of its own for a file in memory."""
        sent: Any = request
        if isinstance(request, m.Mmap | m.Mkfile) and request.file is not None:
            sent = replace(sent, file=f"{self._number}.{request.file}")
        reply: R = super().ask(sent)
        return reply

    def read(self, file: str) -> str:
        """Read the file."""
        return (self._directory / file).read_text()

    def write(self, file: str, data: bytes) -> int:
        """Write to the file."""
        try:
            opened = (self._directory / file).open("wb", buffering=0)
        except OSError as error:
            raise OpenError(*error.args) from None
        with opened:
            return opened.write(data)
