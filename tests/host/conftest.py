"""Programs to run: compiled here, and scripts."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import dksmfs

__all__ = ["dksmfs"]


@pytest.fixture(scope="session", params=["dynamic", "static"])
def advertise(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A compiled program that forks children which advertise pages."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    source = Path(__file__).with_name("advertise.c")
    flags = ["-static"] if request.param == "static" else []
    # Not pytest's own directory: every run of pytest closes that to other users.
    with tempfile.TemporaryDirectory(prefix="dksmfs-test-") as directory:
        Path(directory).chmod(0o755)
        program = Path(directory, "advertise")
        subprocess.run(["gcc", "-O1", *flags, "-o", program, source], check=True)
        program.chmod(0o755)  # whatever the umask
        yield program
