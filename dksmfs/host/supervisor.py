"""The process that watches a program: it starts it, answers its calls, and outlives it.

It is the parent of the program, and adopts whatever that leaves behind, so that it can end all of
it. It never lets a program wait for an answer in vain: whatever goes wrong here, the call returns.
"""

import errno
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NoReturn

from dksmfs.errors import DksmfsError
from dksmfs.host import seccomp
from dksmfs.host.observer import PAGES_OF_A_FORK, Answer, Observer
from dksmfs.host.processes import children, process_of
from dksmfs.host.syscalls import PR_SET_CHILD_SUBREAPER, prctl
from dksmfs.host.view import View, enter

GRACE_S: Final = 2.0
"""How long what a program leaves behind may take to end after SIGTERM."""

PATIENCE_S: Final = 20e-6
"""How long it is waited for such processes, for each page: ten times what the kernel takes, since
they are not alone on the machine here."""

MAX_PATIENCE_S: Final = 0.2
MAX_TOGETHER_S: Final = 1.0
"""No call waits longer than this for others to be looked at."""

EXIT_NOT_FOUND: Final = 127
EXIT_NOT_STARTED: Final = 126


@dataclass(frozen=True)
class Launch:
    """A program to start: what it is, what it sees, and the socket of its machine."""

    command: list[str]
    environment: dict[str, str]
    view: View
    socket: str
    signals: "set[signal.Signals | int]"
    """The signals that were blocked at first, and are to be for the program."""


def supervise(launch: Launch, said: int, results: int, owner: int) -> None:
    """Start the program, tell on the pipe `said` its pid or what is wrong, and watch it to its end
    or that of `owner` (a pidfd). The outcome goes to the file `results`."""
    group = os.getpgrp()
    os.setpgid(0, 0)  # the keys of a terminal are for the program
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake = _wake_on_child()
    try:
        observer = _observer(launch.socket)
        program, listener = _start(launch, group, said)
    except (DksmfsError, OSError) as error:
        _tell_error(said, error)
        return
    finally:
        os.close(said)
    if listener is None:
        os.waitpid(program, 0)  # it has told why
        return
    status = Loop(observer, program, listener, wake, owner).run()
    outcome = {"status": status, "report": asdict(observer.report())}
    os.pwrite(results, json.dumps(outcome).encode(), 0)


def _observer(path: str) -> Observer:
    from dksmfs.control.client import connect

    return Observer(connect(path))


def _tell(said: int, message: Mapping[str, object]) -> None:
    """Write a message, a line that is written in one piece (pipe(7), PIPE_BUF)."""
    with suppress(BrokenPipeError):
        os.write(said, json.dumps(message).encode() + b"\n")


def _tell_error(said: int, error: BaseException, status: int = 1) -> None:
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) if isinstance(error, Exception) else repr(error)
    _tell(said, {"error": text, "status": status})


