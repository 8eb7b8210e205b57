"""An instance for the length of a command."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dksmfs.instances import Instance, Root, instance_path, records, runtime_directory


@contextmanager
def temporary_instance(purpose: str, root: Root, thp: str) -> Iterator[Instance]:
    """Have a daemon of one's own, mounted in the runtime directory, while a block runs."""
    from dksmfs.mount.background import start_in_background
    from dksmfs.mount.preparation import prepare
    from dksmfs.mount.stop import stop

    place = str(runtime_directory() / f"{purpose}-{os.getpid()}")
    instance = start_in_background(prepare(place, root, None), thp, outlives=False)
    try:
        yield instance
    finally:
        for record in records():
            if record.path == instance_path(place):
                stop(record)
