"""``dksmfs advertise --pid``: programs that run already."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine
from tests.processes import Started

pytestmark = pytest.mark.mounted

PROGRAM = """
import mmap, sys
area = mmap.mmap(-1, 200 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(200):
    area[i * 4096 : i * 4096 + 16] = b"page %9d  " % i
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def running() -> Iterator[Started]:
    with Started(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        program.stdout.readline()
        yield program
        program.stdin.close()


@pytest.fixture
def mounted(dksmfs: CommandLine) -> Iterator[CommandLine]:
    place = dksmfs.mount("--thp", "never")["mountpoint"]
    Path(place, "run").write_text("1")
    yield dksmfs
    dksmfs.succeed("umount")


def test_two_programs_share_pages(mounted: CommandLine) -> None:
    with running() as one, running() as two:
        said = mounted.succeed("advertise", "--json", "--pid", str(one.pid), str(two.pid))
        assert one.poll() is None
    rows = json.loads(said)["processes"]
    assert [row["process"].split()[1] for row in rows] == [f"({one.pid})", f"({two.pid})"]
    assert rows[1]["merged"] >= 200
    assert all(row["pages"] >= row["scanned"] >= 200 for row in rows)


def test_only_some_mappings(mounted: CommandLine) -> None:
    with running() as one:
        said = mounted.succeed("advertise", "--json", "--pid", str(one.pid), "--maps", r"\[stack\]")
    (row,) = json.loads(said)["processes"]
    assert 0 < row["scanned"] < 200


def test_mistakes(mounted: CommandLine) -> None:
    assert "--pid" in mounted.fail("advertise")
    assert "no process 4194304" in mounted.fail("advertise", "--pid", "4194304")
    with running() as one:
        assert "not a regular" in mounted.fail("advertise", "--pid", str(one.pid), "--maps", "(")
