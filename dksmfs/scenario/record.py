"""Records what happens to a machine as a scenario, which `replay` then accepts.

The recorder sees each change as it is carried out (`observe`), whoever asked for it, and adds it
as a step with its result; after it the six files, whenever they have changed; and at the end who
shares what, and what the pages hold.

A recording that meets what no step can say, or grows too large, ends there. What it has is kept,
and the scenario's note says why. The session that is recorded never notices.
"""

import errno
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec import Raw

from dksmfs import __version__
from dksmfs.control import messages as m
from dksmfs.control.job import Caller
from dksmfs.control.limits import ThpMode
from dksmfs.control.wire import ProtocolError
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.sysfs.attribute import Attribute
from dksmfs.scenario import recording as r
from dksmfs.scenario import views
from dksmfs.scenario.names import Names
from dksmfs.scenario.player import Result, failed, succeeded
from dksmfs.scenario.steps import Inexpressible, Steps
from dksmfs.scenario.targets import MemoryTarget, open_error

T = TypeVar("T")

MAX_STEPS_SIZE: Final = 64 << 20
"""Bytes of the steps of one recording: the daemon keeps them until it ends."""

MAX_LISTED: Final = 1 << 16
"""Pages in the views at the end of a recording, over all regions."""

MAX_LISTED_OF_REGION: Final = 512

_CHANGED_BEHIND: Final = (
    "a client changed memory that it shares with the machine; the steps have what was in it first"
)

_PART_SIZE: Final = 512 << 10  # bytes handed out at once: they fit in a line of the protocol

_LONGEST_STORE: Final = 8192  # bytes: the machine looks at half of them, and a replay sees that

_encoder: Final = msgspec.json.Encoder()


