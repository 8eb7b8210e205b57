"""``dksmfs record``: a session becomes a file that ``dksmfs replay`` accepts."""

import gzip
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dksmfs import connect
from tests.cli.command_line import CommandLine

pytestmark = pytest.mark.mounted

CLIENT = """
import os, fcntl
from dksmfs import connect

with connect() as machine:
    with machine.process("first") as a, machine.process("second") as b:
        image = os.urandom(300_000)
        regions = [process.mmap(image, prot="rw") for process in (a, b)]
        for region in regions:
            region.madvise("mergeable")
        regions[1].write(offset=4000, data=b"changed" * 30)
        regions[0].read(offset=5, length=10_000)
        child = b.fork("child")
        try:
            child.range(regions[1].address - 4096, 8192).madvise("mergeable")
        except OSError:
            pass
        memory = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.write(memory, image[:100_000])
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        a.mmap(memfd=memory).madvise("mergeable")
        machine.thp = "always"
        b.mmap(pages=1024, fill="zero").madvise("mergeable")
"""


@pytest.fixture
def directory(dksmfs: CommandLine) -> Iterator[Path]:
    """The six files of a running instance."""
    yield Path(dksmfs.mount("--thp", "never")["mountpoint"])
    dksmfs.succeed("umount")


def recorded(path: Path) -> dict[str, Any]:
    scenario: dict[str, Any] = json.loads(path.read_bytes())
    return scenario


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_client_and_a_shell_replayed_in_memory_and_mounted(
    dksmfs: CommandLine, directory: Path
) -> None:
    session = f"""
        echo 1 > {directory}/run
        {shlex.join([sys.executable, "-c", CLIENT])}
        {shlex.join(dksmfs.command("spawn", "vm", "--image", "/bin/ls", "--advertise"))}
        echo nonsense > {directory}/run || true
        echo 0 > {directory}/run
        printf 1 > {directory}/run
        {shlex.join(dksmfs.command("advertise", "/bin/ls"))}
    """
    path = dksmfs.directory / "bug.jsonl"
    done = dksmfs("record", path, "--", "sh", "-ec", session)
    assert done.returncode == 0, done.stderr
    assert f"steps recorded; see: dksmfs replay {path}" in done.stderr
    scenario = recorded(path)
    assert scenario["name"] == "bug"
    assert "note" not in scenario
    operations = [step["op"] for step in scenario["steps"]]
    assert {"spawn", "mmap", "madvise", "madvise_raw", "write", "store", "load", "fork", "exit",
            "thp", "stats", "sharing", "contents"} == set(operations)  # fmt: skip
    assert all("result" in step for step in scenario["steps"])
    for how in ([], ["--mounted"]):
        summary = json.loads(dksmfs.succeed("replay", "--json", *how, path))
        assert summary["steps"] == len(operations)
        assert (summary["mismatches"], summary["unchecked"]) == (0, 0)


def test_until_interrupted(dksmfs: CommandLine, directory: Path) -> None:
    path = dksmfs.directory / "session.jsonl.gz"
    with dksmfs.start("record", path) as process:
        assert process.stderr is not None
        assert "Ctrl-C ends it" in process.stderr.readline()
        (directory / "run").write_text("1\n")
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 0
    steps = json.loads(gzip.decompress(path.read_bytes()))["steps"]
    assert [step["op"] for step in steps] == ["stats", "write", "stats", "stats"]
    assert dksmfs.succeed("replay", path) == "scenarios: 1, steps: 4, mismatches: 0\n"
    assert names(dksmfs.directory) == ["run", path.name]


def test_the_exit_status_is_that_of_the_command(dksmfs: CommandLine, directory: Path) -> None:
    path = dksmfs.directory / "bug.jsonl"
    for script, status in (("exit 7", 7), ("kill -9 $$", 137)):
        assert dksmfs("record", path, "--", "sh", "-c", script).returncode == status
        assert recorded(path)["name"] == "bug"
    assert directory.exists()


