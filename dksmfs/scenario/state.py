"""A state of a machine as data: the scenario that leads to it.

What is visible of a machine depends on all that it has been through: which frame a page was merged
with, stale descriptors, counters. So a state is saved as what happened since the machine was new,
and loaded by letting it happen again.
"""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from dksmfs.errors import DksmfsError
from dksmfs.scenario import recording as r
from dksmfs.scenario.names import Names
from dksmfs.scenario.player import Player, SenselessStepError
from dksmfs.scenario.targets import Target


def load_state(source: str, target: Target) -> Names:
    """Bring a new machine, with huge pages off, to the state in a scenario file.

    Returns the processes that run then. DksmfsError if the file has not exactly one scenario, or
    if something does not come out as it did when it was saved.
    """
    scenarios = list(r.load_scenarios(source))
    if len(scenarios) != 1:
        raise DksmfsError(f"{source}: {len(scenarios)} scenarios; a state is one")
    [scenario] = scenarios
    names = Names()
    player = Player(target, scenario.data, names)
    reliable = True
    for number, step in _steps(source, scenario):
        try:
            got = player.play(step)
        except SenselessStepError as error:
            raise DksmfsError(f"{source}, step {number}: {error}") from None
        reliable = reliable and not step.nondeterministic
        if reliable and step.result not in (msgspec.UNSET, got):
            raise DksmfsError(
                f"{source}, step {number}: a result of {step.result} was saved, now it is {got}"
            )
    return names


def save_state(path: str | os.PathLike[str], line: bytes) -> None:
    """Write a state to a file, compressed if its name ends in .gz."""
    place = Path(path)
    place.write_bytes(gzip.compress(line, mtime=0) if place.suffix == ".gz" else line)


def _steps(source: str, scenario: r.Scenario) -> Iterator[tuple[int, r.AnyStep]]:
    for number, raw in enumerate(scenario.steps):
        try:
            step = r.decode_step(raw)
        except r.UNDECODABLE as error:
            raise DksmfsError(f"{source}, step {number}: {error}") from None
        if not isinstance(step, r.Sharing | r.Contents):  # these change nothing, and take long
            yield number, step
