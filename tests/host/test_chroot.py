"""``dksmfs run`` in a chroot, where the root is a directory like any other."""

import os
import shlex
import subprocess

import pytest

from tests.cli.command_line import CommandLine
from tests.mounting import need_private_mounts
from tests.processes import TIMEOUT_S

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root"),
]

SCRIPT = """
mount --make-rshared /
mkdir root
for entry in /*; do
    if [ -L "$entry" ]; then cp -P "$entry" root
    elif [ -d "$entry" ]; then mkdir "root$entry"; mount --rbind "$entry" "root$entry"
    fi
done
cat /proc/self/mounts > before
status=0
chroot root sh -c "$IN_CHROOT" || status=$?
grep -vxFf before /proc/self/mounts || :  # mounts that are left would be printed
exit $status
"""


def test_a_root_that_is_no_mount_point(dksmfs: CommandLine) -> None:
    need_private_mounts()
    program = shlex.join(["sh", "-c", "cat /sys/kernel/mm/dksm/run; pwd; exit 3"])
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", SCRIPT],
        cwd=dksmfs.directory,
        env={
            **dksmfs.environment,
            "IN_CHROOT": f"cd /usr; exec {shlex.join(dksmfs.command('run', '--on'))} -- {program}",
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1\n/usr\n", "", 3)
