"""Test suites of others, run as they run them: by pytest in a process of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.processes import TIMEOUT_S, Started

REPOSITORY = Path(__file__).parents[2]
INSTALLED = any(found.name == "dksmfs" for found in entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "dksmfs.testing.plugin")


class Suite:
    """A directory with the tests of somebody who uses dksmfs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if "PYTEST" not in name},
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
            "TMPDIR": str(self.temporary),
        }

    def write(self, name: str, text: str) -> None:
        """Add a file."""
        (self.directory / name).write_text(text)

    def start(self, *arguments: str) -> Started:
        """Start pytest, and go on."""
        command = [sys.executable, "-m", "pytest", *PLUGIN, "-p", "no:cacheprovider", "-q", "-rA"]
        return Started(
            [*command, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *arguments: str) -> str:
        """Run pytest, which must leave nothing behind, and return what it says."""
        with self.start(*arguments) as process:
            said, _ = process.communicate(timeout=TIMEOUT_S)
        assert self.left() == []
        return said

    def passes(self, *arguments: str) -> str:
        """Run pytest; all tests must pass."""
        said = self.run(*arguments)
        summary = said.splitlines()[-1]
        assert " passed" in summary, said
        assert not any(word in summary for word in ("failed", "error", "skipped", "warning")), said
        return said

    def left(self) -> list[str]:
        """What is left: directories, mounts and processes of this suite."""
        places = [str(path) for path in self.temporary.glob("dksmfs-machine-*")]
        mark = f"TMPDIR={self.temporary}".encode()
        processes = [
            path.parent.name
            for path in Path("/proc").glob("[0-9]*/environ")
            if mark in _content(path).split(b"\0")
        ]
        mounts = [
            line for line in Path("/proc/self/mounts").read_text().splitlines()
            if f"{self.temporary}/" in line
        ]  # fmt: skip
        return [*places, *processes, *mounts]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture
def suite() -> Iterator[Suite]:
    """A directory with a short name: sockets need that."""
    with tempfile.TemporaryDirectory(prefix="dksmfs-suite-", dir="/tmp") as name:
        yield Suite(Path(name))
