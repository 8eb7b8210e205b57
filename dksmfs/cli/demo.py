"""``dksmfs demo``: what DKSM does, shown on the programs of this machine."""

import argparse
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dksmfs.cli.frame import add_command
from dksmfs.cli.status import read_values

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dksmfs.cli.frame import Subparsers
    from dksmfs.control.blocking import Blocking
    from dksmfs.control.client import Machine, Process
    from dksmfs.instances import Instance

DESCRIPTION = """\
Show in a few seconds what DKSM does: mounts its files, turns it on through them, starts
processes that hold real programs and libraries of this machine, and shows how the values
in the mounted files change while identical pages are merged. Unmounts at the end.

example:
  dksmfs demo
"""

_MACHINES = 4
_LARGEST_IMAGE = 48 << 20  # bytes of programs in one virtual machine: a second or two of merging
_OWN_PAGES = 1500  # pages of data that each virtual machine has for itself
_BAR_WIDTH = 40
_MIB_PAGES = 256  # pages of one MiB


def add_parser(subparsers: "Subparsers") -> None:
    """Register the command."""
    add_command(subparsers, "demo", _run, "see what DKSM does, in a few seconds", DESCRIPTION)


def _run(_: argparse.Namespace) -> int:
    from rich.console import Console

    from dksmfs.cli.temporary import temporary_instance
    from dksmfs.control.client import connect

    console = Console(highlight=False, width=min(Console().width, 100))
    _say(
        console,
        "DKSM is an extension of the Linux kernel that lets processes share memory: when a "
        "process advertises its pages, each one that is identical to a page advertised before "
        "becomes the same page. This machine's kernel need not have it: dksmfs plays its part.",
    )
    with temporary_instance("demo", "sys", "always") as instance:
        with connect(instance.socket) as machine:
            _Demo(console, instance, machine).show()
        _say(console, "Unmounting. Try it yourself: dksmfs mount --help")
    return 0


def _say(console: "Console", text: str) -> None:
    console.print()
    console.print(text, style="bold")


@dataclass(frozen=True)
class _Demo:
    console: "Console"
    instance: "Instance"
    machine: "Machine[Blocking]"

    def show(self) -> None:
        """Go through the life of a machine with DKSM, from starting it to stopping it."""
        self._turn_on()
        images = list(real_images(_LARGEST_IMAGE))
        processes = self._start_virtual_machines(images)
        self._break_sharing(processes[1])
        self._exit(processes)
        self._turn_off()

    def _turn_on(self) -> None:
        directory = self.instance.dksm_directory
        _say(self.console, "A whole /sys is mounted. The six files of DKSM are in it:")
        self.console.print(f"  $ ls {directory}", soft_wrap=True, markup=False)
        self.console.print("  " + "\n  ".join(sorted(path.name for path in directory.iterdir())))
        _say(self.console, "Huge pages do not merge, so they are turned off, and DKSM on:")
        huge_pages = directory.parent / "transparent_hugepage" / "enabled"
        self._write("never", huge_pages)
        self._write("1", directory / "run")

    def _write(self, text: str, file: Path) -> None:
        self.console.print(f"  $ echo {text} > {file}", soft_wrap=True, markup=False)
        file.write_text(f"{text}\n")

    def _start_virtual_machines(self, images: list[Path]) -> "list[Process[Blocking]]":
        from rich.live import Live

        names = ", ".join(path.name for path in images[:5])
        more = f" and {len(images) - 5} more" if len(images) > 5 else ""
        _say(
            self.console,
            f"{_MACHINES} virtual machines start. Each holds the same programs and libraries "
            f"({names}{more}) and {_OWN_PAGES:,} pages of its own. The files, read as each of "
            "them has advertised its pages:",
        )
        processes = []
        columns: dict[str, dict[str, int]] = {}
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            for number in range(1, _MACHINES + 1):
                process = self.machine.process(f"vm-{number}")
                processes.append(process)
                process.mmap(pages=_OWN_PAGES, fill=f"seed:{number}").madvise("mergeable")
                for path in images:
                    process.mmap(path.read_bytes(), prot="r").madvise("mergeable")
                    columns[process.name] = read_values(self.instance.dksm_directory)
                    if self.console.is_terminal:
                        live.update(_table(columns), refresh=True)
        self.console.print(_table(columns))
        self._bar()
        return processes

    def _break_sharing(self, process: "Process[Blocking]") -> None:
        _say(self.console, "A process that writes to a shared page gets a copy of its own:")
        region = process.regions[1]
        region.mprotect("rw")
        before = region.pagemap(length=1)
        region.write(offset=0, data=b"changed")
        after = region.pagemap(length=1)
        self.console.print(
            f"  {process.name} wrote to its first page: page frame {before[0]} became {after[0]}"
        )

    def _exit(self, processes: "list[Process[Blocking]]") -> None:
        _say(
            self.console,
            "Two of them exit. What they shared lives on as long as somebody maps it; entries "
            "of pages that are gone stay in the table until they are looked up, or DKSM is off:",
        )
        for process in processes[:2]:
            process.exit()
        self._show_values("two exited")
        self._bar()

    def _turn_off(self) -> None:
        _say(
            self.console,
            "Turning DKSM off forgets all advertised pages, and counts from 0. Pages that are "
            "merged stay merged:",
        )
        self._write("0", self.instance.dksm_directory / "run")
        self._show_values("DKSM is off")
        self._bar()

    def _show_values(self, moment: str) -> None:
        self.console.print(_table({moment: read_values(self.instance.dksm_directory)}))

    def _bar(self) -> None:
        """Draw the memory that the processes see, and the part of it that is really there."""
        mappings = [
            mapping
            for process in self.machine.processes()
            for mapping in self.machine.attach(process.pid).smaps()
        ]
        seen = sum(mapping.rss_kb for mapping in mappings) // 4
        real = sum(mapping.pss_kb for mapping in mappings) // 4
        filled = round(_BAR_WIDTH * real / seen)
        self.console.print(
            f"  [green]{'█' * filled}[/][dim]{'░' * (_BAR_WIDTH - filled)}[/]  "
            f"{seen // _MIB_PAGES} MiB in {real // _MIB_PAGES} MiB: "
            f"{100 - 100 * real // seen} % saved"
        )


def _table(columns: dict[str, dict[str, int]]) -> "Table":
    """The six values, a row each, at some moments, a column each."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2))
    table.add_column("")
    for moment in columns:
        table.add_column(moment, justify="right")
    for file in next(iter(columns.values())):
        table.add_row(file, *(f"{values[file]:,}" for values in columns.values()))
    return table


def real_images(limit_bytes: int) -> Iterator[Path]:
    """Programs and libraries that this machine surely has, up to `limit_bytes` in all: a shell,
    what this very process is made of, and some well-known programs."""
    wanted = [shutil.which(name) for name in ("bash", "sh", "perl", "tar", "git", "gcc")]
    maps = Path("/proc/self/maps").read_text().splitlines()
    loaded = [line.split(maxsplit=5)[5] for line in maps if line.endswith(".so") or ".so." in line]
    candidates = dict.fromkeys(
        Path(name).resolve() for name in (*wanted, sys.executable, *loaded) if name
    )
    for path in candidates:
        if path.is_file() and path.stat().st_size <= limit_bytes:
            limit_bytes -= path.stat().st_size
            yield path
