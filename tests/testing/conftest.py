"""The fixture as users have it, also where dksmfs is not installed and pytest does not find it."""

import os

import pytest

from dksmfs.testing.plugin import dksm

__all__ = ["dksm"]


@pytest.fixture(autouse=True)
def _needs_mounts() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")
