"""Ordinary users, and machines without a usable ``/dev/fuse``.

Each test runs a script in a private mount namespace with a ``/dev/fuse``, an ``/etc`` and a dksmfs
of its own: what the machine has of these, and whom it lets look at them, makes no difference.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.cli.command_line import REPOSITORY, CommandLine
from tests.mounting import need_private_mounts
from tests.processes import TIMEOUT_S

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="making a device node needs root"),
]

USER = 1000
ETC = Path("/etc")


def in_namespace(
    dksmfs: CommandLine,
    device: str,
    script: str,
    *,
    name: str | None = "somebody",
    rights: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run ``script`` as a user with this name, or none, and more ``rights`` than others.

    ``device`` is the command that makes the node ``$NODE``.
    """
    need_private_mounts()
    node = dksmfs.directory / "fuse"
    etc = own_etc(dksmfs, name)
    prologue = (
        f"{device.replace('$NODE', str(node))}; mount --bind {node} /dev/fuse; "
        f"mount --bind {etc} {ETC}"
    )
    # The interpreter or the repository may lie below a directory like /root, closed to users.
    rights = ",".join(filter(None, ["+dac_read_search", rights]))
    search = f"--inh-caps {rights} --ambient-caps {rights}"
    identity = f"--reuid {USER} --regid {USER} --clear-groups {search}"
    as_user = f'exec setpriv {identity} sh -ec "$SCRIPT"'
    os.chown(dksmfs.runtime, USER, USER)
    try:
        return subprocess.run(
            ["unshare", "-m", "sh", "-ec", f"{prologue}; {as_user}"],
            cwd=dksmfs.directory,
            env={
                **dksmfs.environment,
                "PYTHONPATH": str(own_package(dksmfs)),
                "SCRIPT": f'dksmfs() {{ {shlex.join(dksmfs.command())} "$@"; }}\n{script}',
            },
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    finally:
        os.chown(dksmfs.runtime, 0, 0)


def own_etc(dksmfs: CommandLine, name: str | None) -> Path:
    """Make a copy of /etc in which the user has this name, or none, and nothing that is asked for
    is missing."""
    etc = dksmfs.directory / "etc"
    subprocess.run(["cp", "-aT", ETC, etc], check=True)
    passwd, mtab = etc / "passwd", etc / "mtab"
    others = re.sub(rf"^[^:]*:[^:]*:{USER}:.*\n", "", passwd.read_text(), flags=re.MULTILINE)
    passwd.write_text(("" if name is None else f"{name}:x:{USER}:{USER}::/:/bin/sh\n") + others)
    mtab.unlink(missing_ok=True)
    mtab.symlink_to("/proc/self/mounts")
    return etc


def own_package(dksmfs: CommandLine) -> Path:
    """Make a copy of dksmfs that every user may read."""
    place = dksmfs.directory / "package"
    if not place.exists():
        place.mkdir(mode=0o755)
        subprocess.run(["cp", "-r", REPOSITORY / "dksmfs", place], check=True)
        subprocess.run(["chmod", "-R", "go=u-w", place], check=True)
    return place


OPEN_TO_USERS = "mknod -m 666 $NODE c 10 229"


def test_an_ordinary_user_mounts_and_unmounts(dksmfs: CommandLine) -> None:
    done = in_namespace(
        dksmfs,
        OPEN_TO_USERS,
        "dksmfs mount; cat $XDG_RUNTIME_DIR/dksmfs/dksm/hashtable_size; dksmfs status; "
        "dksmfs umount; dksmfs status",
    )
    assert done.returncode == 0, done.stderr
    assert "\n4096\n" in done.stdout
    assert "state              running" in done.stdout
    assert done.stdout.endswith("no instance is running; start one with: dksmfs mount\n")


def test_an_ordinary_user_clears_what_a_killed_daemon_left(dksmfs: CommandLine) -> None:
    done = in_namespace(
        dksmfs,
        OPEN_TO_USERS,
        """
        for again in mount umount; do
            dksmfs mount
            pid=$(dksmfs status --json | sed -n 's/.*"pid": \\([0-9]*\\).*/\\1/p')
            kill -9 $pid
            while grep -q '^State:.[^Z]' /proc/$pid/status; do :; done 2> /dev/null
            dksmfs $again
            dksmfs umount --all
        done
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cleared ") == 2


def test_a_place_that_is_not_the_users(dksmfs: CommandLine) -> None:
    (dksmfs.directory / "roots").mkdir()
    for place in (dksmfs.directory / "roots", dksmfs.directory / "new"):
        done = in_namespace(dksmfs, OPEN_TO_USERS, f"dksmfs mount {place}")
        (dksmfs.directory / "fuse").unlink()
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert str(place) in line


def test_a_device_that_users_may_not_open(dksmfs: CommandLine) -> None:
    done = in_namespace(dksmfs, "mknod -m 600 $NODE c 10 229", "dksmfs mount")
    assert done.returncode == 1
    assert "no access to /dev/fuse (mode 0600)" in done.stderr
    assert "chmod 0666 /dev/fuse" in done.stderr


def test_a_user_without_a_name(dksmfs: CommandLine) -> None:
    done = in_namespace(dksmfs, OPEN_TO_USERS, "dksmfs mount", name=None)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"uid {USER} has no entry in /etc/passwd" in line
    assert "useradd" in line


def test_a_user_without_a_name_who_may_mount(dksmfs: CommandLine) -> None:
    script = "dksmfs mount; cat $XDG_RUNTIME_DIR/dksmfs/dksm/run; dksmfs umount"
    done = in_namespace(dksmfs, OPEN_TO_USERS, script, name=None, rights="+sys_admin")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n0\n")


def test_a_path_without_the_system(dksmfs: CommandLine) -> None:
    done = in_namespace(dksmfs, OPEN_TO_USERS, "PATH=/nowhere; dksmfs mount; dksmfs umount")
    assert done.returncode == 0, done.stderr


def test_a_root_that_may_not_mount(dksmfs: CommandLine) -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-sys_admin", *dksmfs.command("mount")],
        env=dksmfs.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "CAP_SYS_ADMIN" in line


def test_no_device(dksmfs: CommandLine) -> None:
    need_private_mounts()
    command = shlex.join(dksmfs.command("mount"))
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", f"mount -t tmpfs none /dev; {command}"],
        cwd=dksmfs.directory,
        env=dksmfs.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "/dev/fuse does not exist" in line
    assert "modprobe fuse" in line