class Recording:
    """One recording on its way."""

    def __init__(self, name: str, machine: Machine) -> None:
        self.name = name
        self.note = ""
        """Why it ended early, if it did."""
        self._target = MemoryTarget(machine)
        self._names = Names()
        self._steps = Steps(self._names)
        self._encoded: list[Raw] = []
        self._size = 0
        self._stats = dict.fromkeys(views.stats(self._target), 0)
        self._begin(machine)

    @property
    def step_count(self) -> int:
        """The number of steps."""
        return len(self._encoded)

    def add(
        self, request: m.Request[Any], memory: Sequence[object], outcome: object | OSError
    ) -> None:
        """Note a request that was carried out, or refused by the machine."""
        reply = None if isinstance(outcome, OSError) else outcome
        step = self._steps.of(request, memory, reply)
        if step is None:
            return
        if isinstance(outcome, OSError):
            error = open_error(outcome) if isinstance(step, r.Write) else outcome
            self._put(step, failed(error))
        else:
            self._names.note(step, reply)
            self._put(step, succeeded(step, reply))
        self._put_stats()

    def end(self) -> bytes:
        """Return the whole as a line of a scenario file.

        If all is said that has happened, with a last look around.
        """
        if not self.note:
            self._put_views()
        if any(view != data for view, data in self._steps.shared):
            self.note += _CHANGED_BEHIND
        scenario = r.Scenario(
            name=self.name,
            kernel=f"dksmfs {__version__}",
            note=self.note,
            steps=self._encoded,
            data=self._steps.data,
        )
        return _encoder.encode(scenario) + b"\n"

    def _begin(self, machine: Machine) -> None:
        """Bring a replayed machine, with DKSM stopped and huge pages off, to where we are."""
        if machine.thp != "never":
            self._put(r.Thp(mode=cast(Any, machine.thp)), {"ret": 0})
        if machine.dksm.run:
            self._put(r.Write(file="run", data="1\n"), {"ret": 2})
        self._put_stats()

    def _put(self, step: r.AnyStep, result: Result) -> None:
        encoded = _encoder.encode({**msgspec.to_builtins(step), "result": result})
        self._size += len(encoded)
        if self._size > MAX_STEPS_SIZE:
            raise Inexpressible(f"its steps are more than {MAX_STEPS_SIZE >> 20} MiB")
        self._encoded.append(Raw(encoded))

    def _put_stats(self) -> None:
        now = views.stats(self._target)
        if now != self._stats:
            self._stats = now
            self._put(r.Stats(), now)

    def _put_views(self) -> None:
        regions = sum(len(proc.regions) for _, proc in self._names)
        limit = min(MAX_LISTED_OF_REGION, MAX_LISTED // max(regions, 1))
        self._put(r.Stats(), views.stats(self._target))
        if regions:
            self._put(r.Sharing(limit=limit), views.sharing(self._target, self._names, limit))
            self._put(r.Contents(limit=limit), views.contents(self._target, self._names, limit))


class SessionRecorder:
    """Records one session at a time, for the connection that started it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._owner: Caller | None = None
        self._recording: Recording | None = None
        self._line = b""
        self.active = False
        """Whether it records: only then changes need to be handed to it."""

    def start(self, name: str, caller: Caller | None) -> Work[None]:
        """Begin; OSError EBUSY if another one is on its way, or if the machine is in a state that
        no steps lead to."""
        if self._recording is not None:
            raise kernel_error(errno.EBUSY, "a recording is on its way already; end that one first")
        yield from _check_state(self._machine)
        self._recording = Recording(name, self._machine)
        self._owner, self.active = caller, True

    def stop(self, caller: Caller | None, *, go_on: bool = False) -> m.RecordingStopped:
        """End, or go on, and keep what was recorded until now for `take`."""
        recording = self._owned(caller)
        if self.active:
            self._finish(recording)
            self.active = go_on
        return m.RecordingStopped(recording.step_count, len(self._line), recording.note)

    def take(self, caller: Caller | None) -> m.RecordedPart:
        """Hand out the next part of the file; after the last one another recording may begin."""
        self._owned(caller)
        if self.active and not self._line:
            raise kernel_error(errno.EBUSY, "the recording has not been stopped yet")
        part, self._line = self._line[:_PART_SIZE], self._line[_PART_SIZE:]
        more = bool(self._line)
        if not more and not self.active:
            self._forget()
        return m.RecordedPart(part, more)

    def hang_up(self, caller: Caller) -> None:
        """The connection is gone: what it recorded is dropped."""
        if self._recording is not None and self._owner is caller:
            self._forget()

    def store(self, attribute: Attribute, data: bytes) -> int:
        """Store into an attribute, and note what came of it."""
        if not self.active:
            return attribute.write(data)
        if attribute.name == "enabled":
            taken = attribute.write(data)
            mode = cast(ThpMode, self._machine.thp)
            self._add(m.SetThp(mode), (), m.Thp(mode))
            return taken
        request = m.Store(attribute.name, data[:_LONGEST_STORE].decode("latin-1"))
        return self.observe(request, (), lambda: m.Stored(attribute.write(data))).ret

    def observe(
        self, request: m.Request[Any], memory: Sequence[object], carry_out: Callable[[], T]
    ) -> T:
        """Carry out a request, and note what came of it."""
        try:
            outcome = carry_out()
        except ProtocolError:
            raise  # nothing has happened
        except OSError as error:
            self._add(request, memory, error)
            raise
        except BaseException:
            self._end_early("the daemon failed")
            raise
        if isinstance(outcome, Generator):
            return cast(T, self._observe_work(request, memory, outcome))
        self._add(request, memory, outcome)
        return outcome

    def _observe_work(
        self, request: m.Request[Any], memory: Sequence[object], work: Work[T]
    ) -> Work[T]:
        try:
            reply = yield from work
        except OSError as error:
            self._add(request, memory, error)
            raise
        except BaseException:
            self._end_early("a call was cut short when its client went away")
            raise
        self._add(request, memory, reply)
        return reply

    def _add(self, request: m.Request[Any], memory: Sequence[object], outcome: object) -> None:
        if self._recording is None or not self.active:
            return  # it has ended since the request began
        if isinstance(request, m.StartRecording | m.StopRecording):
            return
        if isinstance(outcome, OSError) and _is_of_this_place(request, outcome):
            return
        try:
            self._recording.add(request, memory, outcome)
        except Inexpressible as reason:
            self._end_early(str(reason))

    def _end_early(self, reason: str) -> None:
        if self._recording is not None and self.active:
            self._recording.note = f"the recording ended early: {reason}"
            self._finish(self._recording)

    def _finish(self, recording: Recording) -> None:
        self.active = False
        self._line = recording.end()

    def _owned(self, caller: Caller | None) -> Recording:
        if self._recording is None or self._owner is not caller:
            raise kernel_error(errno.ENOENT, "this connection records nothing")
        return self._recording

    def _forget(self) -> None:
        self._recording, self._owner, self._line, self.active = None, None, b"", False


def _is_of_this_place(request: m.Request[Any], error: OSError) -> bool:
    """Whether a refusal, which has changed nothing, would not come where it is replayed: there all
    processes have one owner, files have the modes that they begin with, and nobody records."""
    if isinstance(request, m.Store):
        return error.errno not in (errno.EINVAL, errno.EACCES)
    return error.errno in (errno.EPERM, errno.EBUSY)


def _check_state(machine: Machine) -> Work[None]:
    """Raise EBUSY, saying what to do, unless a replayed machine can be brought to this state."""
    processes = yield from machine.processes.work()
    if processes:
        names = ", ".join(process.name for process in processes[:3])
        raise kernel_error(
            errno.EBUSY,
            f"a recording begins without processes, and {len(processes)} run ({names}): "
            "end them first (dksmfs ps, dksmfs kill)",
        )
    dksm = machine.dksm
    if dksm.pages_scanned or dksm.merging_failed or dksm.hashtable_entries:
        raise kernel_error(
            errno.EBUSY,
            "a recording begins with all counters 0: write 0 to the file run first, then 1 again",
        )
