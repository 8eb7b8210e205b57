"""How dksmfs is installed: every line of the documentation, and what works without pyfuse3."""

import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command_line import REPOSITORY, CommandLine, command_line
from tests.processes import TIMEOUT_S

PAGES = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]

# Each of these is run by .ci/run or .ci/packages.
RUN_IN_CI = {
    ".venv/bin/pip install . && .venv/bin/dksmfs demo",
    ".venv/bin/pip install -e '.[dev]' && "
    "PYTHONPYCACHEPREFIX=$PWD/.venv/pycache .venv/bin/pytest -n 2",
    ".venv/bin/pip install .",
    ".venv/bin/pip install . pytest",
    ".venv/bin/pip wheel --no-deps --wheel-dir dist . && .venv/bin/pip install dist/dksmfs-*.whl",
}

HIDES_PYFUSE3 = """
import sys
sys.modules["pyfuse3"] = None  # importing it is an ImportError from now on
from dksmfs.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def line() -> Iterator[CommandLine]:
    """A command line that must leave no mount, no process and no file behind."""
    with command_line() as made:
        yield made


def test_all_lines_install_the_same_packages() -> None:
    lines = {
        text
        for page in PAGES
        for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        for text in block.splitlines()
        if "pip install" in text
    }
    parts = [text.partition("python3 -m venv .venv && ") for text in lines]
    (packages,) = {before for before, _, _ in parts}
    assert packages.startswith("$(command -v sudo) apt-get update && ")
    assert {after for _, _, after in parts} == RUN_IN_CI


def test_dependencies_that_can_be_installed_without_pyfuse3() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = {re.split("[>=]", name)[0] for name in project["dependencies"]}
    (named,) = re.findall(
        r"`pip install (msgspec .*?)`", (REPOSITORY / "docs/install.md").read_text()
    )
    assert set(named.split()) == needed - {"pyfuse3"}


def without_pyfuse3(line: CommandLine, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDES_PYFUSE3, *map(str, arguments)],
        cwd=line.directory,
        env=line.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def test_what_needs_no_mount_works_without_pyfuse3(line: CommandLine) -> None:
    recordings = REPOSITORY / "tests" / "recordings"
    done = without_pyfuse3(line, "replay", next(recordings.glob("scenarios-hand*")))
    assert "mismatches: 1" in done.stdout  # documented: docs/dksm.md
    assert without_pyfuse3(line, "status").returncode == 0
    for command in ([], ["mount"], ["demo"], ["run"], ["advertise"]):
        assert without_pyfuse3(line, *command, "--help").returncode == 0


@pytest.mark.mounted
@pytest.mark.parametrize("command", [["mount"], ["mount", "-f"], ["run", "true"]])
def test_what_mounts_says_that_pyfuse3_is_missing(line: CommandLine, command: list[str]) -> None:
    done = without_pyfuse3(line, *command)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert "pyfuse3" in said
    assert "pip install pyfuse3" in said
    assert "libfuse3-dev" in said


@pytest.mark.mounted
def test_signals_that_the_parent_ignores(line: CommandLine) -> None:
    """As those of jobs in the background, of nohup, and of parents that leave zombies to init."""

    def ignore() -> None:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    for command in (["mount"], ["umount"], ["run", "--", "sh", "-c", "exit 7"]):
        done = subprocess.run(
            line.command(*command),
            cwd=line.directory,
            env=line.environment,
            preexec_fn=ignore,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.stderr == ""
        assert done.returncode == (7 if command[0] == "run" else 0)
