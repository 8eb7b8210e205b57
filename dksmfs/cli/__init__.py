"""The ``dksmfs`` command."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from dksmfs import __version__
from dksmfs.cli import (
    advertise,
    demo,
    fault,
    log,
    mount,
    processes,
    record,
    replay,
    run,
    status,
    umount,
)
from dksmfs.cli.frame import remark
from dksmfs.errors import DksmfsError

COMMANDS = (demo, mount, umount, status, advertise, processes, run, fault, log, replay, record)
"""One module for each command, in the order of ``dksmfs --help``."""

DESCRIPTION = """\
The DKSM interface without the DKSM kernel: mount the files of /sys/kernel/mm/dksm,
backed by a simulated machine whose processes share identical pages.

  dksmfs mount                      mount the files, print where they are
  cat mountpoints/dksm/run          read them as on a real machine
  dksmfs status                     what is mounted, with all values
  dksmfs umount                     end it
"""

EXIT_INTERRUPTED = 128 + 2
EXIT_BROKEN_PIPE = 128 + 13


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="dksmfs",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="dksmfs COMMAND --help tells more about a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dksmfs {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; errors become one line for people."""
    # Where a parent ignores it, a child's status would be lost: wait(2).
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        options = build_parser().parse_args(arguments)
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has enough; Python must not complain about it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except DksmfsError as error:
        remark(str(error))
        return 1
    except OSError as error:
        said = error.strerror or str(error)
        remark(f"{error.filename}: {said}" if error.filename else said)
        return 1
    return status
