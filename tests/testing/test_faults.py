"""Faults in the mounted files: what a program finds, and for how long."""

import errno
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dksmfs.control.rehearsing import GARBAGE
from dksmfs.testing import Dksm, Fault
from tests.processes import Started

SIX = [
    "hashtable_size",
    "merging_failed",
    "hashtable_entries",
    "pages_scanned",
    "run",
    "pages_merged",
]
SWITCH = "/sys/kernel/mm/transparent_hugepage/enabled"


def outcome(call: Callable[[], object]) -> str:
    """The name of the errno of a call that failed, or else what it returned."""
    try:
        return str(call())
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def reads(path: Path, count: int) -> list[str]:
    return [outcome(path.read_text) for _ in range(count)]


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.mark.parametrize("name", ["EIO", "EAGAIN", "ENODEV", "EACCES", "ENOMEM"])
def test_a_read_fails_with_any_errno(dksm: Dksm, name: str) -> None:
    dksm.fail("pages_merged", name)
    cat = subprocess.run(["cat", dksm.path / "pages_merged"], capture_output=True, text=True)
    assert cat.returncode == 1
    assert os.strerror(getattr(errno, name)) in cat.stderr
    assert outcome((dksm.path / "pages_scanned").read_text) == "0\n"


def test_a_read_that_is_interrupted_is_tried_again(dksm: Dksm) -> None:
    dksm.fail("run", "EINTR", times=3)
    assert (dksm.path / "run").read_text() == "0\n"
    results = [a.errno or a.result for a in dksm.accesses if a.operation == "read"]
    assert results == ["EINTR", "EINTR", "EINTR", 2, 0]


def test_n_times_and_every_kth(dksm: Dksm) -> None:
    dksm.fail("run", errno.EIO, times=2)
    assert reads(dksm.path / "run", 4) == ["EIO", "EIO", "0\n", "0\n"]
    assert dksm.faults == []
    dksm.fail("run", errno.EIO, every=3)
    assert reads(dksm.path / "run", 7) == ["0\n", "0\n", "EIO", "0\n", "0\n", "EIO", "0\n"]
    dksm.clear_faults("run")
    dksm.fail("run", errno.EIO, every=2, times=2)
    assert reads(dksm.path / "run", 6) == ["0\n", "EIO", "0\n", "EIO", "0\n", "0\n"]


def test_until_cleared(dksm: Dksm) -> None:
    dksm.fail("run", "EIO")
    dksm.fail("pages_scanned", "EIO")
    assert [fault.file for fault in dksm.faults] == ["run", "pages_scanned"]
    dksm.clear_faults("run")
    assert [reads(dksm.path / file, 2) for file in ("run", "pages_scanned")] == [
        ["0\n", "0\n"],
        ["EIO", "EIO"],
    ]
    dksm.clear_faults()
    assert reads(dksm.path / "pages_scanned", 1) == ["0\n"]


def test_open_and_write_fail(dksm: Dksm) -> None:
    run = dksm.path / "run"
    dksm.fail("run", "EMFILE", operation="open", times=1)
    assert reads(run, 2) == ["EMFILE", "0\n"]
    dksm.fail("run", "EBUSY", operation="write", every=2)
    assert [outcome(lambda: run.write_text("1")) for _ in range(2)] == ["1", "EBUSY"]
    assert dksm.run == 1


def test_a_store_that_fails_changes_nothing(dksm: Dksm) -> None:
    dksm.fail("run", "EIO", operation="write")
    assert outcome(lambda: (dksm.path / "run").write_text("1")) == "EIO"
    assert dksm.stats.run == 0


def test_a_delay(dksm: Dksm) -> None:
    dksm.delay("run", 0.2, times=1)
    began = time.monotonic()
    with Started(["cat", dksm.path / "run"], stdout=subprocess.PIPE) as cat:
        assert (dksm.path / "pages_scanned").read_text() == "0\n"  # nobody else waits
        assert cat.communicate()[0] == "0\n"
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("log", [True, False])
def test_who_is_delayed_can_be_killed(dksm: Dksm, log: bool) -> None:
    dksm.log(10 if log else 0)
    dksm.delay("run", 3000)
    with Started(["cat", dksm.path / "run"]) as cat:
        with pytest.raises(subprocess.TimeoutExpired):
            cat.wait(0.1)
        cat.kill()
        assert cat.wait(10) == -9


def test_a_delay_ends_when_it_is_cleared(dksm: Dksm) -> None:
    for clear in (dksm.clear_faults, dksm.reset):
        dksm.delay("run", 3000, times=1)
        with Started(["cat", dksm.path / "run"], stdout=subprocess.PIPE) as cat:
            while dksm.faults:
                pass  # until it has begun
            clear()
            assert cat.communicate(timeout=10)[0] == "0\n"


def test_short_reads(dksm: Dksm) -> None:
    dksm.set("pages_scanned", 12345)
    dksm.short_read("pages_scanned", 2, times=1)
    opened = os.open(dksm.path / "pages_scanned", os.O_RDONLY)
    try:
        assert [os.read(opened, 100) for _ in range(4)] == [b"12", b"34", b"5\n", b""]
        os.lseek(opened, 0, os.SEEK_SET)
        assert os.read(opened, 100) == b"12345\n"
    finally:
        os.close(opened)


