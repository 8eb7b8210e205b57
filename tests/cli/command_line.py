"""The real command line, in processes of its own, with a runtime directory of its own."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processes import TIMEOUT_S, Started

REPOSITORY = Path(__file__).parents[2]


class CommandLine:
    """Runs ``dksmfs`` as a person in ``directory`` would, outside of any checkout."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runtime = directory / "run"
        self.runtime.mkdir(mode=0o700)
        self.environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "PYTHONPATH": str(REPOSITORY),
        }

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "dksmfs", *map(str, arguments)]

    def __call__(
        self, *arguments: str | Path, cwd: Path | None = None, timeout_s: float = TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=cwd or self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def succeed(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Run a command that has to succeed, and return what it printed."""
        done = self(*arguments, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fail(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Run a command that has to fail with one line on standard error; return that line."""
        done = self(*arguments, cwd=cwd)
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        return line

    def mount(self, *arguments: str | Path) -> dict[str, Any]:
        """Mount, and return what ``--json`` says."""
        started: dict[str, Any] = json.loads(self.succeed("mount", "--json", *arguments))
        return started

    def start(self, *arguments: str | Path) -> Started:
        """Start a command and go on."""
        return Started(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def states(self) -> list[dict[str, Any]]:
        """Return the instances of ``status --json``."""
        instances: list[dict[str, Any]] = json.loads(self.succeed("status", "--json"))["instances"]
        return instances

    def mounts(self) -> list[str]:
        """Return the mount points below the directory of this test."""
        table = Path("/proc/self/mounts").read_text().splitlines()
        places = [line.split()[1] for line in table]
        return [place for place in places if place.startswith(f"{self.directory}/")]

    def processes(self) -> list[int]:
        """Return the pids of all processes that were started here and still live."""
        mark = f"XDG_RUNTIME_DIR={self.runtime}".encode()
        return [
            int(directory.name)
            for directory in Path("/proc").iterdir()
            if directory.name.isdigit() and mark in _environment(directory)
        ]


def _environment(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def wait_for_end(process: int) -> None:
    """Return when the process has ended."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    ready, _, _ = select.select([descriptor], [], [], TIMEOUT_S)
    os.close(descriptor)
    assert ready, f"process {process} has not ended"


@contextmanager
def command_line() -> Iterator[CommandLine]:
    """A command line that must leave no mount, no process and no file behind."""
    # Not tmp_path: a socket's path may have 107 bytes only.
    line = CommandLine(Path(tempfile.mkdtemp(prefix="dksmfs-test-")))
    line.directory.chmod(0o755)
    try:
        yield line
    finally:
        mounts, processes = line.mounts(), line.processes()
        for process in processes:
            os.kill(process, signal.SIGKILL)
            wait_for_end(process)
        for place in mounts:
            subprocess.run(["umount", "-l", place], check=True)
        files = list((line.runtime / "dksmfs").glob("*"))
        shutil.rmtree(line.directory)
    assert mounts == []
    assert processes == []
    assert files == []