@pytest.mark.usefixtures("directory")
def test_an_interrupted_command_is_recorded_to_its_end(dksmfs: CommandLine) -> None:
    path = dksmfs.directory / "bug.jsonl"
    script = "trap 'exit 3' INT; echo ready; while :; do sleep 0.1; done"
    with dksmfs.start("record", path, "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for pid in dksmfs.processes():  # as a terminal does: to all of the group
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"record" in command or b"trap" in command:
                os.kill(pid, signal.SIGINT)
        process.communicate()
    assert process.returncode == 3
    assert recorded(path)["steps"]


def test_what_stands_in_the_way_is_told(dksmfs: CommandLine, directory: Path) -> None:
    path = dksmfs.directory / "bug.jsonl"
    path.write_text("an older one")
    dksmfs.succeed("spawn", "vm")
    assert "1 run (vm): end them first" in dksmfs.fail("record", path)
    dksmfs.succeed("kill", "vm")
    (directory / "run").write_text("1\n")
    dksmfs.succeed("advertise", "/bin/ls")
    assert "write 0 to the file run first" in dksmfs.fail("record", path, "--", "true")
    assert "No such file" in dksmfs.fail("record", "/nowhere/bug.jsonl")
    (directory / "run").write_text("0\n")
    assert "nowhere-to-be-found" in dksmfs.fail("record", path, "--", "nowhere-to-be-found")
    assert path.read_text() == "an older one"
    assert names(dksmfs.directory) == ["bug.jsonl", "run"]


@pytest.mark.usefixtures("directory")
def test_one_that_is_killed_leaves_the_daemon_ready_for_another(dksmfs: CommandLine) -> None:
    with dksmfs.start("record", "bug.jsonl") as process:
        assert process.stderr is not None
        process.stderr.readline()
        assert "already" in dksmfs.fail("record", "other.jsonl")
        process.kill()
        process.communicate()
    # The daemon notices on its own; any request of ours comes after that.
    with connect(dksmfs.states()[0]["socket"]) as machine:
        assert machine.stats.run == 0
    assert dksmfs("record", "other.jsonl", "--", "true").returncode == 0


@pytest.mark.usefixtures("directory")
def test_injected_restarts_are_recorded_and_a_reset_has_to_wait(dksmfs: CommandLine) -> None:
    client = """
import os
from dksmfs import connect

with connect() as machine, machine.process("p") as process:
    machine.run = 1
    process.mmap(pages=20, fill="seed:1").madvise("mergeable")
    machine.reset_in_mid_read("pages_scanned")
    descriptor = os.open(machine.hello.mountpoint + "/pages_scanned", os.O_RDONLY)
    os.read(descriptor, 1)
    os.read(descriptor, 1)
    assert machine.stats.pages_scanned == 0, machine.stats
    try:
        machine.reset()
    except OSError as error:
        print(error.strerror)
"""
    done = dksmfs("record", "bug.jsonl", "--", sys.executable, "-c", client)
    assert (done.returncode, done.stdout) == (
        0,
        "EBUSY: a recording is on its way: end that one first\n",
    ), done.stderr
    steps = recorded(dksmfs.directory / "bug.jsonl")["steps"]
    assert [step["data"] for step in steps if step["op"] == "write"] == ["1\n", "0\n", "1\n"]
    assert dksmfs.succeed("replay", "bug.jsonl").endswith("mismatches: 0\n")


def test_what_cannot_be_recorded_is_said(dksmfs: CommandLine, directory: Path) -> None:
    assert directory.exists()
    with connect(dksmfs.states()[0]["socket"]) as machine:
        machine.mkfile("old", pages=1)
    client = """
from dksmfs import connect
with connect() as machine, machine.process("p") as process:
    process.mmap(pages=1, kind="file-shared", file="old")
"""
    done = dksmfs("record", "bug.jsonl", "--", sys.executable, "-c", client)
    assert done.returncode == 0
    assert "the recording ended early: the file 'old' is older" in done.stderr
    assert dksmfs.succeed("replay", "bug.jsonl").endswith("mismatches: 0\n")
