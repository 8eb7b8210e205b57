"""What the commands share: how one is registered, and how results and errors are told.

A command is a module with ``add_parser(subparsers)``. It imports what is heavy inside its run
function, so that ``dksmfs --help`` and ``dksmfs status`` answer at once.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

Run = Callable[[argparse.Namespace], int]
"""Carries a command out and returns its exit status."""


def add_command(
    subparsers: "Subparsers", name: str, run: Run, summary: str, description: str
) -> argparse.ArgumentParser:
    """Register one command; ``description`` is shown as it stands, examples included."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def print_json(value: Any) -> None:
    """Print ``value`` for programs."""
    print(json.dumps(value, indent=2), flush=True)


def remark(text: str) -> None:
    """Say something on standard error that is not the result of the command."""
    print(f"dksmfs: {text}", file=sys.stderr, flush=True)
