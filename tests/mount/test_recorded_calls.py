"""Every call that was recorded on the real dksm gives the same on the mounted tree."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mount.limits import ELSEWHERE, RECORDED_LIMITS
from tests.mount.trees import REPOSITORY
from tests.processes import TIMEOUT_S

pytestmark = pytest.mark.mounted

RECORDING = Path(__file__).with_name("sysfs-battery.json.gz")


def recorded_calls() -> list[dict[str, Any]]:
    with gzip.open(RECORDING) as file:
        calls: list[dict[str, Any]] = json.load(file)["calls"]
    return calls


def repeated_calls(recorded: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.mount.recorded", str(directory)],
        input=json.dumps(recorded),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    calls: list[dict[str, Any]] = json.loads(done.stdout)
    return calls


def test_recorded_calls_answer_as_on_the_real_dksm(dksm: Path) -> None:
    recorded = recorded_calls()
    repeated = repeated_calls(recorded, dksm)
    identity = ("group", "call", "uid")
    assert [[each[key] for key in identity] for each in repeated] == [
        [each[key] for key in identity] for each in recorded
    ]
    different = []
    for was, now in zip(recorded, repeated, strict=True):
        expected = {key: value for key, value in was.items() if key != "note"}
        if {key: now.get(key) for key in expected} != expected:
            different.append(was["call"])
    allowed = RECORDED_LIMITS | set(ELSEWHERE)
    assert set(different) <= allowed
    if not os.path.ismount(dksm):
        allowed = {call for call in allowed if "by its path" not in call}
    assert len(different) <= len(allowed)
