"""``dksmfs run`` and ``dksmfs shell``: unmodified programs, with the files at their real path."""

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dksmfs.cli import connection
from dksmfs.cli.frame import add_command, remark
from dksmfs.errors import DksmfsError

if TYPE_CHECKING:
    from dksmfs.cli.frame import Subparsers
    from dksmfs.host.report import Report
    from dksmfs.host.view import View

SHARED_DESCRIPTION = """\
sees the files of a simulated machine at /sys/kernel/mm/dksm and its huge page switch at
/sys/kernel/mm/transparent_hugepage/enabled; all the rest of /sys is the real one. When
it, or anything it starts, calls madvise(MADV_MERGEABLE), DKSM does in the machine what
it would do with these pages, and the files show it.

Programs are not merged for real: their memory is only read. No memory is saved.

Exit status, streams, terminal and signals are those of the program. At its end all that
it left running is ended too. Works as root, and for ordinary users where they may use
user namespaces and /dev/fuse.
"""

RUN_DESCRIPTION = f"""\
Run a program that {SHARED_DESCRIPTION}
examples:
  dksmfs run -- sh -c 'echo 1 > /sys/kernel/mm/dksm/run; ./my-test; grep . /sys/kernel/mm/dksm/*'
  dksmfs run --on --thp never --report -- ./my-test      start with DKSM on, tell what it did
  dksmfs run --on --json -o report.json -- ./my-test     the same, for programs
  dksmfs run --instance /mnt/sys -- ./my-test            in the machine mounted there
"""

SHELL_DESCRIPTION = f"""\
Start your shell ($SHELL), that {SHARED_DESCRIPTION}
examples:
  dksmfs shell
  dksmfs shell --thp never --report
"""


def add_parser(subparsers: "Subparsers") -> None:
    """Register the commands."""
    run = add_command(
        subparsers, "run", _run, "run a program on the simulated machine", RUN_DESCRIPTION
    )
    _add_options(run)
    run.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- CMD ARG...", help="what to run"
    )
    run.usage = "dksmfs run [options] -- CMD ARG..."
    shell = add_command(
        subparsers, "shell", _shell, "a shell on the simulated machine", SHELL_DESCRIPTION
    )
    _add_options(shell)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--thp",
        choices=("always", "madvise", "never"),
        help="transparent huge pages of the machine (default: always, as a real one)",
    )
    parser.add_argument("--on", action="store_true", help="turn DKSM on first")
    parser.add_argument(
        "--report", action="store_true", help="tell on standard error what DKSM did, at the end"
    )
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write the report to FILE, not to standard error"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--instance",
        metavar="MOUNTPOINT",
        help="use the instance mounted there (default: one of its own)",
    )
    which.add_argument("--socket", metavar="PATH", help="the instance that listens there")


def _run(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise DksmfsError("nothing to run; say what: dksmfs run [options] -- CMD ARG...")
    return _run_command(options, command)


def _shell(options: argparse.Namespace) -> int:
    return _run_command(options, [os.environ.get("SHELL") or "/bin/sh"])


def _run_command(options: argparse.Namespace, command: list[str]) -> int:
    from dksmfs.host.launch import NotStartedError, finish, run

    output = _opened(options.output)
    try:
        with _socket(options) as socket:
            outcome = run(command, _view(socket, options), socket)
    except NotStartedError as error:
        remark(str(error))
        return error.exit_status
    if options.report or options.json or options.output:
        _report(outcome.report, options.json, output)
    return finish(outcome.status)


def _opened(path: str | None) -> int:
    """The descriptor that the report goes to: opened before anything runs, closed by exit."""
    if path is None:
        return 2
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)


@contextmanager
def _socket(options: argparse.Namespace) -> Iterator[str]:
    """The socket of the instance that is named, or of a new one for the length of a block."""
    from dksmfs.cli.temporary import temporary_instance

    if options.instance or options.socket:
        yield connection.socket_path(options)
        return
    with temporary_instance("run", "sys", "always") as instance:
        yield instance.socket


def _view(socket: str, options: argparse.Namespace) -> "View":
    """What is shown of an instance; its switches are set as the options say."""
    from dksmfs.control.client import connect
    from dksmfs.host.view import THP, View

    with connect(socket) as machine:
        if options.thp:
            machine.thp = options.thp
        if options.on:
            machine.run = 1
        directory, mode = connection.dksm_directory(machine), machine.thp
    switch = directory.parent / THP / "enabled"
    if switch.exists():
        return View(directory, switch)
    modes = (f"[{word}]" if word == mode else word for word in ("always", "madvise", "never"))
    return View(directory, None, " ".join(modes) + "\n")


def _report(report: "Report | None", as_json: bool, output: int) -> None:
    if report is None:
        remark("the supervisor was killed, and its report is lost")
        return
    from dksmfs.host.report import print_report

    with os.fdopen(output, "w", closefd=False) as file:
        if as_json:
            json.dump(report.as_json(), file, indent=2)
            file.write("\n")
        else:
            print_report(report, file)
