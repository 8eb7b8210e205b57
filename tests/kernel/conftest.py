"""What the tests of the kernel share: a machine that merges, and how many random programs
are run on the engine and the model.

`HYPOTHESIS_PROFILE=thorough pytest tests/kernel`, or `pytest tests/kernel
--hypothesis-profile=thorough`, runs thousands of long ones, which takes many minutes.
The profile `mutation` runs the same programs each time, and does not simplify those that fail.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

from dksmfs.kernel.machine import ADVICE, Machine
from dksmfs.kernel.units import PAGE_SIZE

AT = 0x10_0000_0000  # starts a 2 MiB area
MERGEABLE = ADVICE["mergeable"]

_COMMON = settings(
    deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("programs", _COMMON, max_examples=250, stateful_step_count=40)
settings.register_profile("thorough", _COMMON, max_examples=5000, stateful_step_count=60)
settings.register_profile(
    "mutation", _COMMON, derandomize=True, phases=[Phase.explicit, Phase.generate]
)


def programs_profile() -> settings:
    """The settings that were asked for."""
    asked = settings.get_current_profile_name()
    if asked not in ("thorough", "mutation"):
        asked = os.environ.get("HYPOTHESIS_PROFILE", "programs")
    return settings.get_profile(asked)


@pytest.fixture
def machine() -> Machine:
    """One that merges, with small pages only."""
    machine = Machine("never")
    machine.dksm.set_run(1)
    return machine


@pytest.fixture
def pid(machine: Machine) -> int:
    """A process of it."""
    return machine.spawn("a")


def words(machine: Machine, pid: int, pages: int) -> list[int | None]:
    """The first 8 bytes of each page from `AT` on."""
    contents = machine.page_contents(pid, AT, pages * PAGE_SIZE)
    return [None if page is None else page[0] for page in contents]
