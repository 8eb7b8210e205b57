"""Mounts for the tests, each served by a process of its own.

A process must never read a mount that it serves itself: it would wait for its own answer.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.probes.subject import Subject
from tests.mount.trees import directory, mirrored, mounted, untouched
from tests.mounting import need_mounts

KSM = Path("/sys/kernel/mm/ksm")
THP = Path("/sys/kernel/mm/transparent_hugepage")


def need_root_and_mounts() -> None:
    """Skip a test where nothing can be mounted, or where users cannot be changed."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the calls are made as two users")
    need_mounts()


def live(path: Path, names: tuple[str, ...]) -> Path:
    """Return a live directory of sysfs, or skip where this kernel does not have it."""
    missing = [name for name in names if not (path / name).exists()]
    if missing:
        pytest.skip(f"this kernel has no {path}/{missing[0]} to compare with")
    if not os.access(path, os.W_OK) or os.statvfs(path).f_flag & os.ST_RDONLY:
        pytest.skip(f"{path} is read-only here")
    return path


@pytest.fixture(scope="module", params=["dksm", "sys"])
def dksm(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The directory of dksm, mounted alone and as a part of a whole ``/sys``."""
    need_root_and_mounts()
    with directory() as place, mounted(place / "mnt", "--root", request.param) as root:
        yield root if request.param == "dksm" else root / "kernel/mm/dksm"


@pytest.fixture
def fresh_dksm() -> Iterator[Path]:
    """The directory of dksm, mounted alone and for one test only."""
    need_root_and_mounts()
    with directory() as place, mounted(place / "mnt") as root:
        yield root


@pytest.fixture
def ksm() -> Iterator[tuple[Path, Path]]:
    """The live directory of KSM, and a copy of it that is served by our code."""
    with ksm_and_copy() as places:
        yield places


@pytest.fixture(scope="module")
def shared_ksm() -> Iterator[tuple[Path, Path]]:
    """The same for all tests of a module, which leave both as they were."""
    with ksm_and_copy() as places:
        yield places


@contextmanager
def ksm_and_copy() -> Iterator[tuple[Path, Path]]:
    need_root_and_mounts()
    path = live(KSM, ("sleep_millisecs", "full_scans"))
    with untouched(path), mirrored(path) as mirror:
        yield path, mirror


@pytest.fixture
def thp() -> Iterator[tuple[Path, Path]]:
    """The live directory of transparent huge pages, and the simulated one in the same mode."""
    need_root_and_mounts()
    path = live(THP, ("enabled",))
    mode = (path / "enabled").read_text().partition("[")[2].partition("]")[0]
    options = ("--root", "sys", "--thp", mode)
    with untouched(path), directory() as place, mounted(place / "sys", *options) as root:
        yield path, root / "kernel/mm/transparent_hugepage"


KSM_SUBJECT = Subject(writable="sleep_millisecs", readonly="full_scans", one="20", other="317")
THP_SUBJECT = Subject(writable="enabled", readonly="", one="madvise", other="always")
