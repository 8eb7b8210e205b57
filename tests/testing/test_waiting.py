"""Waiting for the machine, in threads and in trio, without sleeping."""

import subprocess
import sys
import threading

import pytest
import trio

import dksmfs
from dksmfs.testing import Dksm
from tests.processes import Started


def test_what_is_so_already(dksm: Dksm) -> None:
    assert dksm.wait_for(lambda s: s.run == 0, timeout=5).pages_scanned == 0


def test_what_another_client_does(dksm: Dksm) -> None:
    program = (
        "import sys, dksmfs\n"
        "with dksmfs.connect(sys.argv[1]) as machine, machine.process('vm') as vm:\n"
        "    machine.run = 1\n"
        "    vm.mmap(pages=65, fill='zero').madvise('mergeable')\n"
        "    sys.stdin.read()\n"
    )
    with Started(
        [sys.executable, "-c", program, str(dksm.socket)], stdin=subprocess.PIPE
    ) as client:
        assert dksm.wait_for(lambda s: s.pages_merged >= 64, timeout=30).pages_merged == 64
        client.communicate()
    assert dksm.processes() == []


def test_what_is_written_to_the_files(dksm: Dksm) -> None:
    reached = []
    waiting = threading.Thread(
        target=lambda: reached.append(dksm.wait_for(lambda s: s.run == 1, timeout=30).run)
    )
    waiting.start()
    (dksm.path / "run").write_text("1")
    waiting.join()
    assert reached == [1]


def test_in_vain(dksm: Dksm) -> None:
    with pytest.raises(TimeoutError, match=r"not within 0\.01 seconds; the last values: Stats"):
        dksm.wait_for(lambda s: s.run == 1, timeout=0.01)
    assert dksm.run == 0


def test_in_trio(dksm: Dksm) -> None:
    async def main() -> int:
        async with await dksmfs.connect_trio(dksm.socket) as machine:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(machine.set_run, 1)
                stats = await machine.wait_for(lambda s: s.run == 1, timeout=30)
            with pytest.raises(TimeoutError):
                await machine.wait_for(lambda s: s.run == 0, timeout=0.01)
            await machine.fail("run", "EIO", times=1)
            assert len(await machine.faults) == 1
            return stats.run

    assert trio.run(main) == 1
