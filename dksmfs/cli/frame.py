"""What the commands share: how one is registered, and how results and errors are told.

A command is a module with ``add_parser(subparsers)``. It imports what is heavy inside its run
function, so that ``dksmfs --help`` and ``dksmfs status`` answer at once.
"""

import argparse
import json
import os
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


def printable(text: str) -> str:
    """Return a file's name as any terminal and any program can take it.

    Bytes that are not UTF-8 and control characters are escaped.
    """
    decoded = os.fsencode(text).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in decoded)


def positive_number(text: str) -> int:
    """Parse an argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 upwards")
    return int(text)
