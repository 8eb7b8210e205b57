"""Starting instances: what is printed, what is there, what goes wrong."""

import json
import os
import shlex
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.cli.command_line import REPOSITORY, CommandLine
from tests.mounting import need_private_mounts
from tests.processes import TIMEOUT_S

pytestmark = pytest.mark.mounted

FILES = {
    "run",
    "pages_scanned",
    "pages_merged",
    "merging_failed",
    "hashtable_entries",
    "hashtable_size",
}


def test_files_can_be_read_when_mount_returns(dksmfs: CommandLine) -> None:
    printed = dict(line.split() for line in dksmfs.succeed("mount").splitlines())
    place = Path(printed["mountpoint"])
    assert place == dksmfs.runtime / "dksmfs" / "dksm"
    assert {path.name for path in place.iterdir()} == FILES
    assert (place / "run").read_text() == "0\n"
    assert (place / "hashtable_size").read_text() == "4096\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(printed["socket"])
        assert "hello" in client.makefile().readline()
    assert stat.S_IMODE(Path(printed["socket"]).stat().st_mode) == 0o600
    dksmfs.succeed("umount")
    assert not place.exists()


def test_json(dksmfs: CommandLine) -> None:
    place = dksmfs.directory / "place"
    started = dksmfs.mount(place)
    assert started["mountpoint"] == str(place)
    assert started["root"] == "dksm"
    assert started["pid"] in dksmfs.processes()
    dksmfs.succeed("umount", place)


def test_the_default_place_in_a_checkout(dksmfs: CommandLine) -> None:
    checkout = dksmfs.directory / "checkout"
    (checkout / "mountpoints").mkdir(parents=True)
    (checkout / "deeper").mkdir()
    (checkout / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text())
    started = json.loads(dksmfs.succeed("mount", "--json", cwd=checkout / "deeper"))
    assert started["mountpoint"] == str(checkout / "mountpoints" / "dksm")
    dksmfs.succeed("umount")
    assert list((checkout / "mountpoints").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="making a directory read-only for all needs root")
def test_the_default_place_in_a_checkout_that_is_read_only(dksmfs: CommandLine) -> None:
    need_private_mounts()
    checkout = dksmfs.directory / "checkout"
    (checkout / "mountpoints").mkdir(parents=True)
    (checkout / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text())
    mount = shlex.join(dksmfs.command("mount", "--json"))
    umount = shlex.join(dksmfs.command("umount"))
    read_only = "mount --bind . . && mount -o remount,bind,ro . && cd . && cd $PWD"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", f"{read_only}; {mount}; {umount}"],
        cwd=checkout,
        env=dksmfs.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mountpoint"] == str(dksmfs.runtime / "dksmfs" / "dksm")


def test_directories_that_were_there_stay_and_others_go(dksmfs: CommandLine) -> None:
    mine = dksmfs.directory / "mine"
    mine.mkdir()
    for place in (mine, dksmfs.directory / "new" / "deep" / "place"):
        dksmfs.mount(place)
        assert (place / "run").exists()
        dksmfs.succeed("umount", place)
    assert list(mine.iterdir()) == []
    assert not (dksmfs.directory / "new").exists()


def test_relative_mountpoint_and_socket(dksmfs: CommandLine) -> None:
    started = dksmfs.mount("place", "--socket", "door")
    assert started["mountpoint"] == str(dksmfs.directory / "place")
    assert started["socket"] == str(dksmfs.directory / "door")
    dksmfs.succeed("umount", "place")
    assert not (dksmfs.directory / "door").exists()


def test_a_whole_sys(dksmfs: CommandLine) -> None:
    place = Path(dksmfs.mount("--root", "sys")["mountpoint"])
    assert {path.name for path in (place / "kernel/mm/dksm").iterdir()} == FILES
    huge = place / "kernel/mm/transparent_hugepage/enabled"
    assert huge.read_text() == "[always] madvise never\n"
    huge.write_text("never")
    assert huge.read_text() == "always madvise [never]\n"
    dksmfs.succeed("umount")