def test_empty_garbage_and_enormous(dksm: Dksm) -> None:
    path = dksm.path / "pages_merged"
    dksm.empty("pages_merged", times=1)
    assert path.read_bytes() == b""
    assert path.read_bytes() == b"0\n"
    dksm.garbage("pages_merged")
    assert path.read_bytes() == GARBAGE.encode("latin-1")
    dksm.garbage("pages_merged", "9" * 4000)
    assert path.read_bytes() == b"9" * 4000
    dksm.set("pages_merged", -1)
    assert path.read_bytes() == b"-1\n"
    assert dksm.stats.pages_merged == 0


def test_a_number_that_is_frozen(dksm: Dksm) -> None:
    dksm.run = 1
    process = dksm.process("vm")
    process.mmap(pages=10, fill="zero").madvise("mergeable")
    dksm.freeze("pages_merged")
    process.mmap(pages=10, fill="zero").madvise("mergeable")
    assert (dksm.path / "pages_merged").read_text() == "9\n"
    assert (dksm.path / "pages_scanned").read_text() == "20\n"
    assert dksm.stats.pages_merged == 19
    dksm.clear_faults()
    assert (dksm.path / "pages_merged").read_text() == "19\n"


def test_a_file_that_is_gone(dksm: Dksm) -> None:
    path = dksm.path / "merging_failed"
    with path.open() as opened:
        dksm.vanish("merging_failed")
        assert outcome(opened.read) == "ENODEV"
    assert outcome(path.read_text) == "ENOENT"
    assert not path.exists()
    assert sorted(names(dksm.path)) == sorted({*SIX} - {"merging_failed"})
    dksm.reappear("merging_failed")
    assert path.read_text() == "0\n"
    assert names(dksm.path) == SIX


def test_a_kernel_without_dksm(dksm: Dksm) -> None:
    dksm.vanish()
    assert not dksm.path.exists()
    assert outcome((dksm.path / "run").read_text) == "ENOENT"
    assert names(dksm.sys / "kernel/mm") == ["transparent_hugepage"]
    shell = subprocess.run(["cat", "run"], cwd=dksm.sys, capture_output=True)
    assert shell.returncode == 1
    dksm.reappear()
    assert names(dksm.path) == SIX


def test_the_directory_goes_while_somebody_is_in_it(dksm: Dksm) -> None:
    directory = os.open(dksm.path, os.O_RDONLY)
    try:
        dksm.vanish()
        assert outcome(lambda: os.open("run", os.O_RDONLY, dir_fd=directory)) == "ENOENT"
        assert outcome(lambda: os.stat("run", dir_fd=directory)) == "ENOENT"
        assert os.listdir(directory) == []  # noqa: PTH208 (an open one)
    finally:
        os.close(directory)


def test_a_reset_in_mid_read(dksm: Dksm) -> None:
    dksm.run = 1
    dksm.process("vm").mmap(pages=1000, fill="zero").madvise("mergeable")
    dksm.reset_in_mid_read("pages_scanned")
    opened = os.open(dksm.path / "pages_scanned", os.O_RDONLY)
    try:
        assert os.read(opened, 1) == b"1"
        assert os.read(opened, 10) == b"000\n"  # what was shown stays as it was
    finally:
        os.close(opened)
    assert (dksm.path / "pages_merged").read_text() == "0\n"
    assert (dksm.path / "run").read_text() == "1\n"


def test_the_huge_page_switch_too(dksm: Dksm) -> None:
    dksm.set(SWITCH, "[always] never")
    switch = dksm.sys / "kernel/mm/transparent_hugepage/enabled"
    assert switch.read_text() == "[always] never\n"
    dksm.clear_faults(SWITCH)
    assert switch.read_text() == "always madvise [never]\n"


def test_refused(dksm: Dksm) -> None:
    with pytest.raises(FileNotFoundError, match="no_such_file"):
        dksm.fail("no_such_file", "EIO")
    with pytest.raises(IsADirectoryError, match="can only be gone"):
        dksm.freeze(".")
    cases: list[tuple[str, Callable[[], object]]] = [
        ("no errno", lambda: dksm.fail("run", "EWHATEVER")),
        ("times", lambda: dksm.fail("run", "EIO", times=0)),
        ("every", lambda: dksm.fail("run", "EIO", every=0)),
        ("size", lambda: dksm.short_read("run", 0)),
        ("delay_s", lambda: dksm.delay("run", -1)),
        ("a byte", lambda: dksm.garbage("run", "€")),
        ("4095", lambda: dksm.garbage("run", "9" * 4096)),
        ("no operation", lambda: dksm.fail("run", "EIO", operation="close")),  # type: ignore[arg-type]
        ("until it is cleared", lambda: Fault(kind="gone", file="run", times=1)),
        ("about reading", lambda: Fault(kind="text", file="run", operation="open")),
    ]
    for message, nonsense in cases:
        with pytest.raises(ValueError, match=message):
            nonsense()
    assert dksm.faults == []


def test_the_same_over_the_socket_for_everybody(dksm: Dksm) -> None:
    from dksmfs import connect

    with connect(dksm.socket) as other:
        other.fail("run", "EIO", times=1)
        assert dksm.faults == [Fault(kind="error", file="run", errno="EIO", times=1)]
    assert reads(dksm.path / "run", 2) == ["EIO", "0\n"]
