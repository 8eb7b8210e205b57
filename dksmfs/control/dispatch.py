"""Joins each request to what the machine does about it: `TABLE` is the only place that does.

No I/O and no waiting, so a request can be handled without any socket. A handler checks what can be
checked at once. It returns the reply, or, if it may take long, work that pauses and returns the
reply.
"""

import errno
from collections.abc import Callable, Sequence
from types import GeneratorType
from typing import Any, Final, NamedTuple, TypeVar, cast

from msgspec.structs import astuple

from dksmfs.control import files, following, views
from dksmfs.control import messages as m
from dksmfs.control.files import Files
from dksmfs.control.following import Followed
from dksmfs.control.job import Caller, Job, Memory, Owners, check_populated
from dksmfs.control.limits import ThpMode
from dksmfs.control.live import LiveMemory
from dksmfs.control.recorder import Recorder
from dksmfs.control.wire import INVALID_PARAMS, ProtocolError
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.machine import ADVICE, Machine
from dksmfs.kernel.pausing import Work, finished, pausing
from dksmfs.kernel.sysfs.attribute import Attribute, Directory
from dksmfs.kernel.units import PAGE_SIZE

R = TypeVar("R")
T = TypeVar("T")
Handler = Callable[[Job, Any], Any]

DONE: Final = m.Done()


class Dispatcher:
    """Carries out requests on one machine, and knows whose each process is."""

    def __init__(
        self,
        machine: Machine,
        attributes: Directory,
        recorder: Recorder | None = None,
        mounted: Files | None = None,
    ) -> None:
        self.machine = machine
        self.attributes = attributes
        self.owners = Owners()
        self.followed = Followed()
        self.recorder = recorder
        self.files = mounted

    def handle(
        self,
        request: m.Request[R],
        caller: Caller | None = None,
        memory: Sequence[Memory | LiveMemory] = (),
    ) -> R:
        """Carry out `request` to its end. Without a caller, processes it starts are detached."""
        outcome = self.start(request, caller, memory)
        return finished(outcome) if isinstance(outcome, GeneratorType) else cast(R, outcome)

    def start(
        self,
        request: m.Request[R],
        caller: Caller | None = None,
        memory: Sequence[Memory | LiveMemory] = (),
    ) -> R | Work[R]:
        """Carry out `request`, or return the work that does, if it may take long.

        OSError is the kernel's refusal; ProtocolError is ours, and nothing has happened then.
        """
        if self.recorder is not None and self.recorder.active and self.changes(request):
            return self.recorder.observe(
                request, memory, lambda: self._start(request, caller, memory)
            )
        return self._start(request, caller, memory)

    def _start(
        self,
        request: m.Request[R],
        caller: Caller | None,
        memory: Sequence[Memory | LiveMemory],
    ) -> R | Work[R]:
        row = TABLE[type(request)]
        if row.changes and isinstance(request, m.OfProcess):
            self.owners.check(request.pid, caller)
        job = Job(
            self.machine,
            self.attributes,
            self.owners,
            caller,
            memory,
            self.followed,
            recorder=self.recorder,
            files=self.files,
        )
        try:
            outcome: R | Work[R] = row.handler(job, request)
        except ValueError as error:
            raise ProtocolError(INVALID_PARAMS, str(error)) from None
        return outcome

    def changes(self, request: m.Request[Any]) -> bool:
        """Whether `request` may change the machine, and so has to wait for its turn."""
        return TABLE[type(request)].changes

    @pausing
    def hang_up(self, caller: Caller) -> Work[None]:
        """The caller is gone: its processes exit, as if killed."""
        for pid in self.owners.pids(caller):
            exiting = self.start(m.Exit(pid), caller)
            assert isinstance(exiting, GeneratorType)
            yield from exiting
        if self.recorder is not None:
            self.recorder.hang_up(caller)


def _done(method: pausing[Machine, ..., None]) -> Handler:
    """A request whose members are the arguments of a method of the machine."""

    def handler(job: Job, request: m.Request[Any]) -> Work[m.Done]:
        return _replied(method.work(job.machine, *astuple(request)), lambda _: DONE)

    return handler


def _replied(work: Work[T], reply: Callable[[T], R]) -> Work[R]:
    """Work whose result becomes a reply."""
    return reply((yield from work))


def _populating(method: pausing[Machine, ..., None]) -> Handler:
    """Like `_done`, for a range in which pages come into being."""
    done = _done(method)

    def handler(job: Job, request: m.OfRange[m.Done]) -> Any:
        check_populated(request.length)
        return done(job, request)

    return handler


def _spawn(job: Job, request: m.Spawn) -> m.Spawned:
    job.owners.check_limit()
    pid = job.machine.spawn(request.name)
    job.owners.add(pid, None if request.detached else job.caller)
    return m.Spawned(pid)


def _fork(job: Job, request: m.Fork) -> Work[m.Spawned]:
    job.owners.check_limit()
    pid = yield from job.machine.fork.work(request.pid, request.name)
    job.owners.add(pid, job.owners.of(request.pid))
    return m.Spawned(pid)


def _exit(job: Job, request: m.Exit) -> Work[m.Done]:
    yield from job.followed.exit(job.machine, request.pid)
    job.owners.forget(request.pid)
    return DONE


