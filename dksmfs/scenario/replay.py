"""Runs scenarios against a machine, and compares each result with the recorded one."""

from dataclasses import dataclass, field

import msgspec

from dksmfs.scenario import recording as r
from dksmfs.scenario.player import Player, Result, SenselessStepError
from dksmfs.scenario.targets import Target


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A step that went otherwise than recorded; `step` counts from 0."""

    scenario: str
    step: int
    operation: str
    expected: Result
    got: Result

    def __str__(self) -> str:
        expected, got = (msgspec.json.encode(value).decode() for value in (self.expected, self.got))
        return (
            f"{self.scenario}, step {self.step}, {self.operation}: expected {expected}, got {got}"
        )


@dataclass(slots=True)
class Outcome:
    """What came of one scenario. `unchecked` steps had no recorded result to hold them to."""

    steps: int = 0
    unchecked: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)


def replay(scenario: r.Scenario, target: Target) -> Outcome:
    """Run `scenario` on a machine without processes, with DKSM stopped and huge pages off.

    Behind a step that was not deterministic when it was recorded, nothing is compared. A step that
    is not understood is always a mismatch.
    """
    outcome = Outcome()
    player = Player(target, scenario.data)
    reliable = True
    for number, raw in enumerate(scenario.steps):
        outcome.steps += 1
        operation, expected = bytes(raw).decode(errors="replace"), "a known step"
        try:
            step = r.decode_step(raw)
            operation, expected = str(type(step).__struct_config__.tag), _expected(step)
            got = player.play(step)
        except (*r.UNDECODABLE, SenselessStepError) as error:
            outcome.mismatches.append(
                Mismatch(scenario.name, number, operation, expected, str(error))
            )
            continue
        reliable = reliable and not step.nondeterministic
        if not reliable or step.result is msgspec.UNSET:
            outcome.unchecked += 1
        elif got != step.result:
            outcome.mismatches.append(Mismatch(scenario.name, number, operation, expected, got))
    player.end()
    return outcome


def _expected(step: r.AnyStep) -> Result:
    return "a step that makes sense" if step.result is msgspec.UNSET else step.result
