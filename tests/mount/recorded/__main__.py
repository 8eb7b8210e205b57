"""Repeat the calls that were recorded on the real dksm, on another tree.

``python -m tests.mount.recorded DIRECTORY`` makes the calls in the order of the recording, which it
gets on standard input, and prints what they returned, as JSON, each under the text by which the
recording names it. It needs root, and is a process of its own because it changes its user and its
directory.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from tests.mount.recorded import content, metadata, others, writing
from tests.mount.recorded.run_file import Calls

GROUPS: dict[str, Callable[[list[str]], Calls]] = {
    "stat": content.stat_calls,
    "readdir": content.readdir_calls,
    "read": content.read_calls,
    "read-after-change": content.read_after_change_calls,
    "lseek": content.lseek_calls,
    "write": writing.write_calls,
    "write-position": writing.write_position_calls,
    "open": metadata.open_calls,
    "permissions": metadata.permissions_calls,
    "modify-directory": others.modify_directory_calls,
    "attributes": metadata.attributes_calls,
    "xattr": metadata.xattr_calls,
    "mmap": others.mmap_calls,
    "poll": content.poll_calls,
    "ioctl": others.ioctl_calls,
    "locks": others.locks_calls,
    "space-and-sync": others.space_and_sync_calls,
    "transfer": writing.transfer_calls,
    "inotify": writing.inotify_calls,
    "uid1000-after-chmod": metadata.uid1000_after_chmod_calls,
    "misc": others.misc_calls,
}


def main() -> None:
    """Make all calls in the directory named on the command line."""
    recorded: dict[str, list[str]] = {}
    for record in json.load(sys.stdin):
        recorded.setdefault(record["group"], []).append(record["call"])
    assert list(recorded) == list(GROUPS)
    os.chdir(sys.argv[1])
    answers: list[dict[str, Any]] = []
    for group, texts in recorded.items():
        for text, uid, outcome in GROUPS[group](texts):
            answers.append({"group": group, "call": text, "uid": uid, **outcome})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
