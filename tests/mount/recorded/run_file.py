"""The file ``run`` and its five companions, which the recorded calls use."""

import os
from collections.abc import Iterator

from tests.mount.calls import Outcome, call, opened

FILES = (
    "run",
    "pages_scanned",
    "pages_merged",
    "merging_failed",
    "hashtable_entries",
    "hashtable_size",
)
Calls = Iterator[tuple[str, int, Outcome]]
"""The text of a call as the recording has it, the uid, and what the call returned."""

_FLAGS = {name: getattr(os, name) for name in dir(os) if name.startswith("O_")}


def set_run(value: int) -> None:
    with opened("run", os.O_WRONLY) as descriptor:
        os.write(descriptor, str(value).encode())


def run_value() -> str:
    with opened("run") as descriptor:
        return os.read(descriptor, 16).decode().strip()


def with_run(outcome: Outcome) -> Outcome:
    return {**outcome, "run_after": run_value()}


def written(descriptor: int, buffer: bytes) -> Outcome:
    return with_run(call(os.write, descriptor, buffer))


def open_flags(text: str) -> int:
    flags = 0
    for name in text.split("|"):
        flags |= 3 if name == "O_ACCMODE(3)" else _FLAGS[name]
    return flags
