"""Millions of pages: what each costs in time and in bookkeeping, and contents only described."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.contents import PAGE_SIZE
from benchmarks.core import Report, at_least, at_most, seconds
from benchmarks.daemon import REPOSITORY
from dksmfs.kernel.content import parse_content
from dksmfs.kernel.machine import ADVICE, Machine

MILLION = 1 << 20
GIB_PAGES = (1 << 30) // PAGE_SIZE
FLEET_GIB = 1024
_FLEET_LIMIT_S = 4.0


def run(quick: bool) -> Report:
    """Measure each size in a process of its own."""
    report = Report()
    rounds = 1 if quick else 3
    sizes = [MILLION // 4, MILLION] if quick else [MILLION, 4 * MILLION, 16 * MILLION]
    cost: dict[int, list[float]] = {}
    for size in sizes:
        found = [_in_a_process("unique", size) for _ in range(rounds)]
        case = f"{size / MILLION:g} Mi unique pages"
        cost[size] = [one["ns"] for one in found]
        report.add(case, "map and advertise", "ns/page", cost[size])
        report.add(
            case, "bookkeeping", "bytes/page", [one["bytes"] for one in found], at_most(32)
        )  # fmt: skip
    report.ratio(
        f"{sizes[-1] / MILLION:g} Mi : {sizes[0] / MILLION:g} Mi", "cost of a page",
        cost[sizes[-1]], cost[sizes[0]], at_most(1.25),
    )  # fmt: skip
    for text in ("zero", "seed:1", "pattern:1", "index:1"):
        rates = [_in_a_process("described", text, sizes[0]) for _ in range(rounds)]
        report.add(f"described: {text}", "map and advertise", "pages/s", rates, at_least(4e6))
    for text in ("zero", "seed:1"):
        found = [_in_a_process("fleet", text) for _ in range(rounds)]
        report.add(
            f"1 TiB fleet of {text}", "map and advertise, 1 GiB a process", "s", found, at_most(1)
        )  # fmt: skip
    return report


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


def _unique_pages(pages: int) -> Any:
    machine = _machine()
    before = _resident_bytes()
    duration_s = seconds(partial(_advertise, machine, "seed:1", pages))
    assert machine.dksm.hashtable_entries == pages
    return {
        "ns": duration_s / pages * 1e9,
        "bytes": (_resident_bytes() - before) / pages,
    }


def _described(text: str, pages: int) -> float:
    return pages / seconds(partial(_advertise, _machine(), text, pages))


def _fleet(text: str) -> float:
    """Seconds for the whole fleet, as far as it gets within the limit, in proportion."""
    machine = _machine()
    done = 0
    start = time.perf_counter()
    while done < FLEET_GIB and time.perf_counter() - start < _FLEET_LIMIT_S:
        _advertise(machine, text, GIB_PAGES)
        done += 1
    return (time.perf_counter() - start) / done * FLEET_GIB


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * PAGE_SIZE


_MEASURE: dict[str, Callable[..., Any]] = {
    "unique": _unique_pages,
    "described": _described,
    "fleet": _fleet,
}

if __name__ == "__main__":
    _what, *_arguments = json.loads(sys.argv[1])
    print(json.dumps(_MEASURE[_what](*_arguments)))
