"""`dksmfs.machine()`, outside of pytest's fixture."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import dksmfs
from dksmfs.testing import Dksm
from tests.testing.suite import Suite, suite

__all__ = ["suite"]


def test_two_at_once_know_nothing_of_each_other() -> None:
    with dksmfs.machine() as one, dksmfs.machine(thp="always") as other:
        assert one.path != other.path
        one.run = 1
        one.fail("run", "EIO")
        assert (other.path / "run").read_text() == "0\n"
        assert (one.thp, other.thp) == ("never", "always")
        assert other.processes() == []


def test_what_is_left_of_a_machine_is_of_no_use() -> None:
    with dksmfs.machine() as dksm:
        process = dksm.process("vm")
    with dksmfs.machine() as again:
        assert again.process("vm").pid == process.pid
        with pytest.raises(OSError, match="descriptor"):
            process.exit()
        assert len(again.processes()) == 1


def test_threads_share_it(dksm: Dksm) -> None:
    def work(name: str) -> None:
        for _ in range(20):
            with dksm.process(name) as process:
                process.mmap(pages=4, fill="zero").madvise("mergeable")

    dksm.run = 1
    threads = [threading.Thread(target=work, args=(f"vm-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dksm.stats.pages_scanned == 4 * 20 * 4


FORKS = """
import os
import dksmfs

with dksmfs.machine() as dksm:
    first = dksm.path
pid = os.fork()
if pid == 0:
    with dksmfs.machine() as dksm:
        assert dksm.path != first
        assert (dksm.path / "run").read_text() == "0\\n"
    raise SystemExit(0)
assert os.waitpid(pid, 0)[1] == 0
with dksmfs.machine() as dksm:
    assert dksm.path == first
    print("fine")
"""


def test_a_forked_child_has_its_own(suite: Suite) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKS],
        env=suite.environment,
        cwd=suite.directory,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "fine\n", done.stderr
    assert suite.left() == []


def test_the_owner_may_be_any_thread(suite: Suite) -> None:
    program = (
        "import threading, dksmfs\n"
        "def run():\n"
        "    with dksmfs.machine() as dksm:\n"
        "        paths.append(dksm.path)\n"
        "paths = []\n"
        "for _ in range(2):\n"
        "    thread = threading.Thread(target=run)\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "print(len(set(paths)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=suite.environment, capture_output=True, text=True
    )
    assert done.stdout == "1\n", done.stderr
    assert suite.left() == []


def test_other_users_may_look(dksm: Dksm) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: to become another user")
    cat = subprocess.run(
        ["cat", dksm.path / "run"], user=65534, group=65534, extra_groups=[], capture_output=True
    )
    assert cat.stdout == b"0\n"
    assert {a.uid for a in dksm.accesses} == {65534}


def test_what_a_killed_daemon_left_is_cleared_by_the_next(suite: Suite) -> None:
    program = (
        "import os, signal, dksmfs\n"
        "with dksmfs.machine() as dksm:\n"
        "    os.kill(dksm.hello.pid, signal.SIGKILL)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], env=suite.environment, check=False)
    [place] = suite.temporary.glob("dksmfs-machine-*")
    assert f"{place}/sys" in Path("/proc/self/mounts").read_text()
    program = "import dksmfs\nwith dksmfs.machine(): pass\n"
    subprocess.run([sys.executable, "-c", program], env=suite.environment, check=True)
    assert suite.left() == []