def _mmap(job: Job, request: m.Mmap) -> Work[m.Mapped]:
    content = None if request.content is None else job.content(request.content, request.length)
    work = job.machine.mmap.work(
        request.pid,
        request.length,
        prot=request.prot,
        kind=request.kind,
        address=request.address,
        file=request.file,
        content=content,
    )
    return _replied(work, m.Mapped)


def _mremap(job: Job, request: m.Mremap) -> Work[m.Mapped]:
    return _replied(job.machine.mremap.work(*astuple(request)), m.Mapped)


def _madvise(job: Job, request: m.Madvise) -> Work[m.Done]:
    yield from following.reap(job)
    advice = ADVICE[request.advice] if isinstance(request.advice, str) else request.advice
    work = job.machine.madvise.work(request.pid, request.address, request.length, advice)
    yield from job.until_killed(work) if advice == ADVICE["mergeable"] else work
    return DONE


def _read(job: Job, request: m.Read) -> Work[m.Bytes]:
    return _replied(job.machine.read.work(*astuple(request)), m.Bytes)


def _fill(job: Job, request: m.Fill) -> Work[m.Done]:
    content = job.content(request.content, request.length)
    work = job.machine.fill.work(request.pid, request.address, request.length, content)
    return _replied(work, lambda _: DONE)


def _mkfile(job: Job, request: m.Mkfile) -> Work[m.Done]:
    content = job.content(request.content, request.pages * PAGE_SIZE)
    work = job.machine.mkfile.work(request.file, request.pages, content)
    return _replied(work, lambda _: DONE)


def _attribute(job: Job, name: str) -> Attribute:
    found = job.attributes.find(name)
    if isinstance(found, Attribute):
        return found
    raise kernel_error(errno.EISDIR, f"{name} is a directory")


def _show(job: Job, request: m.Show) -> m.Shown:
    return m.Shown(_attribute(job, request.file).read().decode())


def _store(job: Job, request: m.Store) -> m.Stored:
    attribute = _attribute(job, request.file)
    if attribute.store is None:
        # The mode bits are checked even for root.
        raise kernel_error(errno.EACCES, f"{request.file} is read-only")
    return m.Stored(attribute.write(request.data.encode("latin-1")))


def _thp(job: Job, request: m.SetThp) -> m.Thp:
    if request.mode is not None:
        job.machine.thp = request.mode
    return m.Thp(cast(ThpMode, job.machine.thp))


def _recorder(job: Job) -> Recorder:
    if job.recorder is None:
        raise kernel_error(errno.EOPNOTSUPP, "this machine has no recorder")
    return job.recorder


def _record_start(job: Job, request: m.StartRecording) -> Work[m.Done]:
    return _replied(_recorder(job).start(request.name, job.caller), lambda _: DONE)


def _record_stop(job: Job, request: m.StopRecording) -> m.RecordingStopped:
    return _recorder(job).stop(job.caller, go_on=request.go_on)


def _record_take(job: Job, _: m.TakeRecording) -> m.RecordedPart:
    return _recorder(job).take(job.caller)


class Row(NamedTuple):
    """What is done about one kind of request."""

    handler: Handler
    changes: bool = True
    """False for looks from outside, which never wait for anybody's changes."""


TABLE: Final[dict[type[m.Request[Any]], Row]] = {
    m.Spawn: Row(_spawn),
    m.Fork: Row(_fork),
    m.Exit: Row(_exit),
    m.Mmap: Row(_mmap),
    m.Munmap: Row(_done(Machine.munmap)),
    m.Mprotect: Row(_done(Machine.mprotect)),
    m.Mremap: Row(_mremap),
    m.Mlock: Row(_populating(Machine.mlock)),
    m.Munlock: Row(_done(Machine.munlock)),
    m.Madvise: Row(_madvise),
    m.Read: Row(_read),
    m.Write: Row(_done(Machine.write)),
    m.Fill: Row(_fill),
    m.Touch: Row(_populating(Machine.touch)),
    m.Mkfile: Row(_mkfile),
    m.Store: Row(_store),
    m.SetThp: Row(_thp),
    m.Follow: Row(following.follow),
    m.Advise: Row(following.advise),
    m.StartRecording: Row(_record_start),
    m.StopRecording: Row(_record_stop),
    m.Reset: Row(files.reset),
    m.AddFault: Row(files.add_fault, changes=False),
    m.ClearFaults: Row(files.clear_faults, changes=False),
    m.ListFaults: Row(files.faults, changes=False),
    m.SetLog: Row(files.set_log, changes=False),
    m.ListAccesses: Row(files.accesses, changes=False),
    m.Subscribe: Row(lambda _job, _request: DONE, changes=False),
    m.TakeRecording: Row(_record_take, changes=False),
    m.Ps: Row(views.processes, changes=False),
    m.ViewPagemap: Row(views.pagemap, changes=False),
    m.ViewContents: Row(views.page_contents, changes=False),
    m.ViewSmaps: Row(views.smaps, changes=False),
    m.ViewSharing: Row(views.sharing, changes=False),
    m.ReadStats: Row(views.stats, changes=False),
    m.Show: Row(_show, changes=False),
}
