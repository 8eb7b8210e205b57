"""What ``dksmfs status`` tells."""

import os
import signal
from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine

pytestmark = pytest.mark.mounted


def test_nothing_runs(dksmfs: CommandLine) -> None:
    assert "dksmfs mount" in dksmfs.succeed("status")
    assert dksmfs.states() == []


@pytest.mark.parametrize("root", ["dksm", "sys"])
def test_values_come_from_the_files(dksmfs: CommandLine, root: str) -> None:
    started = dksmfs.mount("place", "--root", root)
    below = "kernel/mm/dksm" if root == "sys" else ""
    Path(started["mountpoint"], below, "run").write_text("1")
    (state,) = dksmfs.states()
    assert state["state"] == "running"
    assert {name: state[name] for name in started} == started
    assert state["values"] == {
        "run": 1,
        "pages_scanned": 0,
        "pages_merged": 0,
        "merging_failed": 0,
        "hashtable_entries": 0,
        "hashtable_size": 4096,
    }
    text = dksmfs.succeed("status")
    assert text.startswith(started["mountpoint"])
    assert started["socket"] in text
    assert "hashtable_size     4096\n" in text
    dksmfs.succeed("umount")


def test_a_stopped_daemon_does_not_hang_it(dksmfs: CommandLine) -> None:
    dksmfs.mount("awake")
    pid = dksmfs.mount("asleep")["pid"]
    os.kill(pid, signal.SIGSTOP)
    states = {Path(state["mountpoint"]).name: state for state in dksmfs.states()}
    assert states["asleep"]["state"] == "not answering"
    assert states["asleep"]["values"] is None
    assert states["awake"]["values"]["hashtable_size"] == 4096
    os.kill(pid, signal.SIGCONT)
    dksmfs.succeed("umount", "--all")
