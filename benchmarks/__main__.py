"""``python -m benchmarks``: run benchmarks and print what they found."""

import argparse
import importlib
import json
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.core import (
    Figure,
    MissingError,
    Report,
    leave_tidily_when_told_to_end,
    machine_name,
)

NAMES = {
    "advertise": "merging memory, against real KSM and against a bound in C",
    "advertise_again": "advertising again what has not changed",
    "cliffs": "situations that must cost little more than the plain one",
    "shortcuts": "what each shortcut of the engine buys",
    "scale": "millions of pages: time and memory a page",
    "mount": "reading the files, against a daemon in C and real sysfs",
    "reads_under_load": "reading the files while clients keep the machine busy",
    "waits": "reading the files while another client asks for very much",
    "socket": "requests, against bare echo servers",
    "start": "the daemon and the machine: start, memory, rest",
    "replay": "all recordings",
}
WIDTH = 132  # columns where the output is no terminal
MODULES = {"socket": "control_socket"}  # no module may shadow one of the standard library


def main() -> int:
    """Run what the command line names, or everything."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure dksmfs beside real anchors; see docs/performance.md.",
        epilog="benchmarks: " + "; ".join(f"{name} ({what})" for name, what in NAMES.items()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (all)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(NAMES)}")
    leave_tidily_when_told_to_end()
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else WIDTH)
    results: dict[str, Any] = {}
    for name in options.names or NAMES:
        start = time.monotonic()
        report = _run(name, options.quick)
        took_s = time.monotonic() - start
        console.print(_table(name, report, took_s))
        for missing in report.missing:
            console.print(f"[bold]not compared:[/] {missing}")
        results[name] = {
            "seconds": took_s,
            "figures": [figure.as_json() for figure in report.figures],
            "missing": report.missing,
        }
    if options.json:
        json.dump(
            {"machine": machine_name(), "quick": options.quick, "results": results}, sys.stdout
        )
        print()
    else:
        console.print(machine_name())
    return 0


def _run(name: str, quick: bool) -> Report:
    module = importlib.import_module(f"benchmarks.{MODULES.get(name, name)}")
    try:
        report: Report = module.run(quick)
    except MissingError as missing:
        return Report(missing=[str(missing)])
    return report


def _table(name: str, report: Report, took_s: float) -> Table:
    table = Table(title=f"{name}: {NAMES[name]}  ({took_s:.0f} s)", title_justify="left")
    table.add_column("case")
    table.add_column("what")
    for column in ("median", "lowest", "highest"):
        table.add_column(column, justify="right")
    table.add_column("unit")
    table.add_column("wanted")
    last = ""
    for figure in report.figures:
        if last and figure.case != last:
            table.add_section()
        table.add_row(
            figure.case if figure.case != last else "",
            figure.what,
            *(_shown(value) for value in (figure.median, *_spread(figure))),
            figure.unit,
            _verdict(figure),
        )
        last = figure.case
    return table


def _spread(figure: Figure) -> tuple[float, float]:
    return min(figure.samples), max(figure.samples)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _verdict(figure: Figure) -> str:
    if figure.wanted is None:
        return ""
    reached = figure.wanted.is_reached(figure.median)
    return f"[green]{figure.wanted} yes[/]" if reached else f"[red]{figure.wanted} no[/]"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
