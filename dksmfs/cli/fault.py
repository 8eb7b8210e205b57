"""``dksmfs fault``: let something be wrong with the mounted files."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dksmfs.cli import connection
from dksmfs.cli.frame import add_command, positive_number, print_json
from dksmfs.errors import DksmfsError
from dksmfs.injection import DIRECTORY, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from dksmfs.cli.frame import Subparsers
    from dksmfs.control.blocking import Blocking
    from dksmfs.control.client import Machine

DESCRIPTION = """\
Let programs find something wrong with the mounted files, to see what they do about it. The
machine itself goes on as it is. Without a kind of fault: list those that can still happen.
FILE is a name in the dksm directory, or /sys/kernel/mm/transparent_hugepage/enabled.

examples:
  dksmfs fault error pages_merged EIO            every read fails
  dksmfs fault error run EBUSY --on write        every write to run fails
  dksmfs fault error run EMFILE --on open --times 1
  dksmfs fault delay pages_scanned 0.5 --every 3  each third read takes half a second longer
  dksmfs fault short pages_scanned 1             a read(2) gets one byte at a time
  dksmfs fault text pages_merged ""              an empty file; or garbage, or a huge number
  dksmfs fault set pages_scanned 18446744073709551615
  dksmfs fault freeze pages_merged               it goes on showing what it shows now
  dksmfs fault gone merging_failed               a file that an older kernel does not have
  dksmfs fault gone                              a kernel without DKSM
  dksmfs fault restart pages_scanned             counters start again in the middle of reading
  dksmfs fault                                   list them
  dksmfs fault clear                             all is well again
"""

_FILE = "a file of the dksm directory"


def add_parser(subparsers: "Subparsers") -> None:
    """Register the command."""
    parser = add_command(
        subparsers, "fault", _list, "let something be wrong with the files", DESCRIPTION
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    connection.add_options(parser)
    kinds = parser.add_subparsers(title="kinds of faults", metavar="KIND")
    error = _kind(kinds, "error", "open, read or write fails", operations=True)
    error.add_argument("file", metavar="FILE", help=_FILE)
    error.add_argument("errno", metavar="ERRNO", help="its name, as EIO")
    delay = _kind(kinds, "delay", "open, read or write takes longer", operations=True)
    delay.add_argument("file", metavar="FILE", help=_FILE)
    delay.add_argument("delay_s", metavar="SECONDS", type=float, help="how much longer")
    short = _kind(kinds, "short", "a read(2) gets few bytes")
    short.add_argument("file", metavar="FILE", help=_FILE)
    short.add_argument("size", metavar="BYTES", type=positive_number, help="at the most")
    text = _kind(kinds, "text", "the file reads as this text")
    text.add_argument("file", metavar="FILE", help=_FILE)
    text.add_argument("text", metavar="TEXT", help="the whole text, without any newline added")
    shown = _kind(kinds, "set", "the file shows this value", kind="text")
    shown.add_argument("file", metavar="FILE", help=_FILE)
    shown.add_argument("value", metavar="VALUE", help="the value; a newline follows it")
    freeze = _kind(kinds, "freeze", "the file shows what it shows now", kind="frozen", lasts=True)
    freeze.add_argument("file", metavar="FILE", help=_FILE)
    gone = _kind(kinds, "gone", "the file does not exist", lasts=True)
    gone.add_argument("file", metavar="FILE", nargs="?", default=DIRECTORY, help="default: all")
    restart = _kind(kinds, "restart", "DKSM is stopped and started in the middle of reading")
    restart.add_argument("file", metavar="FILE", help=_FILE)
    clear = kinds.add_parser("clear", help="drop the faults", allow_abbrev=False)
    clear.add_argument("file", metavar="FILE", nargs="?", help="of this file (default: of all)")
    _of_instance(clear, _clear)


def _kind(
    kinds: "Subparsers",
    name: str,
    summary: str,
    *,
    kind: str | None = None,
    operations: bool = False,
    lasts: bool = False,
) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    parser.set_defaults(kind=kind or name)
    if operations:
        choices = ("open", "read", "write")
        parser.add_argument(
            "--on", dest="operation", choices=choices, default="read", help="default: read"
        )
    if not lasts:
        parser.add_argument(
            "--times", type=positive_number, metavar="N", help="N times (default: until cleared)"
        )
        parser.add_argument(
            "--every", type=positive_number, default=1, metavar="K", help="at each K-th use only"
        )
    _of_instance(parser, _add)
    return parser


def _of_instance(
    parser: argparse.ArgumentParser, run: "Callable[[argparse.Namespace], int]"
) -> None:
    # Without defaults, those that stand before the kind are not overwritten.
    connection.add_options(parser)
    for action in parser._actions:
        if action.dest in ("instance", "socket"):
            action.default = argparse.SUPPRESS
    parser.set_defaults(run=run)


def _list(options: argparse.Namespace) -> int:
    with connection.connected(options) as machine:
        faults = machine.faults
    if options.json:
        print_json({"faults": [asdict(fault) for fault in faults]})
        return 0
    for fault in faults:
        print(_described(fault))
    if not faults:
        print("no faults; see: dksmfs fault --help")
    return 0


def _add(options: argparse.Namespace) -> int:
    given = vars(options)
    members: dict[str, Any] = {
        name: given[name] for name in Fault.__dataclass_fields__ if given.get(name) is not None
    }
    if "value" in given:
        members["text"] = f"{options.value}\n"
    try:
        fault = Fault(**members)
    except ValueError as error:
        raise DksmfsError(f"fault: {error}") from None
    with connection.connected(options) as machine:
        _send(machine, fault)
    print(_described(fault))
    return 0


def _send(machine: "Machine[Blocking]", fault: Fault) -> None:
    try:
        machine.inject(fault)
    except FileNotFoundError:
        raise DksmfsError(f"there is no file {fault.file} in the dksm directory") from None


def _clear(options: argparse.Namespace) -> int:
    with connection.connected(options) as machine:
        machine.clear_faults(options.file)
    return 0


def _described(fault: Fault) -> str:
    what = {
        "error": f"{fault.operation}: {fault.errno}",
        "delay": f"{fault.operation}: {fault.delay_s} s longer",
        "short": f"at most {fault.size} bytes",
        "text": f"reads as {fault.text[:40]!r}" + ("..." if len(fault.text) > 40 else ""),
        "frozen": "is frozen",
        "gone": "is gone",
        "restart": "DKSM restarts in mid-read",
    }[fault.kind]
    every = f", every {fault.every} uses" if fault.every > 1 else ""
    times = f", {fault.times} times" if fault.times else ""
    return f"{fault.file}  {what}{every}{times}"
