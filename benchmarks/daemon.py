"""A daemon of dksmfs for a benchmark: mounted in a directory of its own, and gone afterwards."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.core import MissingError

REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon."""

    pid: int
    mountpoint: Path
    socket: Path


@contextmanager
def place() -> Iterator[Path]:
    """A directory for mount points and sockets; its path is short, as a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="dksmfs-benchmark-", dir="/tmp") as name:
        yield Path(name)


@contextmanager
def running(directory: Path) -> Iterator[Daemon]:
    """Run ``dksmfs mount --thp never`` with everything it has below `directory`."""
    environment = command_environment(directory)
    command = [sys.executable, "-m", "dksmfs", "mount", "--json", "--thp", "never"]
    mounted = subprocess.run(
        [*command, str(directory / "dksm")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        raise MissingError(f"the daemon: {mounted.stderr.strip()}")
    started = json.loads(mounted.stdout)
    try:
        yield Daemon(started["pid"], Path(started["mountpoint"]), Path(started["socket"]))
    finally:
        subprocess.run(
            [sys.executable, "-m", "dksmfs", "umount", started["mountpoint"]],
            env=environment, check=True,
        )  # fmt: skip


def command_environment(directory: Path) -> dict[str, str]:
    """The environment in which commands find this checkout and keep their files in `directory`."""
    runtime = directory / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": path}
