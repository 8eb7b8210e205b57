"""Running a program under a supervisor: the side that the person sees.

Three processes: this one, which the person started, waits and passes signals on; its child, the
supervisor; and the program, a child of that, in the process group of this one. If this one is
killed, the supervisor ends the program; if the supervisor is killed, the program goes on and this
one waits for it.
"""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from dksmfs.errors import DksmfsError
from dksmfs.host.processes import children
from dksmfs.host.report import Report, report_of
from dksmfs.host.supervisor import Launch, supervise
from dksmfs.host.syscalls import PR_SET_CHILD_SUBREAPER, prctl
from dksmfs.host.view import View

PASSED_ON: Final = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

_MOST_RESULTS: Final = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """How a program ended (as waitpid says it), and what it did; no report if it was lost."""

    status: int
    report: Report | None


class NotStartedError(DksmfsError):
    """The program could not be started; `exit_status` is what shells return then."""

    def __init__(self, text: str, exit_status: int) -> None:
        super().__init__(text)
        self.exit_status = exit_status


def run(command: list[str], view: View, socket: str) -> Outcome:
    """Run a program to its end in a private view, its advertisements going to `socket`."""
    with _blocked(set(PASSED_ON) | {signal.SIGCHLD}) as before:
        launch = Launch(command, dict(os.environ), view, socket, before)
        others = set(children(os.getpid()))
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        results = os.memfd_create("results", os.MFD_CLOEXEC)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        owner = os.pidfd_open(os.getpid())
        supervisor = os.fork()
        if supervisor == 0:
            os.close(reader)
            _become_supervisor(launch, writer, results, owner)
        os.close(writer)
        os.close(owner)
        try:
            program = _started(reader)
            return _wait(supervisor, program, results)
        finally:
            _end_children(others)
            os.close(results)
            prctl(PR_SET_CHILD_SUBREAPER, 0)


def _become_supervisor(launch: Launch, said: int, results: int, owner: int) -> None:
    status = 1
    try:
        supervise(launch, said, results, owner)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


@contextmanager
def _blocked(signals: "set[signal.Signals]") -> "Iterator[set[signal.Signals | int]]":
    """Keep signals waiting for the length of a block; gives those that did wait before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield set(before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _started(reader: int) -> int:
    """Return the pid of the program once it has been executed.

    The pipe ends when nobody holds it any more: the supervisor, and the program until its exec. So
    a program whose pid is known is waited for, whatever happens to the supervisor.
    """
    said: dict[str, Any] = {}
    with os.fdopen(reader, "rb") as pipe:
        for line in pipe:
            said |= json.loads(line)
    if "error" in said:
        raise NotStartedError(said["error"], said["status"])
    if "pid" not in said:
        raise NotStartedError("the supervisor was killed before the program was started", 1)
    pid: int = said["pid"]
    return pid


def _wait(supervisor: int, program: int, results: int) -> Outcome:
    """Pass signals on until the supervisor ends; if it was killed, until the program does."""
    statuses: dict[int, int] = {}
    while supervisor not in statuses:
        _wait_once(program, statuses)
    data = os.pread(results, _MOST_RESULTS, 0)
    if data:
        said = json.loads(data)
        return Outcome(said["status"], report_of(said["report"]))
    while program not in statuses and program in children(os.getpid()):
        _wait_once(program, statuses)
    return Outcome(statuses.get(program, 1 << 8), None)


def _wait_once(program: int, statuses: dict[int, int]) -> None:
    got = signal.sigwaitinfo({*PASSED_ON, signal.SIGCHLD})
    if got.si_signo != signal.SIGCHLD:
        # The terminal sends its signals (si_code > 0) to the program as well.
        if got.si_code <= 0:
            with suppress(ProcessLookupError):
                os.kill(program, got.si_signo)
        return
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            statuses[ended[0]] = ended[1]


def _end_children(others: set[int]) -> None:
    """End what a killed supervisor did not: all that we have adopted beside `others`."""
    while rest := set(children(os.getpid())) - others:
        for pid in rest:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def finish(status: int) -> int:
    """Turn a wait status into an exit status; a signal is raised here as well."""
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    number = os.WTERMSIG(status)
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it is not we who crashed
    with suppress(OSError):  # SIGKILL has no handler
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number
