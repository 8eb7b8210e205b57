"""The path of the control socket."""

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dksmfs.errors import DksmfsError
from dksmfs.mount.listening import LONGEST_PATH, listening


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory, "socket")


def test_it_is_private_and_goes_with_the_block(path: Path) -> None:
    with listening(str(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_a_living_socket_is_left_alone(path: Path) -> None:
    with listening(str(path)):
        with pytest.raises(DksmfsError, match="in use"), listening(str(path)):
            pass
        assert path.exists()


def test_a_full_backlog_is_no_sign_of_death(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(DksmfsError, match="in use"), listening(str(path)):
            pass


def test_a_dead_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listening(str(path)):
        pass
    assert not path.exists()


def test_what_took_its_place_is_not_removed(path: Path) -> None:
    with listening(str(path)):
        path.unlink()
        path.write_text("mine")
    assert path.read_text() == "mine"


def test_the_longest_path(path: Path) -> None:
    longest = path.with_name("x" * (LONGEST_PATH - len(os.fsencode(path.parent)) - 1))
    with listening(str(longest)):
        assert longest.exists()
    with pytest.raises(DksmfsError, match="108 bytes"), listening(f"{longest}x"):
        pass


def test_a_directory_that_is_not_there(path: Path) -> None:
    with pytest.raises(DksmfsError, match="No such file"), listening(str(path / "socket")):
        pass
