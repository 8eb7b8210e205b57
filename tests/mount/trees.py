"""Live trees of sysfs, trees of our own that are served by another process, and how to compare."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mount.calls import Outcome, opened
from tests.mount.limits import is_limit
from tests.mount.probes.subject import Subject
from tests.processes import TIMEOUT_S, Started

REPOSITORY = Path(__file__).parents[2]
Told = list[tuple[str, Outcome]]


@contextmanager
def directory() -> Iterator[Path]:
    """A directory that every user may enter (pytest's own are closed to others)."""
    with tempfile.TemporaryDirectory(prefix="dksmfs-test-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@contextmanager
def served(command: Sequence[str], mountpoint: Path) -> Iterator[Path]:
    """Have a process serve a mount, from its first line of output until the block ends."""
    mountpoint.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "XDG_RUNTIME_DIR": runtime(mountpoint),
    }
    with Started(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, env=environment
    ) as server:
        try:
            assert server.stdout
            assert server.stdout.readline(), f"{command} did not start"
            yield mountpoint
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(TIMEOUT_S)
            if os.path.ismount(mountpoint):
                subprocess.run(["umount", "-l", mountpoint], check=True)
    assert server.returncode == 0


def runtime(mountpoint: Path) -> str:
    path = mountpoint.with_name(mountpoint.name + "-run")
    path.mkdir(mode=0o700)
    return str(path)


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """Have ``dksmfs mount`` serve a tree at ``place``."""
    socket = place.with_name(place.name + "-socket")
    command = ["dksmfs", "mount", "-f", str(place), "--socket", str(socket), *options]
    with served(command, place) as mountpoint:
        yield mountpoint


@contextmanager
def mirrored(live: Path) -> Iterator[Path]:
    """Have a copy of a live directory, served by our own code."""
    with directory() as place:
        command = ["tests.mount.mirror", str(live), str(place / "mirror")]
        with served(command, place / "mirror") as mountpoint:
            yield mountpoint / live.name


@dataclass(frozen=True, slots=True)
class State:
    """What a test can change of a node of sysfs."""

    mode: int
    owner: tuple[int, int]
    times_ns: tuple[int, int]
    xattrs: tuple[str, ...]
    text: str

    @classmethod
    def of(cls, path: Path) -> "State":
        found = path.stat()
        return cls(
            mode=found.st_mode & 0o7777,
            owner=(found.st_uid, found.st_gid),
            times_ns=(found.st_atime_ns, found.st_mtime_ns),
            xattrs=tuple(os.listxattr(path)),
            text=path.read_text() if path.is_file() and found.st_mode & 0o200 else "",
        )

    def put_back(self, path: Path) -> None:
        os.chown(path, *self.owner)
        path.chmod(self.mode)
        for name in set(os.listxattr(path)) - set(self.xattrs):
            os.removexattr(path, name)
        if self.text and path.read_text() != self.text:
            path.write_text(chosen(self.text))
        os.utime(path, ns=self.times_ns)


@contextmanager
def untouched(live: Path) -> Iterator[None]:
    """Leave a live directory as it was: texts, modes, owners, times, extended attributes.

    There is only one of it, so tests that run at the same time wait for one another.
    """
    nodes = [live, *sorted(path for path in live.iterdir() if path.is_file())]
    with opened(str(live.parent)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = {path: State.of(path) for path in nodes}
        try:
            yield
        finally:
            for path, was in before.items():
                was.put_back(path)
        assert {path: State.of(path) for path in nodes} == before


def chosen(text: str) -> str:
    """Return what to write so that an attribute shows this text: of a choice, the word chosen."""
    return text.partition("[")[2].partition("]")[0] or text


def told(module: str, place: Path, subject: Subject, *arguments: str) -> Told:
    """Run a program of calls in a directory; return its texts and outcomes."""
    done = subprocess.run(
        [sys.executable, "-m", module, str(place), json.dumps(asdict(subject)), *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    answers: Told = json.loads(done.stdout)
    return answers


def differences(live: Told, ours: Told) -> list[str]:
    """Return the calls that two trees answered differently and may not."""
    assert [text for text, _ in live] == [text for text, _ in ours]
    return [
        f"{text}: live {one}, ours {other}"
        for (text, one), (_, other) in zip(live, ours, strict=True)
        if one != other and not is_limit(text)
    ]
