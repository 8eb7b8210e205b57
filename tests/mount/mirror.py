"""Serve a copy of a live directory of sysfs, through the same code as the tree of dksm.

``python -m tests.mount.mirror LIVE MOUNTPOINT`` mounts a tree that holds one directory, of LIVE's
name, with its attributes' names, modes and texts; then prints "ready" and serves it until SIGTERM.
Two attributes of KSM take numbers as KSM takes them; the others refuse whatever is stored.
"""

import errno
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pyfuse3
import trio

from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.sysfs import attribute as sysfs
from dksmfs.kernel.sysfs.attribute import Attribute, Directory, Node
from dksmfs.mount.operations import MOUNT_OPTIONS, SysfsOperations

Parse = Callable[[bytes], str]


def unsigned_number(buffer: bytes) -> str:
    """Parse as ``sleep_millisecs_store`` does: all refusals are EINVAL."""
    try:
        return f"{sysfs.kstrtouint(buffer)}\n"
    except OSError as error:
        raise kernel_error(errno.EINVAL, "not a number") from error


def refused(_: bytes) -> str:
    raise kernel_error(errno.EINVAL, "refused")


STORES: dict[str, Parse] = {"sleep_millisecs": unsigned_number, "pages_to_scan": unsigned_number}


def copied(path: Path) -> Node:
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISDIR(found.st_mode):
        return Directory.of(path.name, [copied(child) for child in path.iterdir()])
    return copied_attribute(path.name, mode, path.read_text())


def copied_attribute(name: str, mode: int, text: str) -> Attribute:
    parse = STORES.get(name, refused)

    def show() -> str:
        return text

    def store(buffer: bytes) -> None:
        nonlocal text
        text = parse(buffer)

    return Attribute(name, mode, show, store if mode & 0o222 else None)


async def serve(operations: SysfsOperations, mountpoint: str) -> None:
    options = set(pyfuse3.default_options) | MOUNT_OPTIONS | {"allow_other"}
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        pyfuse3.init(operations, mountpoint, options)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pyfuse3.main)
                print("ready", flush=True)
                async for _ in signals:
                    nursery.cancel_scope.cancel()
        finally:
            pyfuse3.close(unmount=True)


def main() -> None:
    """Mount the copy and serve it."""
    live, mountpoint = sys.argv[1:]
    root = Directory.of("", [copied(Path(live))])
    trio.run(serve, SysfsOperations(root, trio.Lock()), mountpoint)


if __name__ == "__main__":
    main()
