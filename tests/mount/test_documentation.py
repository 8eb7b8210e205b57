"""The documentation lists the very differences that the tests allow."""

from tests.mount.limits import LIMITS
from tests.mount.trees import REPOSITORY


def test_documented_differences_are_the_ones_that_the_tests_allow() -> None:
    text = (REPOSITORY / "docs/sysfs.md").read_text()
    section = text.partition("## What a FUSE file system cannot do")[2].partition("\n## ")[0]
    points = [" ".join(point.split()) for point in section.split("\n* ")[1:]]
    points[-1] = points[-1].partition(" Everything else")[0]
    assert points == [f"**{limit.what}**: {limit.why}." for limit in LIMITS]
