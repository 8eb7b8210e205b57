"""``dksmfs replay``: hold the machine to recorded scenarios."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from typing import TYPE_CHECKING

from dksmfs.cli.frame import add_command, print_json

if TYPE_CHECKING:
    from dksmfs.cli.frame import Subparsers
    from dksmfs.scenario.targets import Target

DESCRIPTION = """\
Run recorded scenarios step by step, each on a machine of its own, and compare every
recorded result: return values, the six files, which pages share a frame, what they hold,
and the sizes of each process. Prints a line for each mismatch and a summary; the exit
status is 0 only if there is no mismatch. FILE is JSON Lines, compressed if it ends in .gz;
- is standard input.

examples:
  dksmfs replay tests/recordings/scenarios-hand.jsonl.gz
  dksmfs replay --mounted bug.jsonl     over the socket and the mounted files of a daemon
  dksmfs replay --json - < bug.jsonl
"""


def add_parser(subparsers: "Subparsers") -> None:
    """Register the command."""
    parser = add_command(
        subparsers, "replay", _run, "compare the machine with recorded scenarios", DESCRIPTION
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="scenarios, or - for stdin")
    parser.add_argument(
        "--mounted", action="store_true", help="run against a daemon that is mounted for it"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    from dksmfs.scenario.recording import load_scenarios
    from dksmfs.scenario.replay import replay

    console = Console(stderr=True)
    scenarios = [scenario for file in options.files for scenario in load_scenarios(file)]
    with _targets(options.mounted) as new_target:
        outcomes = []
        for scenario in track(
            scenarios, "replaying", console=console, transient=True, disable=not console.is_terminal
        ):
            outcome = replay(scenario, new_target())
            outcomes.append(outcome)
            if not options.json:
                for mismatch in outcome.mismatches:
                    print(mismatch)
    mismatches = [mismatch for outcome in outcomes for mismatch in outcome.mismatches]
    summary = {
        "scenarios": len(outcomes),
        "steps": sum(outcome.steps for outcome in outcomes),
        "mismatches": len(mismatches),
    }
    if options.json:
        unchecked = sum(outcome.unchecked for outcome in outcomes)
        details = [asdict(mismatch) for mismatch in mismatches]
        print_json({**summary, "unchecked": unchecked, "details": details})
    else:
        print(", ".join(f"{name}: {count}" for name, count in summary.items()))
    return 1 if mismatches else 0


@contextmanager
def _targets(mounted: bool) -> "Iterator[Callable[[], Target]]":
    """Give what makes a machine ready for a scenario: a new one, or the daemon's, cleared."""
    from dksmfs.scenario.targets import MemoryTarget, MountedTarget

    if not mounted:
        yield MemoryTarget
        return
    from dksmfs.cli.temporary import temporary_instance
    from dksmfs.control.blocking import Blocking

    with temporary_instance("replay", "dksm", "never") as instance:
        door = Blocking.open(instance.socket)
        try:
            numbers = count(1)
            yield lambda: MountedTarget(
                lambda request, descriptors: door.run(door.ask(request, descriptors)),
                instance.dksm_directory,
                next(numbers),
            )
        finally:
            door.close()
