"""The recordings of the real kernel, replayed on the engine and on the reference model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dksmfs.scenario.recording import load_scenarios
from dksmfs.scenario.replay import Mismatch, replay
from dksmfs.scenario.targets import MemoryTarget, Target
from tests.kernel.model_target import ModelTarget

RECORDINGS = Path(__file__).parent.parent / "recordings"


@pytest.mark.parametrize("target", [MemoryTarget, ModelTarget])
@pytest.mark.parametrize(
    ("file", "scenarios", "steps"),
    [("scenarios-hand.jsonl.gz", 119, 1921), ("scenarios-random.jsonl.gz", 300, 17284)],
)
def test_every_recorded_step_but_one_is_reproduced(
    target: Callable[[], Target], file: str, scenarios: int, steps: int
) -> None:
    outcomes = [replay(scenario, target()) for scenario in load_scenarios(str(RECORDINGS / file))]
    assert len(outcomes) == scenarios
    assert sum(outcome.steps for outcome in outcomes) == steps
    assert sum(outcome.unchecked for outcome in outcomes) == 0
    mismatches = [mismatch for outcome in outcomes for mismatch in outcome.mismatches]
    assert mismatches == (EXCEPTIONS if file == "scenarios-hand.jsonl.gz" else [])


STATISTICS = {
    "run": 1,
    "pages_scanned": 16,
    "merging_failed": 0,
    "hashtable_entries": 8,
    "hashtable_size": 4096,
}
# The real page allocator gave the frames that the process had dropped back to it, each for the
# content it had held, so that their descriptors were valid again. Here, a frame that a descriptor
# names is not used again.
EXCEPTIONS = [
    Mismatch(
        "reuse_dontneed",
        9,
        "stats",
        expected=STATISTICS | {"pages_merged": 8},
        got=STATISTICS | {"pages_merged": 0},
    )
]
