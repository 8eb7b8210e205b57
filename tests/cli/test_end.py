"""Ending instances in every way, and what a killed daemon leaves."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine, wait_for_end
from tests.processes import Started

pytestmark = pytest.mark.mounted


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)


def test_umount_returns_when_all_is_gone(dksmfs: CommandLine) -> None:
    started = dksmfs.mount()
    dksmfs.succeed("umount")
    assert dksmfs.mounts() == []
    assert dksmfs.processes() == []
    assert not Path(started["socket"]).exists()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_a_daemon(dksmfs: CommandLine, sent: signal.Signals) -> None:
    started = dksmfs.mount()
    os.kill(started["pid"], sent)
    wait_for_end(started["pid"])
    assert dksmfs.states() == []
    assert not Path(started["mountpoint"]).exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_foreground_ends_cleanly(dksmfs: CommandLine, sent: signal.Signals) -> None:
    with dksmfs.start("mount", "-f") as process:
        assert process.stdout is not None
        place = Path(process.stdout.readline().split()[1])
        assert (place / "run").read_text() == "0\n"
        assert dksmfs.states()[0]["pid"] == process.pid
        process.send_signal(sent)
        _, errors = process.communicate()
    assert process.returncode == 0
    assert errors == ""
    assert not place.exists()


def test_foreground_tells_what_is_wrong(dksmfs: CommandLine) -> None:
    assert "cannot make the directory" in dksmfs.fail("mount", "-f", "/proc/nowhere")


@pytest.mark.parametrize("command", [["fusermount3", "-u"], ["umount"], ["umount", "-l"]])
def test_unmounting_by_other_means_ends_the_daemon(dksmfs: CommandLine, command: list[str]) -> None:
    started = dksmfs.mount()
    subprocess.run([*command, started["mountpoint"]], check=True)
    wait_for_end(started["pid"])
    assert dksmfs.states() == []


def test_clients_and_open_files_do_not_hold_a_daemon_up(dksmfs: CommandLine) -> None:
    started = dksmfs.mount()
    path = Path(started["mountpoint"]) / "run"
    with socket.socket(socket.AF_UNIX) as client, path.open("rb", buffering=0) as file:
        client.connect(started["socket"])
        lines = client.makefile()
        assert "hello" in lines.readline()
        dksmfs.succeed("umount")
        assert lines.readline() == ""
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            file.read()


def test_a_bug_ends_the_daemon_cleanly_and_is_kept_in_its_log(dksmfs: CommandLine) -> None:
    with_a_bug = """
import sys
from dksmfs.cli import main
from dksmfs.mount.operations import SysfsOperations
async def statfs(self, context):
    raise ZeroDivisionError
SysfsOperations.statfs = statfs
sys.exit(main(["mount"]))
"""
    command = [sys.executable, "-c", with_a_bug]
    subprocess.run(command, cwd=dksmfs.directory, env=dksmfs.environment, check=True)
    (state,) = dksmfs.states()
    with pytest.raises(OSError, match="connect"):
        os.statvfs(state["mountpoint"])
    wait_for_end(state["pid"])
    assert dksmfs.states() == []
    assert dksmfs.mounts() == []
    assert "ZeroDivisionError" in Path(state["log"]).read_text()
    Path(state["log"]).unlink()


def test_somebody_who_works_inside_does_not_hold_a_daemon_up(dksmfs: CommandLine) -> None:
    place = dksmfs.mount()["mountpoint"]
    with Started(["cat"], cwd=place, stdin=subprocess.PIPE) as inside:
        dksmfs.succeed("umount")
        inside.communicate()


def test_umount_of_a_stopped_daemon(dksmfs: CommandLine) -> None:
    os.kill(dksmfs.mount()["pid"], signal.SIGSTOP)
    dksmfs.succeed("umount")


def test_umount_all(dksmfs: CommandLine) -> None:
    for name in ("one", "two", "three"):
        dksmfs.mount(name)
    dksmfs.succeed("umount", "--all")
    assert dksmfs.states() == []
    dksmfs.succeed("umount", "--all")


def test_umount_where_nothing_is(dksmfs: CommandLine) -> None:
    assert "dksmfs mount" in dksmfs.fail("umount")
    line = dksmfs.fail("umount", dksmfs.directory)
    assert f"nothing of dksmfs is mounted at {dksmfs.directory}" in line


# Killed daemons


def test_a_killed_daemon_is_shown_as_such(dksmfs: CommandLine) -> None:
    started = dksmfs.mount()
    kill(started["pid"])
    (state,) = dksmfs.states()
    assert state["state"] == "killed"
    assert state["values"] is None
    assert "the next dksmfs mount or umount clears it" in dksmfs.succeed("status")
    dksmfs.succeed("umount")


def test_mounting_again_after_a_kill(dksmfs: CommandLine) -> None:
    started = dksmfs.mount()
    kill(started["pid"])
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        Path(started["mountpoint"]).stat()
    done = dksmfs("mount")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert f"cleared {started['mountpoint']}" in line
    assert Path(started["mountpoint"], "run").read_text() == "0\n"
    assert dksmfs.mounts() == [started["mountpoint"]]
    dksmfs.succeed("umount")


@pytest.mark.parametrize("arguments", [[], ["place"], ["--all"]])
def test_umount_after_a_kill(dksmfs: CommandLine, arguments: list[str]) -> None:
    started = dksmfs.mount("place")
    kill(started["pid"])
    done = dksmfs("umount", *arguments)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert f"cleared {started['mountpoint']}" in line
    assert not Path(started["mountpoint"]).exists()
    assert not Path(started["socket"]).exists()


def test_leftovers_without_instance_file(dksmfs: CommandLine) -> None:
    for command in ("mount", "umount"):
        started = dksmfs.mount("place")
        kill(started["pid"])
        for path in (dksmfs.runtime / "dksmfs").iterdir():
            path.unlink()
        done = dksmfs(command, "place")
        assert done.returncode == 0
        assert "cleared" in done.stderr
        dksmfs.succeed("umount", "--all")
        (dksmfs.directory / "place").rmdir()


def test_a_pid_is_not_trusted(dksmfs: CommandLine) -> None:
    """A killed daemon's pid may belong to another process by now: that one must live."""
    started = dksmfs.mount("place")
    kill(started["pid"])
    (path,) = (dksmfs.runtime / "dksmfs").glob("*.json")
    with Started(["cat"], stdin=subprocess.PIPE) as innocent:
        fields = json.loads(path.read_text())
        path.write_text(json.dumps({**fields, "pid": innocent.pid}))
        dksmfs.succeed("umount", "place")
        assert innocent.poll() is None
        innocent.communicate()
    assert innocent.returncode == 0
