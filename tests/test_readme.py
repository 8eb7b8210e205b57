"""What the README shows runs as it stands, and what it lists is what there is."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dksmfs.cli import build_parser
from tests.cli.command_line import REPOSITORY, CommandLine, command_line
from tests.processes import TIMEOUT_S

README = (REPOSITORY / "README.md").read_text()


@pytest.fixture
def line() -> Iterator[CommandLine]:
    """A command line that must leave no mount, no process and no file behind."""
    with command_line() as made:
        yield made


def block(heading: str, language: str) -> str:
    """The first code block of that language below a heading."""
    section = README.partition(f"\n## {heading}\n")[2]
    found = re.search(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.mounted
def test_the_python_examples(line: CommandLine) -> None:
    examples = re.findall(
        r"^<!-- test: python -->\n```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL
    )
    assert examples
    for example in examples:
        line.mount("--thp", "never")
        done = run([sys.executable, "-c", example], line, line.directory)
        merged, *sharing = done.stdout.splitlines()
        bash_pages = -(-Path("/bin/bash").stat().st_size // 4096)
        assert int(merged) >= bash_pages
        names = [text.split()[0] for text in sharing if not text.startswith(" ")]
        assert names == ["vm-1", "vm-2", "vm-2"]
        line.succeed("umount")


@pytest.mark.mounted
def test_the_shell_session(line: CommandLine) -> None:
    checkout = line.directory / "checkout"
    (checkout / "mountpoints").mkdir(parents=True)
    (checkout / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text())
    commands = checkout / ".venv" / "bin"
    commands.mkdir(parents=True)
    (commands / "activate").write_text(f"PATH={shlex.quote(str(commands))}:$PATH\n")
    (commands / "dksmfs").write_text(f'#!/bin/sh\nexec {shlex.join(line.command())} "$@"\n')
    (commands / "dksmfs").chmod(0o755)
    session = block("Use it from a shell", "sh")
    done = run(["sh", "-e", "-c", session], line, checkout)
    assert "/bin/bash" in done.stdout
    assert "vm-2" in done.stdout
    (merged,) = re.findall(r"^(\d+)$", done.stdout, re.MULTILINE)
    assert int(merged) > 0


def run(command: list[str], line: CommandLine, place: Path) -> subprocess.CompletedProcess[str]:
    """Run an example; it must succeed and complain of nothing."""
    done = subprocess.run(
        command,
        cwd=place,
        env=line.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done


def test_the_table_of_commands_is_complete() -> None:
    rows = re.findall(r"^\| (`dksmfs [^|]*) \|", README, re.MULTILINE)
    listed = {word for row in rows for word in re.findall(r"`(?:dksmfs )?(\w+)`", row)}
    help_text = build_parser().format_help()
    known = set(re.findall(r"^    (\w+)(?: +\S|$)", help_text, re.MULTILINE))
    assert "mount" in known
    assert listed == known


def test_the_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    missing = [
        target for target in targets if "://" not in target and not (REPOSITORY / target).exists()
    ]
    assert missing == []
