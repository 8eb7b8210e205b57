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
from dksmfs.kernel.content import StoredContent
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
            with mixed_memory(mix, pages) as memory, ExitStack() as started:
                prepared: tuple[list[float], list[float]] = [], []
                scanned: list[float] = []
                contestants: dict[str, Callable[[], float]] = {
                    "engine": partial(_engine, memory, *prepared),
                    "socket": partial(_socket, memory, socket),
                }
                if has_ksm:
                    started.enter_context(ksm.fast_ksm())
                    contestants["ksmd"] = partial(_ksmd, memory, scanned)
                if bound is not None:
                    contestants["C"] = started.enter_context(_bound(bound, memory[1]))
                samples = interleaved(contestants, rounds)
                touched, mapped = prepared
                beside = {"touch": touched, "map": mapped, "scan": scanned}
                _tell(report, mix, {**samples, **beside})
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


def _engine(memory: Pair, touched: list[float], mapped: list[float]) -> float:
    """The bare engine. The other lists get what it took to touch the memory, and to map it."""
    machine = Machine(thp="never")
    machine.dksm.set_run(1)
    touch_s = map_s = advertise_s = 0.0
    size = os.fstat(memory[0]).st_size
    for descriptor in memory:
        buffer = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        start = time.perf_counter()
        np.frombuffer(buffer, np.uint8)[::PAGE_SIZE].sum()
        touch_s += time.perf_counter() - start
        process = machine.spawn("benchmark")
        content = StoredContent(memoryview(buffer), stable=False)
        start = time.perf_counter()
        address = machine.mmap(process, size, content=content)
        map_s += time.perf_counter() - start
        start = time.perf_counter()
        machine.madvise(process, address, size, ADVICE["mergeable"])
        advertise_s += time.perf_counter() - start
    touched.append(_ns_a_page(touch_s, memory))
    mapped.append(_ns_a_page(map_s, memory))
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


def _ksmd(memory: Pair, scanned: list[float]) -> float:
    """Real KSM, until it has merged; `scanned` gets what its first scan took."""
    once_s, twice_s = ksm.scan_seconds(memory)
    scanned.append(_ns_a_page(once_s, memory))
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


def _tell(report: Report, mix: Mix, samples: dict[str, list[float]]) -> None:
    engine, touch, map_ = samples["engine"], samples["touch"], samples["map"]
    report.add(mix.name, "engine", "ns/page", engine)
    report.add(mix.name, "first touch of the memory", "ns/page", touch)
    report.add(mix.name, "mmap of the memory", "ns/page", map_)
    report.add(
        mix.name, "client on the socket: mmap, touch, advertise", "ns/page", samples["socket"]
    )
    whole = [sum(parts) for parts in zip(engine, touch, map_, strict=True)]
    report.ratio(
        mix.name, "speed of the socket : the same without it", whole, samples["socket"],
        at_least(0.85),
    )  # fmt: skip
    if "ksmd" in samples:
        wanted = at_least(TIMES_KSM.get(mix.name, 10.0))
        report.add(mix.name, "ksmd until merged (two scans)", "ns/page", samples["ksmd"])
        report.ratio(mix.name, "speed of the engine : ksmd", samples["ksmd"], engine, wanted)
        report.ratio(mix.name, "speed of the engine : one scan", samples["scan"], engine)
    if "C" in samples:
        wanted = at_least(OF_BOUND.get(mix.name, 0.55))
        report.add(mix.name, "XXH64 and memcmp in C", "ns/page", samples["C"])
        report.ratio(mix.name, "speed of the engine : C", samples["C"], engine, wanted)
