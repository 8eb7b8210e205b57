"""How commands reach the machine of a running instance."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from dksmfs.errors import NoInstanceError
from dksmfs.instances import DKSM_BELOW_SYS, running_instances, sole_instance

if TYPE_CHECKING:
    from dksmfs.control.blocking import Blocking
    from dksmfs.control.client import Machine


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let the person say which instance is meant."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--instance",
        metavar="MOUNTPOINT",
        help="the instance mounted there (default: the only one)",
    )
    which.add_argument("--socket", metavar="PATH", help="the instance that listens there")


def connected(options: argparse.Namespace) -> "Machine[Blocking]":
    """Connect to the instance that the options name."""
    from dksmfs.control.client import connect

    return connect(socket_path(options))


def socket_path(options: argparse.Namespace) -> str:
    """Return the socket of the instance that the options name."""
    return options.socket or _socket_of(options.instance)


def _socket_of(mountpoint: str | None) -> str:
    if mountpoint is None:
        return sole_instance().socket
    place = os.path.realpath(mountpoint)
    for instance in running_instances():
        if instance.mountpoint == place:
            return instance.socket
    raise NoInstanceError(f"no instance is mounted at {place}; see: dksmfs status")


def dksm_directory(machine: "Machine[Blocking]") -> Path:
    """Where the six files of the machine are mounted."""
    mountpoint = Path(machine.hello.mountpoint or "")
    below = mountpoint / DKSM_BELOW_SYS
    return below if below.is_dir() else mountpoint


def huge_page_remedy(machine: "Machine[Blocking]") -> str:
    """What to do so that pages are not huge any more."""
    directory = dksm_directory(machine)
    switch = directory.parent / "transparent_hugepage" / "enabled"
    if switch.exists():
        return f"echo never > {switch}"
    return f"dksmfs umount {directory} && dksmfs mount --thp never {directory}"
