"""What all tests share: in CI, nothing may be left out without anybody noticing."""

import os
from collections.abc import Generator

import pytest
from hypothesis.configuration import set_hypothesis_home_dir


def pytest_configure(config: pytest.Config) -> None:
    """Keep what hypothesis and Python remember with the other caches, out of the checkout."""
    set_hypothesis_home_dir(config.rootpath / ".venv" / ".hypothesis")
    if "PYTHONPYCACHEPREFIX" in os.environ:
        # or each command that a test starts would compile all it imports again: a second
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a skipped test fail in CI: there, everything that tests need is installed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report
