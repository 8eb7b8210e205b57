"""``dksmfs spawn``, ``ps`` and ``kill``: processes that outlive a command, for shell scripts."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dksmfs.cli import connection
from dksmfs.cli.advertise import advertise, explain, load
from dksmfs.cli.frame import add_command, positive_number, print_json
from dksmfs.errors import DksmfsError

if TYPE_CHECKING:
    from dksmfs.cli.frame import Subparsers
    from dksmfs.control.blocking import Blocking
    from dksmfs.control.client import Machine
    from dksmfs.control.messages import ProcessInfo

SPAWN_DESCRIPTION = """\
Start a simulated process that lives until `dksmfs kill NAME`, or the end of the instance.

examples:
  dksmfs spawn vm-1 --image /bin/bash --advertise   pages with the bytes of a file
  dksmfs spawn vm-2 --pages 1000 --content seed:7   1000 pages, all different
  dksmfs spawn vm-3 --pages 1000 --content zero     1000 pages of zeros, really written
  dksmfs spawn idle                                 no pages at all
"""

PS_DESCRIPTION = """\
Show the processes of the machine: those of `dksmfs spawn` (owner: detached), and those that
belong to a client's connection (owner: other) and exit with it.

examples:
  dksmfs ps
  dksmfs ps --json                  {"processes": [{"pid": 1, "name": "vm-1", ...}]}
"""

KILL_DESCRIPTION = """\
End processes that `dksmfs spawn` started, by name or by pid.

examples:
  dksmfs kill vm-1 vm-2
  dksmfs kill 3
"""


def add_parser(subparsers: "Subparsers") -> None:
    """Register the commands."""
    spawn = add_command(
        subparsers, "spawn", _spawn, "start a process that outlives the command", SPAWN_DESCRIPTION
    )
    spawn.add_argument(
        "name", type=_name, metavar="NAME", help="a name that no such process has yet"
    )
    pages = spawn.add_mutually_exclusive_group()
    pages.add_argument("--image", metavar="FILE", help="pages that hold the bytes of FILE")
    pages.add_argument("--pages", type=positive_number, metavar="N", help="N pages with --content")
    spawn.add_argument(
        "--content",
        metavar="WHAT",
        help="what the N pages hold: zero (default), seed:N, const:V, index:B or pattern:S",
    )
    spawn.add_argument("--advertise", action="store_true", help="advertise the pages at once")
    spawn.add_argument("--json", action="store_true", help="print the result as JSON")
    connection.add_options(spawn)
    ps = add_command(subparsers, "ps", _ps, "show the simulated processes", PS_DESCRIPTION)
    ps.add_argument("--json", action="store_true", help="print the result as JSON")
    connection.add_options(ps)
    kill = add_command(subparsers, "kill", _kill, "end spawned processes", KILL_DESCRIPTION)
    kill.add_argument("names", nargs="+", metavar="NAME", help="name or pid of a process")
    connection.add_options(kill)


def _name(text: str) -> str:
    if not (0 < len(text) <= 64 and text.isprintable()):
        raise argparse.ArgumentTypeError("a name has 1 to 64 characters, all of them printable")
    return text


def _spawn(options: argparse.Namespace) -> int:
    if options.content is not None and options.pages is None:
        raise DksmfsError("--content says what the pages of --pages N hold; give both")
    with connection.connected(options) as machine:
        if any(found.name == options.name for found in _detached(machine)):
            raise DksmfsError(f"a process {options.name} runs already; see: dksmfs ps")
        process = machine.process(options.name, detached=True)
        try:
            if options.image is not None:
                with Path(options.image).open("rb") as file:
                    pages = load(process, file.fileno())
            elif options.pages is not None:
                pages = process.mmap(pages=options.pages, fill=options.content or "zero").pages
            else:
                pages = 0
            row = advertise(machine, process, options.name, pages) if options.advertise else None
        except BaseException:
            process.exit()
            raise
        if row is not None:
            explain(machine, [row])
    if options.json:
        counts = {} if row is None else {"merged": row.merged, "failed": row.failed}
        print_json({"pid": process.pid, "name": options.name, "pages": pages, **counts})
    else:
        merged = "" if row is None else f", {row.merged} merged, {row.failed} failed"
        print(f"{options.name}  pid {process.pid}, {pages} pages{merged}")
    return 0


def _ps(options: argparse.Namespace) -> int:
    with connection.connected(options) as machine:
        found = [process for process in machine.processes() if process.owner != "you"]
    if options.json:
        names = ("pid", "name", "parent", "owner", "rss_pages")
        print_json({"processes": [{n: getattr(process, n) for n in names} for process in found]})
        return 0
    print(f"{'PID':>6} {'PARENT':>6} {'OWNER':8} {'PAGES':>9} NAME")
    for process in found:
        parent = process.parent or "-"
        print(
            f"{process.pid:>6} {parent:>6} {process.owner:8} {process.rss_pages:>9} {process.name}"
        )
    return 0


def _kill(options: argparse.Namespace) -> int:
    with connection.connected(options) as machine:
        doomed = [_named(machine, name) for name in options.names]
        for pid in dict.fromkeys(doomed):
            machine.attach(pid).exit()
    return 0


def _detached(machine: "Machine[Blocking]") -> "list[ProcessInfo]":
    return [process for process in machine.processes() if process.owner == "detached"]


def _named(machine: "Machine[Blocking]", name: str) -> int:
    """The pid of the process that a person means by its name or its pid."""
    running = machine.processes()
    named = [process for process in running if process.name == name]
    found = named or [process for process in running if str(process.pid) == name]
    mine = [process for process in found if process.owner == "detached"]
    if len(mine) == 1:
        return mine[0].pid
    if mine:
        pids = ", ".join(str(process.pid) for process in mine)
        raise DksmfsError(f"{len(mine)} processes are called {name}; name one by its pid: {pids}")
    if found:
        raise DksmfsError(f"{name} belongs to a client that is connected, and exits with it")
    raise DksmfsError(f"there is no process {name}; see: dksmfs ps")
