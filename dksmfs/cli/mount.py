"""``dksmfs mount``: start an instance."""

import argparse
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from dksmfs.cli.frame import add_command, print_json, remark
from dksmfs.instances import Instance

if TYPE_CHECKING:
    from dksmfs.cli.frame import Subparsers

DESCRIPTION = """\
Mount the files of a simulated machine and return once they can be read; the daemon
stays in the background until `dksmfs umount`. MOUNTPOINT must be an empty directory, or
is made (and removed at the end). Without it: mountpoints/dksm in a checkout of dksmfs,
elsewhere a directory of its own under $XDG_RUNTIME_DIR/dksmfs.

examples:
  dksmfs mount                      the six files, in the default place
  dksmfs mount /mnt/dksm            the six files, in /mnt/dksm
  dksmfs mount --root sys /mnt/sys  a whole fake /sys: /mnt/sys/kernel/mm/dksm/run ...
  dksmfs mount --thp never          a machine without transparent huge pages,
                                    as DKSM needs to merge large regions
  dksmfs mount -f                   stay in the foreground, end with Ctrl-C
"""


def add_parser(subparsers: "Subparsers") -> None:
    """Register the command."""
    parser = add_command(
        subparsers, "mount", _run, "mount the files and start serving", DESCRIPTION
    )
    parser.add_argument("mountpoint", nargs="?", metavar="MOUNTPOINT", help="where to mount")
    parser.add_argument(
        "-f", "--foreground", action="store_true", help="do not go into the background"
    )
    parser.add_argument(
        "--root",
        choices=("dksm", "sys"),
        default="dksm",
        help="what the mount point shows: the DKSM directory (default), or a whole fake /sys",
    )
    parser.add_argument(
        "--thp",
        choices=("always", "madvise", "never"),
        default="always",
        help="transparent huge pages of the simulated machine (default: always, as a real one)",
    )
    parser.add_argument("--socket", metavar="PATH", help="where clients connect")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _run(options: argparse.Namespace) -> int:
    from dksmfs.mount.background import serve, start_in_background
    from dksmfs.mount.leftovers import clear_leftovers
    from dksmfs.mount.preparation import default_mountpoint, prepare

    place = os.path.realpath(options.mountpoint or default_mountpoint())
    for leftover in clear_leftovers(place):
        remark(f"cleared {leftover}, which a killed daemon had left behind")
    instance = prepare(place, options.root, options.socket)
    if options.foreground:
        serve(instance, options.thp, lambda started: _announce(started, options.json))
    else:
        _announce(start_in_background(instance, options.thp), options.json)
    return 0


def _announce(instance: Instance, as_json: bool) -> None:
    if as_json:
        print_json(
            {name: asdict(instance)[name] for name in ("mountpoint", "socket", "pid", "root")}
        )
        return
    print(f"mountpoint  {instance.mountpoint}")
    print(f"socket      {instance.socket}", flush=True)
