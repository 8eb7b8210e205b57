"""Advertising the memory of two processes, with more or fewer duplicates.

Compared with real KSM on the same contents, and with a program in C that does nothing but take
the XXH64 of every page and compare every page with another.
"""

import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import daemon, ksm
from benchmarks.contents import MIXES, PAGE_SIZE, Mix, mixed_memory
from benchmarks.core import (
    MissingError,
    Report,
    at_least,
    compiled,
    ending,
    interleaved,
    seconds,
)
from dksmfs.control.client import connect
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.machine import ADVICE, Machine

TIMES_KSM = {"100 % duplicates": 15.0, "zero pages": 15.0}
OF_BOUND = {"100 % duplicates": 0.9, "zero pages": 1.5}

Pair = tuple[int, int]  # the memfds of two processes


def run(quick: bool) -> Report:
    """Measure all mixes."""
    pages, rounds = (8192, 3) if quick else (65536, 5)
    report = Report()
    with ExitStack() as held:
        here = held.enter_context(daemon.place())
        socket = held.enter_context(daemon.running(here)).socket
        has_ksm = _has_ksm(report)
        bound = _bound_program(report, held)
        for mix in MIXES:
            with ExitStack() as started:
                sealed = started.enter_context(mixed_memory(mix, pages, sealed=True))
                written = started.enter_context(mixed_memory(mix, pages, sealed=False))
                both = {"sealed": sealed, "may change": written}
                beside: dict[str, list[float]] = {}
                contestants: dict[str, Callable[[], float]] = {}
                for kind, memory in both.items():
                    contestants[f"engine, {kind}"] = partial(_engine, kind, memory, beside)
                    contestants[f"socket, {kind}"] = partial(_socket, memory, socket)
                if has_ksm:
                    started.enter_context(ksm.fast_ksm())
                    contestants["ksmd"] = partial(_ksmd, sealed, beside)
                if bound is not None:
                    contestants["C"] = started.enter_context(_bound(bound, sealed[1]))
                samples = interleaved(contestants, rounds)
                for kind in both:
                    _tell(report, mix, kind, {**samples, **beside})
                _tell_anchors(report, mix, samples)
    return report


def _has_ksm(report: Report) -> bool:
    try:
        ksm.check_ksm()
    except MissingError as missing:
        report.missing.append(str(missing))
        return False
    return True


def _bound_program(report: Report, held: ExitStack) -> Path | None:
    try:
        program = compiled("page_bound.c")
    except MissingError as missing:
        report.missing.append(str(missing))
        return None
    held.callback(shutil.rmtree, program.parent)
    return program


# What is measured, each in nanoseconds a page


def _engine(kind: str, memory: Pair, beside: dict[str, list[float]]) -> float:
    """The bare engine. What it took to touch the memory and to map it is noted beside it."""
    machine = Machine(thp="never")
    machine.dksm.set_run(1)
    touch_s = map_s = advertise_s = 0.0
    size = os.fstat(memory[0]).st_size
    for descriptor in memory:
        buffer = mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ)
        start = time.perf_counter()
        np.frombuffer(buffer, np.uint8)[::PAGE_SIZE].sum()
        touch_s += time.perf_counter() - start
        process = machine.spawn("benchmark")
        content = StoredContent(memoryview(buffer), stable=kind == "sealed")
        start = time.perf_counter()
        address = machine.mmap(process, size, content=content)
        map_s += time.perf_counter() - start
        start = time.perf_counter()
        machine.madvise(process, address, size, ADVICE["mergeable"])
        advertise_s += time.perf_counter() - start
    beside.setdefault(f"touch, {kind}", []).append(_ns_a_page(touch_s, memory))
    beside.setdefault(f"map, {kind}", []).append(_ns_a_page(map_s, memory))
    return _ns_a_page(advertise_s, memory)


def _socket(memory: Pair, socket: Path) -> float:
    """End to end: mapped and advertised by a client, first touch included."""
    with connect(socket) as client:
        client.set_run(0)
        client.set_run(1)
        processes = [client.process("benchmark") for _ in memory]

        def advertise() -> None:
            for process, descriptor in zip(processes, memory, strict=True):
                process.mmap(memfd=descriptor).madvise("mergeable")

        return _ns_a_page(seconds(advertise), memory)


def _ksmd(memory: Pair, beside: dict[str, list[float]]) -> float:
    """Real KSM, until it has merged; what its first scan took is noted beside it."""
    once_s, twice_s = ksm.scan_seconds(memory)
    beside.setdefault("scan", []).append(_ns_a_page(once_s, memory))
    return _ns_a_page(twice_s, memory)


@contextmanager
def _bound(program: Path, descriptor: int) -> Iterator[Callable[[], float]]:
    pages = os.fstat(descriptor).st_size // PAGE_SIZE
    process = subprocess.Popen(
        [program, str(descriptor), str(pages)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[descriptor],
    )  # fmt: skip
    with ending(process):
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout
        answers.readline()

        def measure() -> float:
            asked.write("\n")
            asked.flush()
            return int(answers.readline().split()[0]) / pages

        yield measure


def _ns_a_page(duration_s: float, memory: Pair) -> float:
    pages = sum(os.fstat(descriptor).st_size for descriptor in memory) / PAGE_SIZE
    return duration_s / pages * 1e9


def _tell(report: Report, mix: Mix, kind: str, samples: dict[str, list[float]]) -> None:
    engine, socket = samples[f"engine, {kind}"], samples[f"socket, {kind}"]
    touch, map_ = samples[f"touch, {kind}"], samples[f"map, {kind}"]
    case = f"{mix.name}, {kind}"
    report.add(case, "engine", "ns/page", engine)
    report.add(case, "first touch of the memory", "ns/page", touch)
    report.add(case, "mmap of the memory", "ns/page", map_)
    report.add(case, "client on the socket: mmap, touch, advertise", "ns/page", socket)
    whole = [sum(parts) for parts in zip(engine, touch, map_, strict=True)]
    report.ratio(
        case, "speed of the socket : the same without it", whole, socket, at_least(0.85)
    )  # fmt: skip
    if "ksmd" in samples:
        wanted = at_least(TIMES_KSM.get(mix.name, 10.0))
        report.ratio(case, "speed of the engine : ksmd", samples["ksmd"], engine, wanted)
        report.ratio(case, "speed of the engine : one scan", samples["scan"], engine)
    if "C" in samples:
        wanted = at_least(OF_BOUND.get(mix.name, 0.55))
        report.ratio(case, "speed of the engine : C", samples["C"], engine, wanted)


def _tell_anchors(report: Report, mix: Mix, samples: dict[str, list[float]]) -> None:
    if "ksmd" in samples:
        report.add(mix.name, "ksmd until merged (two scans)", "ns/page", samples["ksmd"])
    if "C" in samples:
        report.add(mix.name, "XXH64 and memcmp in C", "ns/page", samples["C"])
