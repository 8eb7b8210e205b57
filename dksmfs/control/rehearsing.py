"""The part of the client for those who test programs: faults, accesses, a fresh start, waiting.

Faults are in the mounted files and nowhere else: `stats` and `show` go on telling the truth.
"""

import errno as errno_names
import time
from collections.abc import Callable
from typing import Final, cast

from dksmfs.control import limits
from dksmfs.control import messages as m
from dksmfs.control.doors import Behind, D, attribute, operation
from dksmfs.control.rehearsal import MAX_LISTED, Topic
from dksmfs.injection import DIRECTORY, KEPT, Access, Fault, Kind, Operation

GARBAGE: Final = "\xff\xfe\x00-?\n"
"""No number, no UTF-8, and a NUL in the middle."""


class Rehearsing(Behind[D]):
    """What a machine has for tests. Files are named as in the dksm directory."""

    @operation
    async def inject(self, fault: Fault) -> None:
        """Let something be wrong with a file; the other methods are short for it."""
        await self._fault(fault)

    async def _fault(self, fault: Fault) -> None:
        await self._door.ask(m.AddFault(fault))

    @operation
    async def fail(
        self,
        file: str,
        errno: int | str = "EIO",
        *,
        operation: Operation = "read",
        times: int | None = None,
        every: int = 1,
    ) -> None:
        """Let open, read or write of a file fail: at every `every`-th use, `times` times."""
        name = errno if isinstance(errno, str) else errno_names.errorcode.get(errno, str(errno))
        await self._fault(
            Fault(
                kind="error", file=file, errno=name, operation=operation, times=times, every=every
            )
        )

    @operation
    async def delay(
        self,
        file: str,
        seconds: float,
        *,
        operation: Operation = "read",
        times: int | None = None,
        every: int = 1,
    ) -> None:
        """Let open, read or write of a file take so much longer."""
        await self._fault(
            Fault(
                kind="delay",
                file=file,
                delay_s=seconds,
                operation=operation,
                times=times,
                every=every,
            )
        )

    @operation
    async def short_read(
        self, file: str, size: int = 1, *, times: int | None = None, every: int = 1
    ) -> None:
        """Let each read(2) of a file get at most `size` bytes; the next one gets more of them."""
        await self._fault(Fault(kind="short", file=file, size=size, times=times, every=every))

    @operation
    async def empty(self, file: str, *, times: int | None = None, every: int = 1) -> None:
        """Let a file read as nothing."""
        await self._fault(Fault(kind="text", file=file, text="", times=times, every=every))

    @operation
    async def garbage(
        self, file: str, text: str = GARBAGE, *, times: int | None = None, every: int = 1
    ) -> None:
        """Let a file read as `text`, whose characters are bytes."""
        await self._fault(Fault(kind="text", file=file, text=text, times=times, every=every))

    @operation
    async def set(self, file: str, value: int | str) -> None:
        """Let a file show this value, and a newline, until it is cleared."""
        await self._fault(Fault(kind="text", file=file, text=f"{value}\n"))

    @operation
    async def freeze(self, file: str) -> None:
        """Let a file go on showing what it shows now."""
        await self._fault(Fault(kind="frozen", file=file))

    @operation
    async def vanish(self, file: str = DIRECTORY) -> None:
        """Let a file be gone; without a name the whole directory, as on a kernel without DKSM."""
        await self._fault(Fault(kind="gone", file=file))

    @operation
    async def reappear(self, file: str = DIRECTORY) -> None:
        """Let a file that was gone be there again."""
        await self._door.ask(m.ClearFaults(file, "gone"))

    @operation
    async def reset_in_mid_read(self, file: str, *, times: int | None = 1, every: int = 1) -> None:
        """Stop DKSM and start it again, so that all counters are 0, when a program has read the
        first part of this file: what it reads next is of another life."""
        await self._fault(Fault(kind="restart", file=file, times=times, every=every))

    @operation
    async def clear_faults(self, file: str | None = None, kind: Kind | None = None) -> None:
        """Drop the faults of a file (without it: of all files), and of a kind (of any)."""
        await self._door.ask(m.ClearFaults(file, kind))

    @attribute
    async def faults(self) -> list[Fault]:
        """The faults that can still happen, in the order in which they came."""
        return (await self._door.ask(m.ListFaults())).faults

    @operation
    async def log(self, kept: int = KEPT) -> None:
        """Log the accesses to the mounted files, and keep the last `kept`; 0 switches it off."""
        await self._door.ask(m.SetLog(kept))

    @attribute
    async def log_size(self) -> int:
        """How many accesses the log keeps; 0 if it is off."""
        return (await self._door.ask(m.ListAccesses(limit=0))).kept

    @attribute
    async def accesses(self) -> list[Access]:
        """The system calls that programs made on the mounted files, as far as they were kept."""
        found: list[Access] = []
        while True:
            after = found[-1].number if found else 0
            page = (await self._door.ask(m.ListAccesses(after))).accesses
            found += page
            if len(page) < MAX_LISTED:
                return found

    @operation
    async def reset(self, thp: limits.ThpMode | None = None) -> int:
        """Let the machine be as new: no processes, whosever they were, DKSM stopped, all counts
        0, no faults, an empty log. Returns how many mounted files somebody still has open."""
        return (await self._door.ask(m.Reset(thp))).open_files

    @operation
    async def wait_for(
        self, predicate: Callable[[m.Stats], bool], timeout: float | None = None
    ) -> m.Stats:
        """Wait until the predicate holds for the six values, and return those; TimeoutError if
        it does not within `timeout` seconds. It is asked whenever they have changed."""
        ends = None if timeout is None else time.monotonic() + timeout
        stats = None
        door = await self._door.another()
        try:
            await door.ask(m.Subscribe(["stats"]))
            while True:
                left_s = None if ends is None else ends - time.monotonic()
                event = await door.event(left_s)
                if event is None:
                    raise TimeoutError(f"not within {timeout} seconds; the last values: {stats}")
                assert isinstance(event, m.Stats)
                stats = event
                if predicate(stats):
                    return stats
        finally:
            await door.hang_up()

    @operation
    async def events(self, *topics: Topic, after: int = 0) -> "Events[D]":
        """Subscribe, over a connection of its own, to "stats" (the six values, now and whenever
        they have changed) or "accesses" (those behind number `after`, as they come)."""
        door = await self._door.another()
        await door.ask(m.Subscribe(list(topics), after))
        return Events(cast(D, door))


class Events(Behind[D]):
    """What has been subscribed to."""

    @operation
    async def next(self, timeout: float | None = None) -> m.Stats | Access | None:
        """Wait for the next event; None if there is none within `timeout` seconds."""
        return await self._door.event(timeout)

    @operation
    async def close(self) -> None:
        """Want no more."""
        await self._door.hang_up()
