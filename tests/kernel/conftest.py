"""How many random programs are run on the engine and the model.

`HYPOTHESIS_PROFILE=thorough pytest tests/kernel`, or `pytest tests/kernel
--hypothesis-profile=thorough`, runs thousands of long ones, which takes many minutes.
"""

import os

from hypothesis import HealthCheck, settings

_COMMON = settings(
    deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("programs", _COMMON, max_examples=250, stateful_step_count=40)
settings.register_profile("thorough", _COMMON, max_examples=5000, stateful_step_count=60)


def programs_profile() -> settings:
    """The settings that were asked for."""
    asked = settings.get_current_profile_name()
    if asked != "thorough":
        asked = os.environ.get("HYPOTHESIS_PROFILE", "programs")
    return settings.get_profile(asked)
