"""What each shortcut of the engine buys: every mix with all of them, and without one.

A mix is advertised by two processes, or by a fleet. A shortcut that saves at least a fifth of the
time of some mix earns its place.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from benchmarks.core import Report, at_least, interleaved
from dksmfs.kernel.content.content import Content
from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.machine import ADVICE, SHORTCUTS, Machine, Shortcut
from dksmfs.kernel.units import PAGE_SIZE

AT = 0x10_0000_0000
_WORDS = PAGE_SIZE // 8
Words = npt.NDArray[np.uint64]  # shape (pages, 512)
_RUNS = (8, 64)  # pages of the runs that are shuffled
_FLEET = 16  # processes

Load = Callable[[Machine], float]  # seconds of advertising


def run(quick: bool) -> Report:
    """Measure all mixes with each set of shortcuts."""
    pages, rounds = (2048, 3) if quick else (8192, 5)
    report = Report()
    for name, load in _loads(pages).items():
        contestants = {"all": partial(_measure, load, SHORTCUTS)}
        for left_out in SHORTCUTS:
            others = [shortcut for shortcut in SHORTCUTS if shortcut is not left_out]
            contestants[left_out.__name__] = partial(_measure, load, others)
        contestants["none"] = partial(_measure, load, ())
        samples = interleaved(contestants, rounds)
        for shortcut in SHORTCUTS:
            without = samples[shortcut.__name__]
            report.ratio(name, f"without {shortcut.__name__} : with all", without, samples["all"])
        report.ratio(name, "without any : with all", samples["none"], samples["all"])
    _tell_best(report)
    return report


def _tell_best(report: Report) -> None:
    """Add of each shortcut what it buys on the mix where it buys most."""
    for shortcut in SHORTCUTS:
        what = f"without {shortcut.__name__} : with all"
        best = max((one for one in report.figures if one.what == what), key=lambda one: one.median)
        report.add(
            "the most that it buys", f"{shortcut.__name__}, on {best.case}", "times",
            best.samples, at_least(1.2),
        )  # fmt: skip


def _measure(load: Load, shortcuts: Sequence[Shortcut]) -> float:
    machine = Machine("never", shortcuts=shortcuts)
    machine.dksm.set_run(1)
    return load(machine)


def _loads(pages: int) -> Mapping[str, Load]:
    random = np.random.default_rng(1).integers(0, 1 << 64, (2 * pages, _WORDS), np.uint64)
    one, other = random[:pages], random[pages:]
    some, most = (np.arange(pages) * 61 % 100 < share for share in (50, 90))
    loads: dict[str, Load] = {
        "0 % duplicates": partial(_two, one, other),
        "50 % duplicates": partial(_two, one, np.where(some[:, None], one, other)),
        "90 % duplicates": partial(_two, one, np.where(most[:, None], one, other)),
        "100 % duplicates": partial(_two, one, one),
        "zero pages": partial(_two, np.zeros_like(one), np.zeros_like(one)),
    }
    for length in _RUNS:
        starts = np.random.default_rng(2).permutation(pages // length)
        order = (starts[:, None] * length + np.arange(length)).reshape(-1)
        loads[f"copies in shuffled runs of {length}"] = partial(_two, one, one[order])
    for text in ("zero", "seed:1", "pattern:1"):
        content = parse_content(text)
        loads[f"a fleet of {text}"] = partial(_advertise, [(content, pages)] * _FLEET)
    loads["written page by page"] = partial(_page_by_page, one)
    return loads


def _two(first: Words, second: Words, machine: Machine) -> float:
    contents = [StoredContent(words.tobytes()) for words in (first, second)]
    return _advertise([(content, len(first)) for content in contents], machine)


def _advertise(regions: Sequence[tuple[Content, int]], machine: Machine) -> float:
    """Advertise regions of processes of their own, and again at the end."""
    taken = 0.0
    pids = []
    for content, pages in regions:
        pids.append(machine.spawn("benchmark"))
        machine.mmap(pids[-1], pages * PAGE_SIZE, address=AT, content=content)
        taken += _advertise_region(machine, pids[-1], pages)
    return taken + _advertise_region(machine, pids[0], regions[0][1])


def _page_by_page(words: Words, machine: Machine) -> float:
    pid = machine.spawn("benchmark")
    machine.mmap(pid, len(words) * PAGE_SIZE, address=AT)
    for number, row in enumerate(words):
        machine.write(pid, AT + number * PAGE_SIZE, row.tobytes())
    return _advertise_region(machine, pid, len(words))


def _advertise_region(machine: Machine, pid: int, pages: int) -> float:
    start = time.perf_counter()
    machine.madvise(pid, AT, pages * PAGE_SIZE, ADVICE["mergeable"])
    return time.perf_counter() - start
