"""``dksmfs spawn``, ``ps`` and ``kill``: processes that outlive a command."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dksmfs import connect
from tests.cli.command_line import CommandLine

pytestmark = pytest.mark.mounted

PAGE = 4096


@pytest.fixture
def directory(dksmfs: CommandLine) -> Iterator[Path]:
    """The six files of a running instance, without huge pages and with DKSM on."""
    place = Path(dksmfs.mount("--thp", "never")["mountpoint"])
    (place / "run").write_text("1\n")
    yield place
    dksmfs.succeed("umount")


@pytest.fixture
def socket(dksmfs: CommandLine, directory: Path) -> str:  # noqa: ARG001  # it runs
    """The socket of that instance."""
    found: str = dksmfs.states()[0]["socket"]
    return found


def processes(line: CommandLine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(line.succeed("ps", "--json"))["processes"]
    return found


def names(line: CommandLine) -> list[str]:
    return [process["name"] for process in processes(line)]


def test_processes_outlive_the_command(dksmfs: CommandLine, directory: Path) -> None:
    image = dksmfs.directory / "image"
    image.write_bytes(b"x" * (2 * PAGE + 1))
    dksmfs.succeed("spawn", "vm-1", "--image", image, "--advertise")
    assert dksmfs.succeed("spawn", "vm-2", "--image", image, "--advertise").split() == (
        ["vm-2", "pid", "2,", "3", "pages,", "3", "merged,", "0", "failed"]
    )
    assert (directory / "pages_merged").read_text() == "4\n"
    first = {"pid": 1, "name": "vm-1", "parent": None, "owner": "detached", "rss_pages": 3}
    assert processes(dksmfs) == [first, {**first, "pid": 2, "name": "vm-2"}]
    table = [line.split() for line in dksmfs.succeed("ps").splitlines()]
    assert table == [
        ["PID", "PARENT", "OWNER", "PAGES", "NAME"],
        ["1", "-", "detached", "3", "vm-1"],
        ["2", "-", "detached", "3", "vm-2"],
    ]
    assert dksmfs.succeed("kill", "vm-1") == ""
    assert names(dksmfs) == ["vm-2"]
    dksmfs.succeed("kill", "2")
    assert names(dksmfs) == []


@pytest.mark.usefixtures("directory")
def test_described_pages(dksmfs: CommandLine) -> None:
    spawned = [
        json.loads(dksmfs.succeed("spawn", name, "--pages", "10", "--json", *more))
        for name, more in (
            ("zeros", ["--advertise"]),
            ("zeros too", ["--content", "zero", "--advertise"]),
            ("different", ["--content", "seed:7", "--advertise"]),
            ("silent", ["--content", "seed:7"]),
        )
    ]
    assert [result.get("merged") for result in spawned] == [9, 10, 0, None]
    assert [result["pages"] for result in spawned] == [10] * 4
    dksmfs.succeed("spawn", "idle")
    assert [process["rss_pages"] for process in processes(dksmfs)] == [10, 10, 10, 10, 0]


@pytest.mark.usefixtures("directory")
def test_what_cannot_be_spawned_leaves_nothing(dksmfs: CommandLine) -> None:
    dksmfs.succeed("spawn", "vm")
    for arguments, reason in (
        (["vm"], "a process vm runs already"),
        (["x", "--image", "/nowhere"], "/nowhere: No such file or directory"),
        (["x", "--image", "/"], "/: Is a directory"),
        (["x", "--pages", "9", "--content", "noise"], "content 'noise': expected zero"),
        (["x", "--content", "zero"], "give both"),
        (["x", "--pages", str(1 << 30)], "bytes at once"),
    ):
        assert reason in dksmfs.fail("spawn", *arguments)
    for name in ("", "two\nlines", "\udcff", "x" * 65):
        done = dksmfs("spawn", name)
        assert done.returncode == 2
        assert "printable" in done.stderr
    assert dksmfs("spawn", "x", "--pages", "0").returncode == 2
    assert names(dksmfs) == ["vm"]


def test_processes_of_clients_are_shown_and_not_killed(dksmfs: CommandLine, socket: str) -> None:
    with connect(socket) as machine:
        parent = machine.process("mine")
        parent.mmap(pages=2, fill="zero")
        parent.fork("child")
        found = processes(dksmfs)
        assert [process["owner"] for process in found] == ["other", "other"]
        assert found[1]["parent"] == found[0]["pid"]
        for wrong in ("mine", str(parent.pid)):
            assert "belongs to a client that is connected" in dksmfs.fail("kill", wrong)
        dksmfs.succeed("spawn", "mine")  # a name that a client's process has is free
        dksmfs.succeed("kill", "mine")
    assert names(dksmfs) == []


@pytest.mark.usefixtures("directory")
def test_kill_ends_all_or_none(dksmfs: CommandLine) -> None:
    dksmfs.succeed("spawn", "vm")
    assert "there is no process absent" in dksmfs.fail("kill", "vm", "absent")
    assert names(dksmfs) == ["vm"]
    dksmfs.succeed("kill", "vm", "vm", "1")
    assert names(dksmfs) == []


def test_a_name_that_two_processes_have(dksmfs: CommandLine, socket: str) -> None:
    with connect(socket) as machine:
        first = machine.process("twin", detached=True)
        second = machine.process("twin", detached=True)
    assert f"by its pid: {first.pid}, {second.pid}" in dksmfs.fail("kill", "twin")
    dksmfs.succeed("kill", str(second.pid))
    assert [process["pid"] for process in processes(dksmfs)] == [first.pid]
    dksmfs.succeed("kill", "twin")
