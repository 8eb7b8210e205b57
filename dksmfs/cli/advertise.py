"""``dksmfs advertise``: how much of real files DKSM would merge."""

import argparse
import mmap
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dksmfs.cli import connection
from dksmfs.cli.frame import add_command, positive_number, print_json, printable, remark
from dksmfs.errors import DksmfsError

if TYPE_CHECKING:
    from dksmfs.cli.frame import Subparsers
    from dksmfs.control.blocking import Blocking
    from dksmfs.control.client import Machine, Process

DESCRIPTION = """\
Make each FILE a simulated process that holds the file's bytes as anonymous pages (the
last one filled up with zeros), advertise them with MADV_MERGEABLE one process after the
other, and tell what DKSM did with them. The processes exit at the end.

With --pid, do the same with the anonymous memory of programs that run: it is read while
they go on, and taken as advertised. Nothing is merged for real.

DKSM has to be running (echo 1 > MOUNTPOINT/run), and merges no pages that are part of
huge ones: mount with --thp never, or write never to transparent_hugepage/enabled.

examples:
  dksmfs advertise /bin/bash /bin/ls            what two programs share
  dksmfs advertise --repeat 8 disk.img          eight virtual machines with one image
  dksmfs advertise --hold /usr/lib/*/*.so.*     keep them, to look at the files meanwhile
  dksmfs advertise --json core.1 core.2         for programs
  dksmfs advertise --pid 4711 4712              what two running programs share
  dksmfs advertise --pid 4711 --maps '\\[heap\\]'  only mappings whose name matches
"""


_LONGEST_NAME = 64  # characters of a process's name


def add_parser(subparsers: "Subparsers") -> None:
    """Register the command."""
    parser = add_command(
        subparsers, "advertise", _run, "load files as processes and merge them", DESCRIPTION
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="a file with the bytes to load")
    parser.add_argument(
        "--pid",
        nargs="+",
        type=positive_number,
        default=[],
        metavar="PID",
        help="a running program whose memory to load",
    )
    parser.add_argument(
        "--maps",
        metavar="REGEX",
        help="with --pid: mappings whose name in /proc/PID/maps matches, not all anonymous ones",
    )
    parser.add_argument(
        "--repeat", type=positive_number, default=1, metavar="N", help="load each file N times"
    )
    parser.add_argument(
        "--hold", action="store_true", help="keep the processes until Ctrl-C, then end them"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    connection.add_options(parser)


@dataclass(frozen=True)
class Row:
    """What came of one process, in pages. `huge` pages were part of huge ones beforehand."""

    process: str
    pages: int
    scanned: int
    merged: int
    failed: int
    huge: int

    @property
    def share_percent(self) -> float:
        """Merged pages of all."""
        return 100 * self.merged / self.pages if self.pages else 0.0


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    if bool(options.files) == bool(options.pid):
        raise DksmfsError("name either files, or running programs with --pid")
    names = [file for file in options.files for _ in range(options.repeat)]
    for file in options.files:
        _check(Path(file))
    with connection.connected(options) as machine:
        rows = list(
            track(
                _advertise_programs(machine, options.pid, options.maps)
                if options.pid
                else _advertise_all(machine, names),
                total=len(names) + len(options.pid),
                description="advertising",
                console=Console(stderr=True),
                transient=True,
                disable=not Console(stderr=True).is_terminal,
            )
        )
        _print(rows, options.json)
        explain(machine, rows)
        if options.hold:
            _hold(len(rows))
    return 0


def _check(path: Path) -> None:
    """Refuse what is no file before anything is loaded; devices may never end."""
    if not path.exists():
        raise DksmfsError(f"{printable(str(path))}: there is no such file")
    if not path.is_file():
        raise DksmfsError(f"{printable(str(path))}: not a regular file")
    with path.open("rb"):
        pass


def _advertise_all(machine: "Machine[Blocking]", names: list[str]) -> Iterator[Row]:
    for name in names:
        process = machine.process(printable(Path(name).name)[:_LONGEST_NAME])
        with Path(name).open("rb") as file:
            pages = load(process, file.fileno())
        yield advertise(machine, process, printable(name), pages)


def _advertise_programs(
    machine: "Machine[Blocking]", pids: list[int], pattern: str | None
) -> Iterator[Row]:
    from dksmfs.host.programs import advertise_programs

    for row, huge in advertise_programs(machine, pids, pattern):
        name = f"{row.name} ({row.pid})"
        yield Row(name, row.pages, row.scanned, row.merged, row.failed, huge)


def load(process: "Process[Blocking]", descriptor: int) -> int:
    """Map the bytes of an open file as anonymous pages; returns how many pages."""
    try:
        image = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    except ValueError:
        return 0  # an empty file has nothing to map
    with image, memoryview(image) as view:
        return process.mmap(view).pages


def advertise(
    machine: "Machine[Blocking]", process: "Process[Blocking]", name: str, pages: int
) -> Row:
    """Advertise all regions of a process; returns what the counters say of it."""
    huge = sum(mapping.anon_huge_kb for mapping in process.smaps()) // 4
    before = machine.stats
    for region in process.regions:
        region.madvise("mergeable")
    after = machine.stats
    return Row(
        name,
        pages,
        after.pages_scanned - before.pages_scanned,
        after.pages_merged - before.pages_merged,
        after.merging_failed - before.merging_failed,
        huge,
    )


def _total(rows: list[Row]) -> Row:
    sums = (
        sum(getattr(row, column) for row in rows)
        for column in ("pages", "scanned", "merged", "failed", "huge")
    )
    return Row("total", *sums)


def _print(rows: list[Row], as_json: bool) -> None:
    total = _total(rows)
    if as_json:
        print_json({"processes": [_fields(row) for row in rows], "totals": _fields(total)})
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_footer=True)
    table.add_column("process", "total", overflow="fold")
    for column in ("pages", "scanned", "merged", "failed"):
        table.add_column(column, f"{getattr(total, column):,}", justify="right")
    table.add_column("share %", f"{total.share_percent:.1f}", justify="right")
    for row in rows:
        numbers = (f"{n:,}" for n in (row.pages, row.scanned, row.merged, row.failed))
        table.add_row(Text(row.process), *numbers, f"{row.share_percent:.1f}")
    Console(highlight=False).print(table)


def _fields(row: Row) -> dict[str, object]:
    return {**asdict(row), "share_percent": round(row.share_percent, 2)}


def explain(machine: "Machine[Blocking]", rows: list[Row]) -> None:
    """Say why pages were not merged, where the reason can be put right."""
    if not machine.run:
        directory = connection.dksm_directory(machine)
        remark(f"DKSM is stopped, so nothing was scanned; start it: echo 1 > {directory}/run")
    elif any(row.failed for row in rows) and (huge := _total(rows).huge):
        remedy = connection.huge_page_remedy(machine)
        remark(f"{huge:,} pages failed because they are part of huge pages; to avoid it: {remedy}")


def _hold(count: int) -> None:
    with suppress(KeyboardInterrupt):
        remark(f"holding {count} processes; Ctrl-C ends them")
        signal.pause()
