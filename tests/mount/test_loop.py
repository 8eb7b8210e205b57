"""The loop that answers the kernel's requests: who has to wait, and who has not."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dksmfs.control.client import connect
from tests.mount.conftest import need_mounts
from tests.mount.trees import directory, mounted

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
    need_mounts()
    with directory() as place:
        socket = place / "socket"
        with mounted(place / "mnt", "--thp", "never", "--socket", str(socket)) as root:
            yield root, socket


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
        with subprocess.Popen(
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
    with subprocess.Popen(
        [sys.executable, "-c", READ_ONCE_MORE, root / "run"], stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout
        reader.stdout.readline()
        with connect(socket) as client:
            for number in range(100):
                assert client.process(f"p{number}").pid == number + 1
        reader.kill()