def test_huge_page_mode_at_start(dksmfs: CommandLine) -> None:
    place = Path(dksmfs.mount("--root", "sys", "--thp", "madvise")["mountpoint"])
    enabled = place / "kernel/mm/transparent_hugepage/enabled"
    assert enabled.read_text() == "always [madvise] never\n"
    dksmfs.succeed("umount")


def test_instances_side_by_side(dksmfs: CommandLine) -> None:
    first, second = (Path(dksmfs.mount(name)["mountpoint"]) for name in ("one", "two"))
    (first / "run").write_text("1")
    assert (second / "run").read_text() == "0\n"
    assert "2 instances" in dksmfs.fail("umount")
    dksmfs.succeed("umount", first)
    assert (second / "run").read_text() == "0\n"
    dksmfs.succeed("umount")


def test_the_daemon_holds_nothing_of_its_caller(dksmfs: CommandLine) -> None:
    reader, writer = os.pipe()
    subprocess.run(
        dksmfs.command("mount", "place"),
        env=dksmfs.environment,
        pass_fds=[writer],
        check=True,
        cwd=dksmfs.directory,
        stdout=subprocess.DEVNULL,
    )
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == ""
    (state,) = dksmfs.states()
    pid = state["pid"]
    process = Path("/proc", str(pid))
    assert os.getsid(pid) == pid
    assert (process / "cwd").readlink() == Path("/")
    assert (process / "fd" / "0").readlink() == Path(os.devnull)
    dksmfs.succeed("umount")


# What cannot be mounted


def test_place_in_use(dksmfs: CommandLine) -> None:
    place = dksmfs.mount("place")["mountpoint"]
    (Path(place) / "run").write_text("1")
    line = dksmfs.fail("mount", place)
    assert "already in use" in line
    assert f"dksmfs umount {place}" in line
    assert (Path(place) / "run").read_text() == "1\n"
    dksmfs.succeed("umount")


def test_place_in_use_by_an_instance_that_this_runtime_directory_does_not_know(
    dksmfs: CommandLine,
) -> None:
    place = dksmfs.mount("place")["mountpoint"]
    other = dksmfs.runtime / "other"
    other.mkdir()
    known, dksmfs.environment["XDG_RUNTIME_DIR"] = str(dksmfs.runtime), str(other)
    assert "already in use" in dksmfs.fail("mount", place)
    dksmfs.environment["XDG_RUNTIME_DIR"] = known
    dksmfs.succeed("umount")


def test_place_is_a_file(dksmfs: CommandLine) -> None:
    place = dksmfs.directory / "file"
    place.write_text("mine")
    assert dksmfs.fail("mount", place).endswith(f"cannot mount at {place}: it is not a directory")
    assert place.read_text() == "mine"


def test_place_is_not_empty(dksmfs: CommandLine) -> None:
    place = dksmfs.directory / "full"
    place.mkdir()
    (place / "thesis.tex").write_text("mine")
    line = dksmfs.fail("mount", place)
    assert "not empty" in line
    assert "thesis.tex" in line


def test_place_that_cannot_be_made(dksmfs: CommandLine) -> None:
    line = dksmfs.fail("mount", "/proc/nowhere")
    assert "cannot make the directory /proc/nowhere" in line
    assert dksmfs.states() == []


def test_socket_in_use(dksmfs: CommandLine) -> None:
    path = dksmfs.mount("one")["socket"]
    line = dksmfs.fail("mount", "two", "--socket", path)
    assert f"cannot listen at {path}" in line
    assert "--socket" in line
    assert not (dksmfs.directory / "two").exists()
    dksmfs.succeed("umount")


def test_socket_path_that_is_a_file(dksmfs: CommandLine) -> None:
    (dksmfs.directory / "file").write_text("mine")
    assert "cannot listen" in dksmfs.fail("mount", "--socket", dksmfs.directory / "file")
    assert (dksmfs.directory / "file").read_text() == "mine"


def test_socket_nobody_listens_at_is_replaced(dksmfs: CommandLine) -> None:
    path = dksmfs.directory / "door"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    dksmfs.mount("--socket", path)
    dksmfs.succeed("umount")


def test_socket_path_too_long(dksmfs: CommandLine) -> None:
    line = dksmfs.fail("mount", "--socket", dksmfs.directory / ("x" * 100))
    assert "107" in line
    assert "--socket" in line
