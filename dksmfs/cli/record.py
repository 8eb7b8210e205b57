"""``dksmfs record``: a session as a scenario file."""

import argparse
import gzip
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from dksmfs.cli import connection
from dksmfs.cli.frame import add_command, printable, remark
from dksmfs.errors import DksmfsError

if TYPE_CHECKING:
    from dksmfs.cli.frame import Subparsers
    from dksmfs.control.blocking import Blocking
    from dksmfs.control.messages import RecordingStopped

DESCRIPTION = """\
Record all that happens to a running instance, whoever does it: the requests of socket clients
and the writes to the mounted files, each with its result, then the six values whenever they
changed, and at the end who shares what. FILE (compressed if it ends in .gz) is a scenario that
`dksmfs replay` runs and compares: a bug report is one file.

Recording ends with Ctrl-C, or with COMMAND if there is one. It begins on a machine without
processes and with all counters 0, as `dksmfs mount` makes it. Page contents become part of FILE,
64 MiB of them at most.

examples:
  dksmfs record bug.jsonl                        until Ctrl-C
  dksmfs record bug.jsonl.gz -- python3 bug.py   while a command runs; its exit status is ours
  dksmfs replay bug.jsonl                        see whether it comes out the same
"""

_LONGEST_NAME = 64  # characters of a scenario's name


def add_parser(subparsers: "Subparsers") -> None:
    """Register the command."""
    parser = add_command(
        subparsers, "record", _run, "record a session for replay: a bug report", DESCRIPTION
    )
    parser.add_argument("file", metavar="FILE", help="the scenario file to write")
    parser.add_argument(
        "command", nargs="*", metavar="COMMAND", help="what to run meanwhile, behind --"
    )
    connection.add_options(parser)


def _run(options: argparse.Namespace) -> int:
    from dksmfs.control import messages as m
    from dksmfs.control.blocking import Blocking

    path = Path(options.file)
    name = printable(path.name.split(".")[0] or path.name)[:_LONGEST_NAME]
    door = Blocking.open(connection.socket_path(options))
    try:
        with _replacing(path) as file:
            door.run(door.ask(m.StartRecording(name)))
            status = _run_command(options.command) if options.command else _wait()
            stopped = door.run(door.ask(m.StopRecording()))
            for part in _parts(door):
                file.write(part)
    finally:
        door.close()
    _tell(path, stopped)
    return status


def _parts(door: "Blocking") -> Iterator[bytes]:
    from dksmfs.control import messages as m

    more = True
    while more:
        part = door.run(door.ask(m.TakeRecording()))
        yield part.data
        more = part.more


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block has succeeded."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with cast(
            BinaryIO, gzip.open(partial, "wb") if path.suffix == ".gz" else partial.open("wb")
        ) as file:
            yield file
        partial.replace(path)
    except OSError as error:
        if error.filename == str(partial):
            raise DksmfsError(f"cannot write {path}: {error.strerror}") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def _wait() -> int:
    with suppress(KeyboardInterrupt):
        remark("recording; Ctrl-C ends it")
        signal.pause()
    return 0


def _run_command(command: list[str]) -> int:
    """Run a command to its end, and return its exit status as a shell does."""
    # Ctrl-C is for the command to hear, which does not inherit a handler (but would, to ignore it).
    signal.signal(signal.SIGINT, lambda *_: None)
    status = subprocess.run(command, check=False).returncode
    return status if status >= 0 else 128 - status


def _tell(path: Path, stopped: "RecordingStopped") -> None:
    remark(f"{stopped.steps} steps recorded; see: dksmfs replay {path}")
    if stopped.note:
        remark(stopped.note)
