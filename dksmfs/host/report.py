"""What came of the advertisements of real programs: counted, and shown."""

import sys
from dataclasses import asdict, dataclass, field, replace
from typing import IO, Any, Final

PAGE_SIZE: Final = 4096

_COUNTS: Final = ("calls", "pages", "scanned", "merged", "failed", "saved")


@dataclass
class Row:
    """One program in one process. Counts are pages, but for `calls`.

    `pages` are those of the advertised ranges that are mapped; `saved` those that have somebody
    else's frame since, so that DKSM would have freed their own.
    """

    pid: int
    name: str
    calls: int = 0
    pages: int = 0
    scanned: int = 0
    merged: int = 0
    failed: int = 0
    saved: int = 0


@dataclass
class Report:
    """All programs, in the order in which they first advertised."""

    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    """Time spent with calls, while their programs waited."""
    stats: dict[str, int] = field(default_factory=dict)
    """The six files at the end."""

    def totals(self) -> dict[str, int]:
        """The sums of all rows."""
        return {name: sum(getattr(row, name) for row in self.rows) for name in _COUNTS}

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "processes": [_with_bytes(asdict(row)) for row in self.rows],
            "totals": _with_bytes(self.totals()),
            "supervisor_seconds": round(self.seconds, 6),
            "stats": self.stats,
        }


def report_of(said: dict[str, Any]) -> Report:
    """The report that `asdict` made a dictionary of."""
    return replace(Report(**said), rows=[Row(**row) for row in said["rows"]])


def _with_bytes(counts: dict[str, Any]) -> dict[str, Any]:
    return {**counts, "saved_bytes": counts["saved"] * PAGE_SIZE}


def print_report(report: Report, file: IO[str] | None = None) -> None:
    """Print the report for people, on standard error unless told otherwise."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_footer=len(report.rows) > 1)
    totals = report.totals()
    table.add_column("pid", justify="right")
    table.add_column("program", "total", overflow="fold")
    columns = {"calls": "calls", "pages": "advertised", **{n: n for n in _COUNTS[2:5]}}
    for name, title in columns.items():
        table.add_column(title, f"{totals[name]:,}", justify="right")
    table.add_column("saved KiB", f"{totals['saved'] * 4:,}", justify="right")
    for row in report.rows:
        counts = (f"{getattr(row, name):,}" for name in columns)
        table.add_row(str(row.pid), row.name, *counts, f"{row.saved * 4:,}")
    console = Console(file=file or sys.stderr, highlight=False)
    if report.rows:
        console.print(table)
    else:
        console.print("no program advertised memory with madvise(MADV_MERGEABLE)")
    if report.rows:
        console.print(
            f"{report.seconds * 1000:,.1f} ms were spent on these calls. What DKSM would have "
            "saved is computed: the programs' memory was not merged.",
            soft_wrap=True,
        )