def _wake_on_child() -> int:
    """A descriptor that becomes readable when a child ends."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    return reader


def _start(launch: Launch, group: int, said: int) -> tuple[int, int | None]:
    """Start the program; returns its pid, and the descriptor its calls come from, or None if it
    could not be started."""
    ours, its = socket.socketpair()
    program = os.fork()
    if program == 0:
        ours.close()
        _become(launch, group, said, its)
    its.close()
    with ours:
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    return program, descriptors[0] if descriptors else None


def _become(launch: Launch, group: int, said: int, its: socket.socket) -> NoReturn:
    """Become the program."""
    try:
        _tell(said, {"pid": os.getpid()})  # before anything of the program can be seen
        signal.set_wakeup_fd(-1)
        with suppress(OSError):
            os.setpgid(0, group)
        environment = dict(launch.environment)
        enter(launch.view, environment)
        listener = seccomp.install()
        with its, suppress(BrokenPipeError):  # if the supervisor was killed, calls are not watched
            socket.send_fds(its, [b"."], [listener])
        os.close(listener)
        _execute(launch, environment, said)
    except BaseException as error:
        _tell_error(said, error)
    os._exit(1)


def _execute(launch: Launch, environment: dict[str, str], said: int) -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, launch.signals)
    name = launch.command[0]
    try:
        os.execvpe(name, launch.command, environment)
    except OSError as error:
        found = "/" in name or any(
            os.path.lexists(Path(directory, name)) for directory in os.get_exec_path(environment)
        )
        # execvp(3) says EACCES as well if it may not look into some directory.
        reason = error.strerror if found else os.strerror(errno.ENOENT)
        missing = error.errno == errno.ENOENT or not found
        status = EXIT_NOT_FOUND if missing else EXIT_NOT_STARTED
        _tell(said, {"error": f"{name}: {reason}", "status": status})


class Loop:
    """Waits for calls and ends, until nothing of the program is left."""

    def __init__(
        self, observer: Observer, program: int, listener: int, wake: int, owner: int
    ) -> None:
        self._observer = observer
        self._program = program
        self._listener = listener
        self._wake = wake
        self._owner = owner
        self._status: int | None = None
        self._ending = False
        self._deadline = 0.0
        self._told: set[int] = set()
        self._observing = True
        self._remarks: set[str] = set()

    def run(self) -> int:
        """Returns the wait status of the program."""
        while True:
            ready = self._wait()
            if ready & self._observer.pidfds().keys():
                self._try(self._observer.reap)
            if self._wake in ready:
                os.read(self._wake, 4096)
            if self._owner in ready:
                self._ending = True
            if self._listener in ready:
                self._answer()
            if not self._reap() and self._status is not None:
                return self._status
            if self._ending:
                self._end_all()

    def _wait(self) -> set[int]:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        if not self._ending:
            poll.register(self._owner, select.POLLIN)
        if self._observing:
            for descriptor in self._observer.pidfds():
                poll.register(descriptor, select.POLLIN)
        rest = max(self._deadline - time.monotonic(), 0.01) if self._ending else None
        return {fd for fd, event in poll.poll(rest and rest * 1000) if event & select.POLLIN}

    def _answer(self) -> None:
        """Answer what has come in. Calls that would overlap on a real machine are answered
        together, for a process may unmap its pages, or exit, as soon as it has its answer."""
        done: list[tuple[seccomp.Call, int]] = []
        room, patience_s, began = 1, 0.0, time.monotonic()
        while len(done) < room and _is_ready(self._listener, patience_s):
            call = seccomp.receive(self._listener)
            if call is None:
                break
            answer = self._madvise(call)
            done.append((call, answer.error))
            room = max(room, 1 + answer.pages // PAGES_OF_A_FORK)
            patience_s = min(answer.pages * PATIENCE_S, MAX_PATIENCE_S) * answer.more_to_come
            if time.monotonic() - began > MAX_TOGETHER_S:
                break
        for call, error in done:
            seccomp.answer(self._listener, call, error)

    def _madvise(self, call: seccomp.Call) -> Answer:
        """A program must not suffer from what goes wrong here: then it gets 0."""
        found = [Answer(0)]

        def work() -> None:
            pid = process_of(call.thread)
            if seccomp.is_waiting(self._listener, call):
                found.append(self._observer.madvise(pid, call.address, call.length, call.advice))

        self._try(work)
        return found[-1]

    def _try(self, work: Callable[[], None]) -> None:
        if not self._observing:
            return
        try:
            work()
        except ConnectionError:
            self._observing = False
            _remark("the daemon has ended; the programs go on unwatched")
        except (FileNotFoundError, ProcessLookupError):
            pass  # the process was killed meanwhile
        except Exception as error:
            text = f"a call could not be followed: {error!r}"
            if text not in self._remarks:
                self._remarks.add(text)
                _remark(text)

    def _reap(self) -> bool:
        """Take note of children that ended; returns whether there are any left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._program:
                self._status = status
                self._ending = True

    def _end_all(self) -> None:
        """Ask all that is left to end, and insist after a while."""
        now = time.monotonic()
        self._deadline = self._deadline or now + GRACE_S
        overdue = now >= self._deadline
        for pid in children(os.getpid()):
            if overdue or pid not in self._told:
                self._told.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if overdue else signal.SIGTERM)
                    os.kill(pid, signal.SIGCONT)


def _is_ready(descriptor: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return any(event & select.POLLIN for _, event in poll.poll(timeout_s * 1000))


def _remark(text: str) -> None:
    with suppress(OSError):
        os.write(2, f"dksmfs: {text}\n".encode())
