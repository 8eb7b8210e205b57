"""A command line for each test, and a look at what it leaves behind."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine, wait_for_end


@pytest.fixture
def dksmfs() -> Iterator[CommandLine]:
    """A command line that must leave no mount, no process and no file behind."""
    # Not tmp_path: a socket's path may have 107 bytes only.
    line = CommandLine(Path(tempfile.mkdtemp(prefix="dksmfs-test-")))
    line.directory.chmod(0o755)
    yield line
    mounts, processes = line.mounts(), line.processes()
    for process in processes:
        os.kill(process, signal.SIGKILL)
        wait_for_end(process)
    for place in mounts:
        subprocess.run(["umount", "-l", place], check=True)
    files = list((line.runtime / "dksmfs").glob("*"))
    shutil.rmtree(line.directory)
    assert mounts == []
    assert processes == []
    assert files == []
