"""More than five thousand calls on one directory of sysfs, or of something that claims to be one.

``python -m tests.mount.probes DIRECTORY SUBJECT [GROUP...]`` makes them, in a process of its own
because they change the user and the directory, and prints what each returned, as JSON. SUBJECT
names what the directory offers. Modes, owners and texts are put back.
"""

import json
import os
import sys
from collections.abc import Callable

from tests.mount.probes import changing, metadata, opening, reading, waiting, writing
from tests.mount.probes.subject import Probes, Subject

GROUPS: dict[str, Callable[[Subject], Probes]] = {
    probe.__name__: probe
    for probe in (
        opening.descriptions,
        opening.opens,
        opening.restricted_opens,
        opening.names,
        reading.reads,
        reading.reads_of_a_changing_value,
        reading.seeks,
        reading.shared_positions,
        reading.listings,
        writing.writes,
        writing.limited_writes,
        writing.writes_of_others,
        writing.sizes,
        writing.transfers,
        metadata.held_descriptors,
        metadata.modes_and_owners,
        metadata.groups,
        metadata.times,
        metadata.xattrs,
        changing.directory_changes,
        changing.mappings,
        changing.ioctls,
        changing.locks,
        waiting.polls,
        waiting.events,
    )
}


def main() -> None:
    """Make the calls of the groups named (or of all) and print the outcomes."""
    directory, subject = sys.argv[1], Subject(**json.loads(sys.argv[2]))
    os.chdir(directory)
    answers = [
        (f"{group}: {text}", outcome)
        for group in sys.argv[3:] or GROUPS
        for text, outcome in GROUPS[group](subject)
    ]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
