"""``dksmfs log``: what programs did with the mounted files."""

import argparse
import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from dksmfs.cli import connection
from dksmfs.cli.frame import add_command, positive_number, print_json, printable
from dksmfs.errors import DksmfsError
from dksmfs.injection import KEPT, Access

if TYPE_CHECKING:
    from dksmfs.cli.frame import Subparsers
    from dksmfs.control.blocking import Blocking
    from dksmfs.control.client import Machine

DESCRIPTION = """\
Show each open, read, write, stat and readdir on the mounted files: when, by which process
and user, of which file, offset+size, and what it returned. The log is off until somebody
asks for it: with --on, or for as long as -f runs.

examples:
  dksmfs log --on                   keep the last 10,000 accesses from now on
  dksmfs log                        12:34:56.123456 4711 cat (uid 0) read run 0+131072 = 2
  dksmfs log -f                     show them as they happen, until Ctrl-C
  dksmfs log -f --json              the same, a JSON object a line
  dksmfs log --off                  forget them all
"""


def add_parser(subparsers: "Subparsers") -> None:
    """Register the command."""
    parser = add_command(subparsers, "log", _run, "show who uses the files, and how", DESCRIPTION)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--on", action="store_true", help=f"keep the last {KEPT} accesses")
    what.add_argument("--keep", type=positive_number, metavar="N", help="keep the last N accesses")
    what.add_argument("--off", action="store_true", help="switch the log off")
    what.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print the accesses as JSON")
    connection.add_options(parser)


def _run(options: argparse.Namespace) -> int:
    with connection.connected(options) as machine:
        if options.on or options.off or options.keep:
            machine.log(0 if options.off else options.keep or KEPT)
        elif options.follow:
            _follow(machine, options.json)
        elif machine.log_size == 0:
            raise DksmfsError("the log is off; switch it on: dksmfs log --on")
        elif options.json:
            print_json({"accesses": [asdict(access) for access in machine.accesses]})
        else:
            for access in machine.accesses:
                print(_described(access))
    return 0


def _follow(machine: "Machine[Blocking]", as_json: bool) -> None:
    was_off = machine.log_size == 0
    if was_off:
        machine.log()
    events = machine.events("accesses")
    try:
        while True:
            access = events.next()
            assert isinstance(access, Access)
            print(json.dumps(asdict(access)) if as_json else _described(access), flush=True)
    except KeyboardInterrupt:
        pass  # the way to end it
    finally:
        events.close()
        if was_off:
            machine.log(0)


def _described(access: Access) -> str:
    time = datetime.fromtimestamp(access.time).time().isoformat("microseconds")
    pid = "?" if access.pid is None else access.pid
    command = printable(access.command)
    uid = "?" if access.uid is None else access.uid
    span = f" {access.offset}+{access.size}" if access.operation in ("read", "write") else ""
    result = access.result if access.errno is None else f"{access.result} {access.errno}"
    return (
        f"{time} {pid} {command} (uid {uid}) {access.operation} {printable(access.file)}{span}"
        f" = {result}"
    )
