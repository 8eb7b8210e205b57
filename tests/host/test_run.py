"""``dksmfs run`` and ``shell``: what a program sees, and what is left when it ends."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine, wait_for_end
from tests.mounting import need_private_mounts
from tests.processes import Started

pytestmark = pytest.mark.mounted

FILES = sorted(
    [
        "run",
        "pages_scanned",
        "pages_merged",
        "merging_failed",
        "hashtable_entries",
        "hashtable_size",
    ]
)


def test_the_files_are_at_their_path(dksmfs: CommandLine) -> None:
    said = dksmfs.succeed(
        *("run", "--thp", "madvise", "--", "sh", "-c"),
        "cd /sys/kernel/mm; echo 1 > dksm/run; ls dksm; cat dksm/run transparent_hugepage/enabled;"
        "echo never > transparent_hugepage/enabled; cat transparent_hugepage/enabled",
    )
    assert said.splitlines() == [
        *FILES,
        "1",
        "always [madvise] never",
        "always madvise [never]",
    ]


def test_the_rest_of_sys_is_the_real_one(dksmfs: CommandLine) -> None:
    said = dksmfs.succeed(
        "run", "--", "ls", "/sys/kernel/mm", "/sys/kernel/mm/transparent_hugepage"
    )
    real = Path("/sys/kernel/mm")
    for path in (*real.iterdir(), *(real / "transparent_hugepage").glob("*")):
        assert path.name in said.split()
    assert not (real / "dksm").exists()


def test_status_streams_and_arguments_pass(dksmfs: CommandLine) -> None:
    done = subprocess.run(
        dksmfs.command("run", "--", "sh", "-c", 'cat; echo "$@" >&2; exit 7', "-", "--json", "-x"),
        env=dksmfs.environment,
        input="in and out",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "in and out", "--json -x\n")


def test_death_by_a_signal_passes(dksmfs: CommandLine) -> None:
    assert dksmfs("run", "--", "sh", "-c", "kill -ABRT $$").returncode == -signal.SIGABRT


@pytest.mark.parametrize(("command", "status"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_what_cannot_be_run(dksmfs: CommandLine, command: str, status: int) -> None:
    done = dksmfs("run", "--", command)
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"dksmfs: {command}: ")


def test_nothing_to_run(dksmfs: CommandLine) -> None:
    assert "dksmfs run [options] -- CMD" in dksmfs.fail("run", "--on")


def test_sudo_is_there(dksmfs: CommandLine) -> None:
    bare = dksmfs.directory / "bin"
    bare.mkdir()
    for name in ("sh", "tee", "env"):
        (bare / name).symlink_to(f"/bin/{name}")
    dksmfs.environment["PATH"] = str(bare)
    said = dksmfs.succeed(
        "run", "--", "sh", "-c", "echo 1 | sudo -n -u root tee /sys/kernel/mm/dksm/run; sudo env"
    )
    assert said.startswith("1\n")


def test_joining_an_instance(dksmfs: CommandLine) -> None:
    for root in ("dksm", "sys"):
        place = dksmfs.mount("--root", root, "--thp", "never")["mountpoint"]
        below = "" if root == "dksm" else "kernel/mm/dksm"
        script = "echo 1 > /sys/kernel/mm/dksm/run; cat /sys/kernel/mm/transparent_hugepage/enabled"
        said = dksmfs.succeed("run", "--instance", place, "--", "sh", "-c", script)
        assert said == "always madvise [never]\n"
        assert Path(place, below, "run").read_text() == "1\n"
        dksmfs.succeed("umount")


def test_shell(dksmfs: CommandLine) -> None:
    dksmfs.environment["SHELL"] = "/bin/sh"
    done = subprocess.run(
        dksmfs.command("shell"),
        env=dksmfs.environment,
        input="cat /sys/kernel/mm/dksm/hashtable_size; exit 3",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (3, "4096\n")


def test_help_says_that_nothing_is_merged(dksmfs: CommandLine) -> None:
    for command in ("run", "shell"):
        assert "not merged for real" in dksmfs.succeed(command, "--help")


# Ends

FAMILY = """
setsid sh -c 'setsid sleep 1000 & exec sleep 1000' &
echo $$
exec cat > /dev/null
"""


def family(dksmfs: CommandLine) -> Started:
    """Start a program with children, one in a session of its own; it has said its pid."""
    return Started(
        dksmfs.command("run", "--", "sh", "-c", FAMILY),
        env=dksmfs.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):
        return []


def supervisor_of(front: int) -> int:
    (found,) = (pid for pid in children(front) if children(pid))
    return found


def daemon_of(front: int) -> int:
    (found,) = (pid for pid in children(front) if not children(pid))
    return found


def is_supervisor(pid: int) -> bool:
    """Whether this child has children of its own and is no daemon: those have a session, too."""
    return bool(children(pid)) and os.getsid(pid) != pid


def all_of(front: int) -> list[int]:
    below = [pid for child in children(front) for pid in all_of(child)]
    return [front, *below]


def test_what_a_program_leaves_behind_is_ended(dksmfs: CommandLine) -> None:
    with family(dksmfs) as front:
        assert front.stdout is not None
        assert front.stdin is not None
        front.stdout.readline()
        everybody = all_of(front.pid)
        front.stdin.close()
    assert front.returncode == 0
    for pid in everybody:
        wait_for_end(pid)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_everything(dksmfs: CommandLine, sent: signal.Signals) -> None:
    with family(dksmfs) as front:
        assert front.stdout is not None
        front.stdout.readline()
        everybody = all_of(front.pid)
        front.send_signal(sent)
        front.wait(30)  # leaving the block would end the program in another way
    assert front.returncode == -sent
    for pid in everybody:
        wait_for_end(pid)


def test_the_program_outlives_a_killed_supervisor(dksmfs: CommandLine) -> None:
    with family(dksmfs) as front:
        assert front.stdout is not None
        assert front.stdin is not None
        program = int(front.stdout.readline())
        supervisor = supervisor_of(front.pid)
        os.kill(supervisor, signal.SIGKILL)
        wait_for_end(supervisor)
        os.kill(program, 0)
        front.stdin.close()
    assert front.returncode == 0


def test_a_supervisor_killed_at_the_start(dksmfs: CommandLine) -> None:
    """Whatever it had come to, the status is that of the program, or a line says what happened."""
    for _ in range(4):
        with family(dksmfs) as front:
            assert front.stdin is not None
            assert front.stderr is not None
            while not (found := [pid for pid in children(front.pid) if is_supervisor(pid)]):
                assert front.poll() is None
            os.kill(found[0], signal.SIGKILL)
            front.stdin.close()
            said = front.stderr.read()
        early = "dksmfs: the supervisor was killed before the program was started\n"
        assert (front.returncode, said) in [(0, ""), (1, early)]


CALLS = """
import mmap, sys
area = mmap.mmap(-1, 40960, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area[:] = bytes(40960)
for line in sys.stdin:
    try:
        area.madvise(12)
        print("returned", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


@pytest.mark.parametrize("victim", [daemon_of, supervisor_of])
def test_calls_return_whatever_was_killed(
    dksmfs: CommandLine, victim: Callable[[int], int]
) -> None:
    with Started(
        dksmfs.command("run", "--on", "--", sys.executable, "-c", CALLS),
        env=dksmfs.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as front:
        assert front.stdin is not None
        assert front.stdout is not None
        for number in range(3):
            print(file=front.stdin, flush=True)
            said = front.stdout.readline().strip()
            assert said == "returned" or (number and said == os.strerror(38))
            if number == 0:
                killed = victim(front.pid)
                os.kill(killed, signal.SIGKILL)
                wait_for_end(killed)
        front.stdin.close()
    assert front.returncode == 0
    dksmfs.succeed("umount", "--all")  # clears the mount of a killed daemon


def test_terminal(dksmfs: CommandLine) -> None:
    """Ctrl-C reaches the program, and only its own handler decides."""
    script = 'trap "echo caught; exit 9" INT; test -t 0 && echo ready; while read x; do :; done'
    front, terminal = pty.fork()
    if front == 0:
        os.chdir(dksmfs.directory)
        command = dksmfs.command("run", "--", "sh", "-c", script)
        os.execvpe(command[0], command, dksmfs.environment)
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        said = b""
        while b"ready" not in said:
            said += screen.read(100)
        os.write(terminal, b"\x03")
        while b"caught" not in said:
            said += screen.read(100)
        _, status = os.waitpid(front, 0)
    assert os.waitstatus_to_exitcode(status) == 9


# Programs that have the path written into them


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to show it other settings")
def test_sysfsutils_sets_attributes_at_start(dksmfs: CommandLine, tmp_path: Path) -> None:
    if not Path("/etc/init.d/sysfsutils").exists():
        pytest.skip("sysfsutils is not installed")
    need_private_mounts()
    settings = tmp_path / "sysfs.conf"
    settings.write_text(
        "mode kernel/mm/dksm/run = 0664\n"
        "owner kernel/mm/dksm/run = root:adm\n"
        "kernel/mm/dksm/run = 1\n"
        "kernel/mm/transparent_hugepage/enabled = never\n"
    )
    program = dksmfs.command(
        "run", "--", "sh", "-c",
        "/etc/init.d/sysfsutils start > /dev/null; cd /sys/kernel/mm; "
        "cat dksm/run transparent_hugepage/enabled; stat -c '%a %G' dksm/run",
    )  # fmt: skip
    with_settings = 'mount --bind "$0" /etc/sysfs.conf && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", with_settings, settings, *program],
        env=dksmfs.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["1", "always madvise [never]", "664 adm"]
