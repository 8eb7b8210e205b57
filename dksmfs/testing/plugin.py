"""The pytest plugin: the fixture `dksm`, its marker, and what to do where nothing can be mounted.

Test runs that do not use the fixture load nothing else of dksmfs.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dksmfs.testing.double import Dksm

MARKER = (
    'dksm(thp="never", log=True, record=True, load=None): options of the fixture dksm: the huge '
    "page mode, whether the accesses to the files are kept (or how many), whether the state can be "
    "saved, and a state to begin with, in a file beside the test's"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--dksm-require`."""
    parser.getgroup("dksmfs").addoption(
        "--dksm-require",
        action="store_true",
        help="fail, instead of skipping, tests that need dksm where nothing can be mounted",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def dksm(request: pytest.FixtureRequest) -> "Iterator[Dksm]":
    """A private machine with DKSM: its files at `dksm.path`, its socket at `dksm.socket`."""
    from dksmfs.testing.double import machine
    from dksmfs.testing.warm import UnavailableError

    options = {}
    for marker in reversed(list(request.node.iter_markers("dksm"))):
        options.update(marker.kwargs)
    if options.get("load") is not None:
        options["load"] = request.path.parent / options["load"]
    block = machine(**options)
    try:
        value = block.__enter__()
    except UnavailableError as error:
        if request.config.getoption("dksm_require", default=False):
            pytest.fail(f"dksm: {error}", pytrace=False)
        pytest.skip(f"dksm: {error}")
    try:
        yield value
    finally:
        block.__exit__(None, None, None)


def pytest_unconfigure() -> None:
    """End the daemons that were kept warm."""
    import sys

    if "dksmfs.testing.warm" in sys.modules:
        sys.modules["dksmfs.testing.warm"].POOL.close()
