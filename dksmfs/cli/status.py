"""``dksmfs status``: what runs, where, and what the mounted files say."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dksmfs.cli.frame import add_command, print_json

if TYPE_CHECKING:
    from dksmfs.cli.frame import Subparsers
    from dksmfs.instances import Record

DESCRIPTION = """\
Show every instance of this user: mount point, socket, daemon, and the six values, as
read from the mounted files. An instance that hangs or was killed is shown as such.

examples:
  dksmfs status
  dksmfs status --json              {"instances": [{"mountpoint": ..., "socket": ...,
                                    "pid": ..., "root": "dksm", "state": "running",
                                    "values": {"run": 1, "pages_scanned": ...}}]}
"""

FILES = (
    "run",
    "pages_scanned",
    "pages_merged",
    "merging_failed",
    "hashtable_entries",
    "hashtable_size",
)

READ_TIMEOUT_S = 1.0
"""A daemon answers within milliseconds, even while it merges; one that takes longer hangs."""


def add_parser(subparsers: "Subparsers") -> None:
    """Register the command."""
    parser = add_command(subparsers, "status", _run, "show instances and values", DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _run(options: argparse.Namespace) -> int:
    found = instance_states()
    if options.json:
        print_json({"instances": found})
    elif not found:
        print("no instance is running; start one with: dksmfs mount")
    else:
        print("\n\n".join(_described(state) for state in found))
    return 0


def instance_states() -> list[dict[str, Any]]:
    """Return what is known of every instance; ``values`` is null for those that do not answer."""
    from dksmfs.instances import records
    from dksmfs.mount.questions import ask

    found = records()
    answers = ask([_question(record) for record in found if record.alive], READ_TIMEOUT_S)
    remaining = iter(answers)
    return [_state(record, next(remaining) if record.alive else None) for record in found]


def _question(record: "Record") -> Callable[[], dict[str, int]]:
    return lambda: read_values(record.instance.dksm_directory)


def read_values(directory: Path) -> dict[str, int]:
    """Read the six files in ``directory``."""
    return {name: int((directory / name).read_text()) for name in FILES}


def _state(record: "Record", answer: Any) -> dict[str, Any]:
    instance = record.instance
    answering = "running" if answer else "not answering"
    return {
        "mountpoint": instance.mountpoint,
        "socket": instance.socket,
        "pid": instance.pid,
        "root": instance.root,
        "log": instance.log,
        "state": answering if record.alive else "killed",
        "values": answer.value if answer else None,
    }


REMEDIES = {
    "running": "",
    "not answering": "; end it with dksmfs umount",
    "killed": "; the next dksmfs mount or umount clears it",
}


def _described(state: dict[str, Any]) -> str:
    rows = {
        "state": f"{state['state']} (pid {state['pid']}){REMEDIES[state['state']]}",
        "root": state["root"],
        "socket": state["socket"],
        **(state["values"] or {}),
    }
    return "\n".join([state["mountpoint"], *(f"  {name:<18} {rows[name]}" for name in rows)])
