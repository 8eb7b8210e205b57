"""Call by call, our files answer as the live sysfs of this machine does."""

import re
from pathlib import Path

import pytest

from tests.mount.conftest import KSM_SUBJECT, THP_SUBJECT
from tests.mount.limits import LIMITS, NO_PROBE
from tests.mount.probes.__main__ import GROUPS
from tests.mount.probes.subject import Subject
from tests.mount.trees import differences, told

pytestmark = pytest.mark.mounted

NOT_OF_FILES = {"descriptions", "listings"}  # of directories that hold different things


def walked(seed: int, one: Path, other: Path, subject: Subject, steps: int) -> list[str]:
    module = "tests.mount.random_walk"
    arguments = (str(seed), str(steps))
    return differences(
        told(module, one, subject, *arguments), told(module, other, subject, *arguments)
    )


def test_every_call_on_a_copy_of_ksm_answers_as_on_ksm(ksm: tuple[Path, Path]) -> None:
    live, ours = (told("tests.mount.probes", place, KSM_SUBJECT) for place in ksm)
    assert len(live) > 5000
    assert differences(live, ours) == []


def test_every_limit_that_live_sysfs_can_show_is_one(ksm: tuple[Path, Path]) -> None:
    live, ours = (told("tests.mount.probes", place, KSM_SUBJECT) for place in ksm)
    different = [text for (text, one), (_, other) in zip(live, ours, strict=True) if one != other]
    shown = [limit for limit in LIMITS if any(re.search(limit.probes, t) for t in different)]
    assert shown == [limit for limit in LIMITS if limit.probes != NO_PROBE]


@pytest.mark.parametrize("seed", range(6))
def test_random_walks_on_a_copy_of_ksm_and_on_ksm(ksm: tuple[Path, Path], seed: int) -> None:
    assert walked(seed, *ksm, KSM_SUBJECT, steps=1500) == []


def test_every_call_on_the_huge_page_mode_answers_as_the_live_one(thp: tuple[Path, Path]) -> None:
    groups = sorted(set(GROUPS) - NOT_OF_FILES)
    live, ours = (told("tests.mount.probes", place, THP_SUBJECT, *groups) for place in thp)
    for text, outcome in (*live, *ours):
        if "lstat(.)" in text:
            del outcome["nlink"]  # the live directory holds others
    assert differences(live, ours) == []
