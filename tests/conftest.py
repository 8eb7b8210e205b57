"""What all tests share: the same world wherever they run, and no test is left out unnoticed."""

import os
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis.configuration import set_hypothesis_home_dir

from tests.mounting import need_mounts


def pytest_configure(config: pytest.Config) -> None:
    """Keep what hypothesis and Python remember with the other caches, out of the checkout."""
    set_hypothesis_home_dir(_writable(config, config.rootpath / ".venv" / ".hypothesis"))
    if "PYTHONPYCACHEPREFIX" in os.environ:
        # or each command that a test starts would compile all it imports again: a second
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    _default_signals()
    _english_messages()


def _writable(config: pytest.Config, directory: Path) -> Path:
    """The directory, or in a read-only checkout one that goes with this run."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        temporary = tempfile.TemporaryDirectory(prefix="dksmfs-hypothesis-")
        config.add_cleanup(temporary.cleanup)
        return Path(temporary.name)
    return directory


def _default_signals() -> None:
    """Undo what a shell does to jobs in the background, and nohup: those ignore signals."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN and number != signal.SIGPIPE:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _english_messages() -> None:
    """Let programs say what is wrong in the words that tests look for, in any locale."""
    everything = os.environ.pop("LC_ALL", None)
    if everything is not None:
        os.environ["LANG"] = os.environ["LC_CTYPE"] = everything
    os.environ["LC_MESSAGES"] = "C"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what mounts where nothing can be mounted, and say why."""
    if item.get_closest_marker("mounted"):
        need_mounts()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a skipped test fail in CI: there, everything that tests need is installed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report
