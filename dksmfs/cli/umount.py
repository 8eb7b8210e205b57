"""``dksmfs umount``: end an instance."""

import argparse
import os
from typing import TYPE_CHECKING

from dksmfs.cli.frame import add_command, remark

if TYPE_CHECKING:
    from dksmfs.cli.frame import Subparsers

DESCRIPTION = """\
End an instance: unmount its files, end its daemon, remove its socket. Returns when all
of it is gone. Works for daemons that were killed or hang, too.

examples:
  dksmfs umount                     the only instance that there is
  dksmfs umount /mnt/dksm           the instance mounted there
  dksmfs umount --all               every instance of this user
"""


def add_parser(subparsers: "Subparsers") -> None:
    """Register the command."""
    parser = add_command(subparsers, "umount", _run, "end an instance", DESCRIPTION)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("mountpoint", nargs="?", metavar="MOUNTPOINT", help="where it is mounted")
    which.add_argument("--all", action="store_true", help="end every instance of this user")


def _run(options: argparse.Namespace) -> int:
    from dksmfs.instances import running_instances, sole
    from dksmfs.mount.leftovers import clear_leftovers
    from dksmfs.mount.stop import stop_mount

    named = os.path.realpath(options.mountpoint) if options.mountpoint else None
    cleared = clear_leftovers(named)
    for leftover in cleared:
        remark(f"cleared {leftover}, which a killed daemon had left behind")
    running = running_instances()
    if named is not None:
        places = [] if named in cleared else [named]
    elif options.all or (cleared and not running):
        places = [instance.mountpoint for instance in running]
    else:
        places = [sole(running).mountpoint]
    for place in places:
        stop_mount(place)
    return 0
