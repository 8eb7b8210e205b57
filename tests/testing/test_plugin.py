"""The fixture in the test suites of others: private, quick, and gone whatever happens."""

import os
import signal
from pathlib import Path

import pytest

from tests.cli.command_line import wait_for_end
from tests.testing.suite import Suite, suite

__all__ = ["suite"]

EXPORTER = """
import pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        print("dksm_" + path.name, path.read_text().strip())
    except OSError as error:
        print("#", path.name, error.strerror)
"""

PROMISED = """
import errno, subprocess, sys

def test_my_exporter(dksm):
    dksm.run = 1
    with dksm.process("vm-1") as a, dksm.process("vm-2") as b:
        for process in (a, b):
            process.mmap(b"same bytes" * 4096).madvise("mergeable")
        dksm.set("pages_scanned", 2**64 - 1)
        dksm.fail("merging_failed", errno.EIO, times=1)
        exporter = [sys.executable, "exporter.py", str(dksm.path)]
        result = subprocess.run(exporter, capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout == '''\\
dksm_hashtable_entries 5
dksm_hashtable_size 4096
# merging_failed Input/output error
dksm_pages_merged 15
dksm_pages_scanned 18446744073709551615
dksm_run 1
'''
    assert [a.file for a in dksm.accesses if a.operation == "read" and a.result] == [
        "hashtable_entries", "hashtable_size", "merging_failed", "pages_merged", "pages_scanned",
        "run",
    ]
    assert not any(a.operation == "write" for a in dksm.accesses)
"""

PRIVATE = """
import pytest

@pytest.mark.parametrize("round", range({rounds}))
def test_is_as_new(dksm, round):
    assert (dksm.processes(), dksm.stats.pages_scanned, dksm.faults) == ([], 0, [])
    assert dksm.accesses == []
    assert [(dksm.path / "run").read_text(), oct((dksm.path / "run").stat().st_mode)] == [
        "0\\n", "0o100644"
    ]
    (dksm.path / "run").write_text("1")
    (dksm.path / "run").chmod(0o600)
    dksm.vanish("pages_merged")
    process = dksm.process("left behind", detached=True)
    assert process.pid == 1
    process.mmap(pages=100, fill="zero").madvise("mergeable")
    assert dksm.stats.pages_merged == 99
    assert dksm.sys / "kernel/mm/dksm" == dksm.path
    assert dksm.socket.is_socket()

def test_fails(dksm):
    if {fails}:
        raise AssertionError("on purpose")

def test_huge_pages_are_off(dksm):
    assert dksm.thp == "never"

@pytest.mark.dksm(thp="always", log=False)
class TestMarked:
    def test_class(self, dksm):
        enabled = dksm.sys / "kernel/mm/transparent_hugepage/enabled"
        assert enabled.read_text() == "[always] madvise never\\n"
        assert dksm.accesses == []

    @pytest.mark.dksm(thp="madvise")
    def test_method(self, dksm):
        assert dksm.thp == "madvise"
        assert dksm.accesses == []
"""


def test_the_promised_example(suite: Suite) -> None:
    suite.write("exporter.py", EXPORTER)
    suite.write("test_exporter.py", PROMISED)
    suite.passes("--strict-markers", "-W", "error")


@pytest.mark.parametrize("workers", [(), ("-n", "4")])
def test_every_test_has_a_machine_as_new(suite: Suite, workers: tuple[str, ...]) -> None:
    suite.write("test_private.py", PRIVATE.format(rounds=12, fails=False))
    suite.passes("--strict-markers", "-W", "error", *workers)


def test_a_failing_test_leaves_nothing(suite: Suite) -> None:
    suite.write("test_private.py", PRIVATE.format(rounds=2, fails=True))
    assert "1 failed, 5 passed" in suite.run()


def test_suites_that_do_not_use_it_load_nothing(suite: Suite) -> None:
    suite.write(
        "test_other.py",
        "import sys\n"
        "def test_other():\n"
        "    heavy = {'trio', 'numpy', 'pyfuse3', 'msgspec', 'xxhash'} & set(sys.modules)\n"
        "    assert heavy == set()\n",
    )
    suite.passes()


def test_without_fuse_tests_are_skipped_with_the_reason(suite: Suite) -> None:
    suite.write(
        "conftest.py", "from dksmfs.mount import preparation\npreparation.FUSE_DEVICE = '/no/fuse'"
    )
    suite.write("test_private.py", "def test_uses_it(dksm):\n    pass\n")
    reason = "dksm: /no/fuse does not exist; load the module (modprobe fuse)"
    said = suite.run()
    assert "1 skipped" in said
    assert reason in said
    said = suite.run("--dksm-require")
    assert "1 error" in said
    assert reason in said


DAMAGE = """
import os, signal, subprocess

def test_kills_the_daemon(dksm):
    os.kill(dksm.hello.pid, signal.SIGKILL)

def test_unmounts(dksm):
    assert (dksm.path / "run").read_text() == "0\\n"
    subprocess.run(["umount", "-l", str(dksm.sys)], check=True)

def test_leaves_a_child(dksm):
    assert (dksm.path / "run").read_text() == "0\\n"
    global child, kept
    kept = str(dksm.path)
    opened = (dksm.path / "run").open()
    child = subprocess.Popen(["sleep", "100"], stdin=opened, stdout=subprocess.DEVNULL)
    opened.close()

def test_has_a_new_one(dksm):
    assert (dksm.path / "run").read_text() == "0\\n"
    assert str(dksm.path) != kept
    child.kill()
    child.wait()
"""


def test_damaged_machines_are_not_handed_out_again(suite: Suite) -> None:
    suite.write("test_damage.py", DAMAGE)
    suite.passes("-W", "error")


WAITING = """
import subprocess

def test_waits(dksm):
    child = subprocess.Popen(["sleep", "60"], cwd=dksm.path, stdout=subprocess.DEVNULL)
    print("sleep", child.pid, flush=True)
    print("daemon", dksm.hello.pid, flush=True)
    child.wait()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGABRT])
def test_nothing_is_left_when_pytest_is_killed(suite: Suite, number: signal.Signals) -> None:
    suite.write("test_waits.py", WAITING)
    with suite.start("-s", "-p", "no:faulthandler") as process:
        assert process.stdout is not None
        pids: dict[str, int] = {}
        while len(pids) < 2:
            line = process.stdout.readline()
            assert line, "pytest has ended"
            words = line.split()
            if len(words) == 2 and words[0] in ("sleep", "daemon"):
                pids[words[0]] = int(words[1])
        daemon = os.pidfd_open(pids["daemon"])
        process.send_signal(number)
        process.wait()
        wait_for_end(pids["daemon"])
        os.close(daemon)
        if Path(f"/proc/{pids['sleep']}").exists():
            os.kill(pids["sleep"], signal.SIGKILL)
            wait_for_end(pids["sleep"])
    assert suite.left() == []


def test_nothing_is_left_when_pytest_is_killed_before_the_daemon_is_ready(suite: Suite) -> None:
    suite.write(
        "conftest.py",
        "import os, signal\n"
        "from dksmfs.testing import warm\n"
        "def killed(process):\n"
        "    print('daemon', process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "warm._reported = killed\n",
    )
    suite.write("test_one.py", "def test_one(dksm):\n    pass\n")
    with suite.start("-s") as process:
        assert process.stdout is not None
        said = process.stdout.read()
        wait_for_end(int(said.split("daemon ")[1].split()[0]))
    assert suite.left() == []
