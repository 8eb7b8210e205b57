"""The log of accesses says what programs did, no more and no less."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dksmfs.testing import Access, Dksm
from tests.processes import Started


def told(accesses: list[Access]) -> list[tuple[str, str, int | str]]:
    return [(a.operation, a.file, a.errno or a.result) for a in accesses]


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_cat(dksm: Dksm) -> None:
    began = time.time()
    with Started(["cat", dksm.path / "run"], stdout=subprocess.PIPE) as cat:
        cat.communicate()
    accesses = dksm.accesses
    assert told(accesses) == [("open", "run", 0), ("read", "run", 2), ("read", "run", 0)]
    assert {(a.pid, a.command, a.uid) for a in accesses} == {(cat.pid, "cat", os.geteuid())}
    assert [a.offset for a in accesses] == [0, 0, 2]
    assert all(a.size >= 4096 for a in accesses[1:])
    assert [a.number for a in accesses] == [1, 2, 3]
    assert began <= accesses[0].time <= accesses[-1].time <= time.time()


def test_a_shell_that_writes(dksm: Dksm) -> None:
    subprocess.run(["sh", "-c", "echo 1 > run; echo 7 > run"], cwd=dksm.path, check=False)
    assert told(dksm.accesses) == [
        ("open", "run", 0),
        ("write", "run", 2),
        ("open", "run", 0),
        ("write", "run", "EINVAL"),
    ]


def test_looking_without_opening(dksm: Dksm) -> None:
    (dksm.path / "run").stat()
    assert os.access(dksm.path / "pages_merged", os.R_OK)
    assert dksm.path.is_dir()
    dksm.sys.stat()
    assert not (dksm.path / "pages_shared").exists()
    assert told(dksm.accesses) == [
        ("stat", "run", 0),
        ("stat", "pages_merged", 0),
        ("stat", ".", 0),
        ("stat", "/sys", 0),
        ("stat", "pages_shared", "ENOENT"),
    ]


def test_listing(dksm: Dksm) -> None:
    assert len(list(dksm.path.iterdir())) == 6
    operations = [(a.operation, a.file) for a in dksm.accesses]
    assert operations[0] == ("open", ".")
    assert set(operations[1:]) == {("readdir", ".")}


def test_what_fails(dksm: Dksm) -> None:
    with pytest.raises(PermissionError), opened(dksm.path / "pages_merged", os.O_WRONLY):
        pass
    dksm.fail("run", "EIO", times=1)
    with opened(dksm.path / "run") as run, pytest.raises(OSError, match="Input/output"):
        os.read(run, 10)
    assert told(dksm.accesses)[-2:] == [("open", "run", 0), ("read", "run", "EIO")]
    if os.geteuid() == 0:  # other users' calls are refused by the kernel itself, unseen by a server
        assert ("open", "pages_merged", "EACCES") in told(dksm.accesses)


def test_the_rest_of_sys_has_its_real_name(dksm: Dksm) -> None:
    (dksm.sys / "kernel/mm/transparent_hugepage/enabled").read_text()
    assert {a.file for a in dksm.accesses} == {"/sys/kernel/mm/transparent_hugepage/enabled"}


def test_threads_and_processes_are_told_apart(dksm: Dksm) -> None:
    program = (
        "import sys, threading\n"
        "def read(name):\n"
        "    open(sys.argv[1] + name).read()\n"
        "threads = [threading.Thread(target=read, args=(name,)) for name in ('/run', '/run')]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
    )
    with Started([sys.executable, "-c", program, str(dksm.path)]) as reader:
        reader.wait()
    assert sorted(a.operation for a in dksm.accesses) == ["open"] * 2 + ["read"] * 4
    assert {a.pid for a in dksm.accesses} == {reader.pid}


def test_the_log_is_bounded_and_says_what_it_lost(dksm: Dksm) -> None:
    dksm.log(10)
    with opened(dksm.path / "run") as run:
        for _ in range(100):
            os.pread(run, 10, 0)
    accesses = dksm.accesses
    assert [a.number for a in accesses] == list(range(92, 102))


def test_off_nothing_is_kept(dksm: Dksm) -> None:
    dksm.log(0)
    (dksm.path / "run").read_text()
    assert dksm.accesses == []
    with opened(dksm.path / "run") as run:
        dksm.log()
        os.read(run, 10)
    assert [(a.operation, a.pid, a.command) for a in dksm.accesses] == [("read", None, "?")]


def test_thousands(dksm: Dksm) -> None:
    with opened(dksm.path / "run") as run:
        for _ in range(2500):
            os.pread(run, 10, 0)
    assert len(dksm.accesses) == 2501
