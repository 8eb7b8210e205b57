"""The fixture as users have it, also where dksmfs is not installed and pytest does not find it."""

import pytest

from dksmfs.testing.plugin import dksm
from tests.mounting import need_mounts

__all__ = ["dksm"]


@pytest.fixture(autouse=True)
def _needs_mounts() -> None:
    need_mounts()
