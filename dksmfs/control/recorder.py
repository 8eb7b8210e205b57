"""What a server asks of a recorder: somebody who sees everything that changes the machine.

The server hands each change through `observe`; how a session becomes a file is not its business.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from dksmfs.control.job import Caller
from dksmfs.control.messages import RecordedPart, RecordingStopped, Request
from dksmfs.kernel.pausing import Work

T = TypeVar("T")


class Recorder(Protocol):
    """Records one session at a time, for the connection that started it."""

    active: bool
    """Whether it records: only then changes are handed to it."""

    def start(self, name: str, caller: Caller | None) -> Work[None]:
        """Begin; OSError EBUSY if somebody else records, or in a state that cannot be recorded."""

    def stop(self, caller: Caller | None, *, go_on: bool = False) -> RecordingStopped:
        """End, or go on, and keep what was recorded until now for `take`."""

    def take(self, caller: Caller | None) -> RecordedPart:
        """Hand out the next part of the file."""

    def hang_up(self, caller: Caller) -> None:
        """The connection is gone: what it recorded is dropped."""

    def observe(
        self, request: Request[Any], memory: Sequence[object], carry_out: Callable[[], T]
    ) -> T:
        """Carry out a request, or return the work that does, and note what came of it."""
