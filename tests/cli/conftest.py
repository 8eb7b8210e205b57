"""A command line for each test, and a look at what it leaves behind."""

from collections.abc import Iterator

import pytest

from tests.cli.command_line import CommandLine, command_line


@pytest.fixture
def dksmfs() -> Iterator[CommandLine]:
    """A command line that must leave no mount, no process and no file behind."""
    with command_line() as line:
        yield line
