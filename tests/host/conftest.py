"""Programs to run: compiled here, and scripts."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import dksmfs

__all__ = ["dksmfs"]


@pytest.fixture(scope="session", params=["dynamic", "static"])
def advertise(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled program that forks children which advertise pages."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    directory = tmp_path_factory.mktemp("programs")
    program = directory / "advertise"
    source = Path(__file__).with_name("advertise.c")
    flags = ["-static"] if request.param == "static" else []
    subprocess.run(["gcc", "-O1", *flags, "-o", program, source], check=True)
    for path in (*directory.parents, directory):
        if path.owner() == directory.owner() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    return program
