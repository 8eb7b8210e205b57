"""``dksmfs demo``: what it shows, and that it leaves nothing."""

import re

import pytest

from tests.cli.command_line import CommandLine

pytestmark = pytest.mark.mounted

COLUMNS_AND_VALUES = 4  # virtual machines


def values(printed: str, file: str) -> list[list[int]]:
    """The numbers of each row of this file, in the order printed."""
    rows = re.findall(rf"^ *{file} +([\d, ]+)$", printed, re.MULTILINE)
    return [[int(number.replace(",", "")) for number in row.split()] for row in rows]


def test_it_shows_the_life_of_a_machine(dksmfs: CommandLine) -> None:
    printed = dksmfs.succeed("demo")
    assert "transparent_hugepage/enabled" in printed
    assert re.search(r"\$ echo 1 > \S+/kernel/mm/dksm/run", printed)
    merged, after_exit, stopped = values(printed, "pages_merged")
    assert len(merged) == COLUMNS_AND_VALUES
    assert merged == sorted(merged)
    assert after_exit == merged[-1:]
    assert stopped == [0]
    scanned = values(printed, "pages_scanned")[0]
    assert [scanned[0] * number for number in (1, 2, 3, 4)] == scanned
    assert values(printed, "merging_failed")[0] == [0, 0, 0, 0]
    assert re.search(r"page frame (\d+) became (?!\1\b)\d+", printed)
    assert printed.count("% saved") == 3


def test_two_at_a_time(dksmfs: CommandLine) -> None:
    with dksmfs.start("demo") as other:
        dksmfs.succeed("demo")
        _, errors = other.communicate()
    assert (other.returncode, errors) == (0, "")
