"""`dksmfs fault` and `dksmfs log`, as people run them."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine

pytestmark = pytest.mark.mounted

EXPECTED = """\
pages_merged  read: EIO, every 2 uses, 3 times
run  write: EBUSY
run  open: 0.01 s longer
pages_scanned  at most 1 bytes
hashtable_size  reads as 'garbage'
pages_scanned  reads as '18446744073709551615\\n'
hashtable_entries  is frozen
merging_failed  is gone
pages_scanned  DKSM restarts in mid-read
"""


@pytest.fixture
def mounted(dksmfs: CommandLine) -> Path:
    return Path(dksmfs.mount(dksmfs.directory / "dksm")["mountpoint"])


def cat(path: Path) -> str:
    done = subprocess.run(["cat", path], capture_output=True, text=True)
    return done.stdout or done.stderr.rpartition(": ")[2]


def test_faults(dksmfs: CommandLine, mounted: Path) -> None:
    assert dksmfs.succeed("fault") == "no faults; see: dksmfs fault --help\n"
    said = [
        dksmfs.succeed("fault", *arguments.split(" "))
        for arguments in (
            "error pages_merged EIO --every 2 --times 3",
            "error run EBUSY --on write",
            "delay run 0.01 --on open",
            "short pages_scanned 1",
            "text hashtable_size garbage",
            "set pages_scanned 18446744073709551615",
            "freeze hashtable_entries",
            "gone merging_failed",
            "restart pages_scanned",
        )
    ]
    assert "".join(said) == EXPECTED
    assert dksmfs.succeed("fault") == EXPECTED
    listed = json.loads(dksmfs.succeed("fault", "--json"))["faults"]
    assert [fault["kind"] for fault in listed[:3]] == ["error", "error", "delay"]
    assert [cat(mounted / "pages_merged") for _ in range(2)] == ["0\n", "Input/output error\n"]
    assert cat(mounted / "hashtable_size") == "garbage"
    assert cat(mounted / "pages_scanned") == "18446744073709551615\n"
    assert cat(mounted / "merging_failed") == "No such file or directory\n"
    dksmfs.succeed("fault", "clear", "merging_failed")
    assert cat(mounted / "merging_failed") == "0\n"
    dksmfs.succeed("fault", "--instance", mounted, "clear")
    assert dksmfs.succeed("fault", "--instance", mounted).startswith("no faults")
    dksmfs.succeed("fault", "gone", "--instance", mounted)
    with pytest.raises(FileNotFoundError):
        next(mounted.iterdir())
    dksmfs.succeed("umount")


def test_what_is_refused(dksmfs: CommandLine, mounted: Path) -> None:
    assert mounted.is_dir()
    assert dksmfs.fail("fault", "gone", "nothing") == (
        "dksmfs: there is no file nothing in the dksm directory"
    )
    assert dksmfs.fail("fault", "error", "run", "EGGS") == "dksmfs: fault: no errno 'EGGS'"
    assert dksmfs.fail("log") == "dksmfs: the log is off; switch it on: dksmfs log --on"
    dksmfs.succeed("umount")


def test_the_log(dksmfs: CommandLine, mounted: Path) -> None:
    dksmfs.succeed("log", "--on")
    assert cat(mounted / "run") == "0\n"
    accesses = json.loads(dksmfs.succeed("log", "--json"))["accesses"]
    size = accesses[1]["size"]  # it depends on the version of cat
    lines = dksmfs.succeed("log").splitlines()
    assert [line.partition(" cat ")[2] for line in lines] == [
        f"(uid {os.geteuid()}) open run = 0",
        f"(uid {os.geteuid()}) read run 0+{size} = 2",
        f"(uid {os.geteuid()}) read run 2+{size} = 0",
    ]
    assert [access["operation"] for access in accesses] == ["open", "read", "read"]
    dksmfs.succeed("log", "--keep", "1")
    assert len(dksmfs.succeed("log").splitlines()) == 1
    dksmfs.succeed("log", "--off")
    assert "the log is off" in dksmfs.fail("log")
    dksmfs.succeed("umount")


def test_following(dksmfs: CommandLine, mounted: Path) -> None:
    with dksmfs.start("log", "-f", "--json") as following:
        assert following.stdout is not None
        while "the log is off" in dksmfs("log").stderr:
            pass  # until it follows
        (mounted / "run").stat()
        first = json.loads(following.stdout.readline())
        assert [first["operation"], first["file"]] == ["stat", "run"]
        cat(mounted / "pages_merged")
        told = [json.loads(following.stdout.readline()) for _ in range(3)]
        assert [a["operation"] for a in told] == ["open", "read", "read"]
        following.send_signal(signal.SIGINT)
        assert following.wait() == 0
        assert following.stderr is not None
        assert following.stderr.read() == ""
    assert "the log is off" in dksmfs.fail("log")
    dksmfs.succeed("umount")
