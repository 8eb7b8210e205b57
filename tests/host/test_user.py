"""``dksmfs run`` for ordinary users, in a user namespace."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine
from tests.cli.test_user import OPEN_TO_USERS, in_namespace

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="making a device node needs root"),
]


def test_a_user_runs_a_program(dksmfs: CommandLine, advertise: Path) -> None:
    script = f"""
        echo 1 | sudo tee /sys/kernel/mm/dksm/run
        id -u
        {advertise} 3 20 same together
        cat /sys/kernel/mm/dksm/pages_merged
        exit 5
    """
    real = dksmfs.directory / "bin" / "sudo"  # which would refuse in a user namespace
    real.parent.mkdir(mode=0o755)
    real.write_text("#!/bin/sh\nexit 1\n")
    real.chmod(0o755)
    done = in_namespace(
        dksmfs,
        OPEN_TO_USERS,
        f"PATH={real.parent}:$PATH; cd $XDG_RUNTIME_DIR; set +e; dksmfs run --thp never --json -- "
        f"sh -c '{script}'; echo $?",
    )
    assert done.stdout.split() == ["1", "1000", "59", "5"], done.stderr
    assert json.loads(done.stderr)["totals"]["merged"] == 59


def test_a_device_that_users_may_not_open(dksmfs: CommandLine) -> None:
    done = in_namespace(dksmfs, "mknod -m 600 $NODE c 10 229", "dksmfs run -- true")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "chmod 0666 /dev/fuse" in line
