"""The loop that answers the kernel's requests: who has to wait, and who has not."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dksmfs.control.blocking import Blocking
from dksmfs.control.client import Machine, connect
from tests.mount.conftest import need_root_and_mounts
from tests.mount.trees import directory, mounted
from tests.processes import Started

pytestmark = pytest.mark.mounted

PAGES = 1 << 18

READ_ONCE_MORE = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
print(flush=True)
while True:
    os.pread(descriptor, 4096, 0)
"""


@pytest.fixture
def machine() -> Iterator[tuple[Path, Path]]:
    """A mounted directory and the socket of its machine, for one test."""
    need_root_and_mounts()
    with directory() as place:
        socket = place / "socket"
        with mounted(place / "mnt", "--thp", "never", "--socket", str(socket)) as root:
            yield root, socket


def advertising_in_the_background(client: Machine[Blocking], fill: str) -> threading.Thread:
    """Advertise so many pages that it takes some time."""
    region = client.process("busy").mmap(pages=PAGES, fill=fill)
    advertising = threading.Thread(target=region.madvise, args=["mergeable"])
    advertising.start()
    return advertising


def test_reads_do_not_wait_for_a_store_that_waits_for_an_advertisement(
    machine: tuple[Path, Path],
) -> None:
    root, socket = machine
    (root / "run").write_text("1")
    seen = set()
    with connect(socket) as client, (root / "run").open("wb", buffering=0) as run:
        region = client.process("busy").mmap(pages=PAGES, fill="index:1")
        advertising = threading.Thread(target=region.madvise, args=["mergeable"])
        storing = threading.Thread(target=run.write, args=[b"0"])
        advertising.start()
        while (root / "pages_scanned").read_text() == "0\n":
            pass
        storing.start()
        while storing.is_alive():
            seen.add(int((root / "pages_scanned").read_text()))
        advertising.join()
    assert len(seen - {0, PAGES}) > 1
    assert (root / "pages_scanned").read_text() == "0\n"


def test_readers_that_are_killed_leave_a_mount_that_answers(machine: tuple[Path, Path]) -> None:
    root, _ = machine
    for _ in range(20):
        with Started(
            [sys.executable, "-c", READ_ONCE_MORE, root / "run"], stdout=subprocess.PIPE
        ) as reader:
            assert reader.stdout
            reader.stdout.readline()
            reader.kill()
        assert (root / "run").read_text() == "0\n"


def test_clients_are_answered_while_the_files_are_read_in_a_loop(
    machine: tuple[Path, Path],
) -> None:
    root, socket = machine
    with Started(
        [sys.executable, "-c", READ_ONCE_MORE, root / "run"], stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout
        reader.stdout.readline()
        with connect(socket) as client:
            for number in range(100):
                assert client.process(f"p{number}").pid == number + 1
        reader.kill()


def test_many_stores_that_wait_leave_readers_alone(machine: tuple[Path, Path]) -> None:
    root, socket = machine
    writers = 120
    (root / "run").write_text("1")
    with connect(socket) as client, ThreadPoolExecutor(writers) as pool:
        advertising = advertising_in_the_background(client, "index:1")
        while (root / "pages_scanned").read_text() == "0\n":
            pass
        stores = [pool.submit((root / "run").write_text, "0") for _ in range(writers)]
        assert int((root / "pages_scanned").read_text()) >= 0
        advertising.join()
        assert [store.result() for store in stores] == [1] * writers
    assert (root / "run").read_text() == "0\n"


def test_requests_of_any_size_get_through(machine: tuple[Path, Path]) -> None:
    root, _ = machine
    with (root / "run").open("wb", buffering=0) as run:
        assert run.write(b"1\n".ljust(1 << 20, b"\0")) == 4096
    assert (root / "run").read_text() == "1\n"
    if os.geteuid() == 0:
        value = bytes(1 << 16)
        os.setxattr(root / "run", "trusted.large", value)
        assert os.getxattr(root / "run", "trusted.large") == value


def test_a_change_of_a_file_shows_at_the_next_look(machine: tuple[Path, Path]) -> None:
    root, _ = machine
    run = root / "run"
    for mode in (0o600, 0o640, 0o644):
        run.chmod(mode)
        os.utime(run, ns=(mode * 10**9 + 1, -(10**9) + 5))
        seen = run.stat()
        assert (stat.S_IMODE(seen.st_mode), seen.st_atime_ns) == (mode, mode * 10**9 + 1)
        assert seen.st_mtime_ns == -(10**9) + 5
        with run.open() as opened:
            assert os.fstat(opened.fileno()).st_mode == seen.st_mode


def test_a_descriptor_that_is_held_shows_every_change_of_its_file(
    machine: tuple[Path, Path],
) -> None:
    root, socket = machine
    run = root / "run"
    with connect(socket) as client, run.open() as opened:
        first = os.fstat(opened.fileno())
        assert os.fstat(opened.fileno()) == first
        os.close(os.open(run, os.O_WRONLY | os.O_TRUNC))
        assert os.fstat(opened.fileno()).st_mtime_ns > first.st_mtime_ns
        run.chmod(0o600)
        assert stat.S_IMODE(os.fstat(opened.fileno()).st_mode) == 0o600
        client.reset()
        assert stat.S_IMODE(os.fstat(opened.fileno()).st_mode) == 0o644


def test_truncating_never_shows(machine: tuple[Path, Path]) -> None:
    root, _ = machine
    run, done = root / "run", threading.Event()

    def look() -> None:
        while not done.is_set():
            run.stat()

    with ThreadPoolExecutor() as pool:
        looking = [pool.submit(look) for _ in range(3)]
        try:
            for _ in range(300):
                descriptor = os.open(run, os.O_WRONLY | os.O_TRUNC)
                assert [os.fstat(descriptor).st_size for _ in range(3)] == [4096] * 3
                os.close(descriptor)
        finally:
            done.set()
        assert [each.result() for each in looking] == [None] * 3


def test_closing_a_directory_leaves_faults_of_open_files_alone(machine: tuple[Path, Path]) -> None:
    root, socket = machine
    with connect(socket) as client, (root / "hashtable_size").open("rb", buffering=0) as opened:
        client.short_read("hashtable_size", 1)
        assert opened.read(100) == b"4"
        assert len(list(root.iterdir())) == 6
        assert opened.read(100) == b"0"


def test_many_who_list_the_directory_during_an_advertisement(machine: tuple[Path, Path]) -> None:
    root, socket = machine
    listers = 400
    (root / "run").write_text("1")
    with connect(socket) as client, ThreadPoolExecutor(listers) as pool:
        advertising = advertising_in_the_background(client, "seed:1")
        listed = [pool.submit(os.listdir, root) for _ in range(listers)]
        assert {len(names.result()) for names in listed} == {6}
        advertising.join()
