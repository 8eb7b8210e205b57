"""Millions of pages: what each costs in time and in bookkeeping, and contents only described."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import daemon
from benchmarks.contents import PAGE_SIZE
from benchmarks.core import Report, at_least, at_most, seconds
from benchmarks.daemon import REPOSITORY
from dksmfs.control.client import connect
from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.machine import ADVICE, Machine

MILLION = 1 << 20
GIB_PAGES = (1 << 30) // PAGE_SIZE
FLEET_GIB = 1024


def run(quick: bool) -> Report:
    """Measure each size in a process of its own."""
    report = Report()
    rounds = 1 if quick else 3
    sizes = [MILLION, 4 * MILLION] if quick else [MILLION, 4 * MILLION, 16 * MILLION]
    cost: dict[int, list[float]] = {}
    for size in sizes:
        case = f"{size / MILLION:g} Mi unique pages"
        cost[size] = [_in_a_process("unique", size) for _ in range(rounds)]
        report.add(case, "map and advertise", "ns/page", cost[size])
        books = [_daemon_bytes(size) / size for _ in range(rounds)]
        report.add(case, "memory of a daemon", "bytes/page", books, at_most(32))
    report.ratio(
        f"{sizes[-1] / MILLION:g} Mi : {sizes[0] / MILLION:g} Mi", "cost of a page",
        cost[sizes[-1]], cost[sizes[0]], at_most(1.25),
    )  # fmt: skip
    for text in ("zero", "seed:1", "pattern:1", "index:1"):
        rates = [_in_a_process("described", text, sizes[0]) for _ in range(rounds)]
        report.add(f"described: {text}", "map and advertise", "pages/s", rates, at_least(4e6))
    for text in ("zero", "seed:1", "pattern:1"):
        found = [_in_a_process("fleet", text) for _ in range(rounds)]
        report.add(
            f"1 TiB fleet of {text}", "map and advertise, 1 GiB a process", "s", found, at_most(1)
        )  # fmt: skip
    return report


def _daemon_bytes(pages: int) -> int:
    """What a daemon takes when it has tracked so many unique pages, beyond what it takes idle."""
    with ExitStack() as held:
        started = held.enter_context(daemon.running(held.enter_context(daemon.place())))
        client = held.enter_context(connect(started.socket))
        client.set_run(1)
        before = _resident_bytes(started.pid)
        for seed in range(pages // MILLION):
            region = client.process("benchmark").mmap(pages=MILLION, fill=f"seed:{seed}")
            region.madvise("mergeable")
        return _resident_bytes(started.pid) - before


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_SIZE


def _in_a_process(what: str, *arguments: object) -> Any:
    """Measure in a process of its own, whose memory nobody else has used before."""
    command = [sys.executable, "-m", "benchmarks.scale", json.dumps([what, *arguments])]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def _machine() -> Machine:
    machine = Machine(thp="never")
    machine.dksm.set_run(1)
    return machine


def _advertise(machine: Machine, text: str, pages: int) -> None:
    process = machine.spawn("benchmark")
    address = machine.mmap(process, pages * PAGE_SIZE, content=parse_content(text))
    machine.madvise(process, address, pages * PAGE_SIZE, ADVICE["mergeable"])


def _unique_pages(pages: int) -> float:
    machine = _machine()
    duration_s = seconds(partial(_advertise, machine, "seed:1", pages))
    assert machine.dksm.hashtable_entries == pages
    return duration_s / pages * 1e9


def _described(text: str, pages: int) -> float:
    return pages / seconds(partial(_advertise, _machine(), text, pages))


def _fleet(text: str) -> float:
    machine = _machine()

    def advertise() -> None:
        for _ in range(FLEET_GIB):
            _advertise(machine, text, GIB_PAGES)

    return seconds(advertise)


_MEASURE: dict[str, Callable[..., Any]] = {
    "unique": _unique_pages,
    "described": _described,
    "fleet": _fleet,
}

if __name__ == "__main__":
    _what, *_arguments = json.loads(sys.argv[1])
    print(json.dumps(_MEASURE[_what](*_arguments)))
