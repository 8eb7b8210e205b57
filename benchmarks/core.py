"""What every benchmark needs: rounds that alternate, figures with their spread, a report.

One number of one machine means little, and two numbers of different minutes mean less. So whatever
is compared takes turns, round after round, and a ratio is taken within each round.
"""

import os
import random
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

ANCHORS = Path(__file__).parent / "anchors"

Samples = Sequence[float]


class MissingError(Exception):
    """Something to compare with cannot be had here; the text says what and why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The value that a figure should reach."""

    limit: float
    at_most: bool = False

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}"

    def is_reached(self, value: float) -> bool:
        """Whether `value` is good enough."""
        return value <= self.limit if self.at_most else value >= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: what was measured, once a round."""

    case: str
    what: str
    unit: str
    samples: Samples
    wanted: Wanted | None = None

    @property
    def median(self) -> float:
        """The figure itself."""
        return statistics.median(self.samples)

    def as_json(self) -> dict[str, Any]:
        """The figure with its rounds."""
        return {
            "case": self.case,
            "what": self.what,
            "unit": self.unit,
            "median": self.median,
            "low": min(self.samples),
            "high": max(self.samples),
            "samples": list(self.samples),
            "wanted": None if self.wanted is None else str(self.wanted),
            "reached": None if self.wanted is None else self.wanted.is_reached(self.median),
        }


@dataclass(slots=True)
class Report:
    """What a benchmark found, and what it could not compare with."""

    figures: list[Figure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(
        self, case: str, what: str, unit: str, samples: Samples, wanted: Wanted | None = None
    ) -> None:
        """Add a figure."""
        self.figures.append(Figure(case, what, unit, samples, wanted))

    def ratio(
        self, case: str, what: str, ours: Samples, other: Samples, wanted: Wanted | None = None
    ) -> None:
        """Add how many times `other` goes into `ours`, round by round."""
        ratios = [one / two for one, two in zip(ours, other, strict=True)]
        self.add(case, what, "times", ratios, wanted)


def at_least(limit: float) -> Wanted:
    """A lower bound."""
    return Wanted(limit)


def at_most(limit: float) -> Wanted:
    """An upper bound."""
    return Wanted(limit, at_most=True)


def interleaved(
    contestants: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Let each contestant run once a round, in an order drawn anew; their values by name.

    Who follows whom matters: a daemon that was busy just now is awake, and on its client's
    processor. Turns that only rotate would always give one of two the same forerunner.
    """
    order = random.Random(0)
    names = list(contestants)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            samples[name].append(contestants[name]())
    return samples


@contextmanager
def one_processor() -> Iterator[None]:
    """Keep this process, and what it starts in the block, on one processor."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compiled(source: str, *flags: str) -> Path:
    """Compile a C program of `anchors/` with gcc -O3; the caller removes its directory."""
    if shutil.which("gcc") is None:
        raise MissingError(f"{source}: gcc is not installed")
    program = Path(tempfile.mkdtemp(prefix="dksmfs-benchmark-"), Path(source).stem)
    command = ["gcc", "-O3", "-o", str(program), str(ANCHORS / source), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(program.parent)
        raise MissingError(f"{source}: {done.stderr.strip().splitlines()[0]}")
    return program


@contextmanager
def ending(process: subprocess.Popen[Any]) -> Iterator[None]:
    """End a process that was started for a block: it is asked first, and then killed."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def leave_tidily_when_told_to_end() -> None:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does: settings and mounts are put back."""

    def leave(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def machine_name() -> str:
    """The processor and the kernel, to go with the figures."""
    model = "unknown processor"
    with open("/proc/cpuinfo") as lines:  # noqa: PTH123
        for line in lines:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    return f"{os.cpu_count()} processors, {model}, Linux {os.uname().release}"
