"""Instance files, and what a lock says about them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dksmfs.errors import DksmfsError, NoInstanceError
from dksmfs.instances import (
    Instance,
    claimed,
    instance_path,
    records,
    running_instances,
    runtime_directory,
    sole_instance,
)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield tmp_path / "dksmfs"
    assert list((tmp_path / "dksmfs").iterdir()) == []


def instance(mountpoint: str) -> Instance:
    return Instance(pid=0, mountpoint=mountpoint, socket=f"{mountpoint}.sock", root="dksm")


def test_a_claimed_instance_runs() -> None:
    with claimed(instance("/place")) as mine:
        assert mine.pid == os.getpid()
        assert running_instances() == [mine]
        assert sole_instance() == mine
    assert running_instances() == []


def test_one_mount_point_is_claimed_once() -> None:
    with claimed(instance("/place")) as mine:
        with pytest.raises(DksmfsError, match="/place is already in use"), claimed(mine):
            pass
        assert running_instances() == [mine]


def test_same_names_in_different_places_are_different_instances() -> None:
    with claimed(instance("/a/dksm")), claimed(instance("/b/dksm")):
        assert len(running_instances()) == 2
        with pytest.raises(NoInstanceError, match="/a/dksm, /b/dksm"):
            sole_instance()


def test_no_instance() -> None:
    with pytest.raises(NoInstanceError, match="dksmfs mount"):
        sole_instance()


def test_a_file_without_lock_is_a_dead_instance() -> None:
    path = instance_path("/place")
    with claimed(instance("/place")) as mine:
        text = path.read_text()
    path.write_text(text)
    (record,) = records()
    assert (record.instance, record.alive) == (mine, False)
    assert running_instances() == []
    with claimed(instance("/place")):
        assert running_instances() == [mine]


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_a_file_that_is_no_instance_file_is_none(text: str) -> None:
    path = instance_path("/place")
    path.write_text(text)
    assert records() == []
    path.unlink()


def test_runtime_directory_is_private(runtime: Path) -> None:
    assert runtime_directory() == runtime
    assert runtime.stat().st_mode & 0o777 == 0o700
    runtime.chmod(0o770)
    with pytest.raises(DksmfsError, match="0700"):
        runtime_directory()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away needs root")
def test_runtime_directory_of_somebody_else(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    os.chown(runtime, 1000, 1000)
    with pytest.raises(DksmfsError, match="your own"):
        runtime_directory()
