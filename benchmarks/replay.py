"""All recordings, in memory, as the command does it."""

import json
import subprocess
import sys
import time

from benchmarks.core import MissingError, Report, at_most
from benchmarks.daemon import REPOSITORY

RECORDINGS = REPOSITORY / "tests" / "recordings"


def run(quick: bool) -> Report:
    """Replay them several times."""
    files = sorted(str(path) for path in RECORDINGS.glob("*.gz"))
    if not files:
        raise MissingError(f"recordings: none in {RECORDINGS}")
    report = Report()
    durations: list[float] = []
    for _ in range(1 if quick else 5):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "dksmfs", "replay", "--json", *files],
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
        )  # fmt: skip
        durations.append(time.perf_counter() - start)
        if not done.stdout:
            raise MissingError(f"replay: {done.stderr.strip()}")
        result = json.loads(done.stdout)
    report.add("all recordings", "replay", "s", durations, at_most(10))
    report.add("all recordings", "steps", "", [result["steps"]])
    report.add("all recordings", "mismatches", "", [result["mismatches"]])
    return report
