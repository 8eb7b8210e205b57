"""What a test can do to the mounted files, and what it can see of their use. Pure data.

A `Fault` changes what programs see in the files and nothing else: the machine goes on as it is. An
`Access` is one system call of a program on the files. Both sides of a daemon know them: the mount
carries them out, the socket takes and tells them.
"""

import errno as errno_names
from dataclasses import dataclass
from typing import Final, Literal, get_args

Kind = Literal["error", "delay", "short", "text", "frozen", "gone", "restart"]
Operation = Literal["open", "read", "write"]
Seen = Literal["open", "read", "write", "stat", "readdir"]

DIRECTORY: Final = "."
"""How the dksm directory itself is named. Its files have their bare names; what else a fake /sys
has is named as on a real machine: `/sys/kernel/mm/transparent_hugepage/enabled`."""

MAX_TEXT: Final = 4095
"""Bytes that an attribute shows at the most (``sysfs_kf_seq_show``)."""

MAX_DELAY_S: Final = 3600.0
"""A delay that is longer is a mistake: nobody waits for it."""

MAX_FAULTS: Final = 1000
"""Faults of one machine: all of them are looked at whenever a file is used."""

MAX_KEPT: Final = 1_000_000
"""Accesses that a log can be told to keep: some hundred bytes each."""

KEPT: Final = 10_000
"""Accesses that a log keeps unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something wrong with a file.

    `error`: the operation fails with `errno`. `delay`: it takes `delay_s` seconds longer. `short`:
    a read(2) gets `size` bytes at the most. `text`: the file reads as `text`, whose characters are
    bytes. `frozen`: it reads as it did when the fault came. `gone`: it does not exist. `restart`:
    when a program has read the first part of the file, somebody stops DKSM and starts it again.

    All but `frozen` and `gone` are limited by `times` and `every`: they happen at every
    `every`-th use of the file, and end after `times` of them. A use is an open(2), a write(2), or
    a read(2) that makes the text afresh; one that goes on where the last ended belongs to that.
    """

    kind: Kind
    file: str
    operation: Operation = "read"
    errno: str | None = None
    delay_s: float = 0.0
    size: int = 0
    text: str = ""
    times: int | None = None
    every: int = 1

    def __post_init__(self) -> None:
        for problem, is_wrong in (
            (f"no kind {self.kind!r}", self.kind not in get_args(Kind)),
            (f"no operation {self.operation!r}", self.operation not in get_args(Operation)),
            (f"no errno {self.errno!r}", self.kind == "error" and self.number == 0),
            ("errno is for kind error", self.kind != "error" and self.errno is not None),
            ("delay_s: 0 to 3600", not 0 <= self.delay_s <= MAX_DELAY_S),
            ("size: from 1 upwards", self.kind == "short" and self.size < 1),
            (f"text: at most {MAX_TEXT} characters", len(self.text) > MAX_TEXT),
            ("text: each character is a byte", any(letter > "\xff" for letter in self.text)),
            ("times: from 1 upwards", self.times is not None and self.times < 1),
            ("every: from 1 upwards", self.every < 1),
            (
                f"kind {self.kind} is about reading",
                self.operation != "read" and self.kind not in ("error", "delay"),
            ),
            (
                f"kind {self.kind} lasts until it is cleared",
                self.kind in ("frozen", "gone") and (self.times, self.every) != (None, 1),
            ),
        ):
            if is_wrong:
                raise ValueError(problem)

    @property
    def number(self) -> int:
        """The errno as a number; 0 if there is none of that name."""
        number = getattr(errno_names, self.errno or "", 0)
        return number if isinstance(number, int) else 0


@dataclass(frozen=True, slots=True)
class Access:
    """A system call on the mounted files.

    `result` is what it returned: a number of bytes, 0, or -1 with `errno`. `time` is in seconds
    since 1970. `pid`, `command` and `uid` are those of the process that made the call; for a read
    or a write those of the one that opened the file. None and "?" mean that it cannot be known.
    """

    number: int
    time: float
    pid: int | None
    command: str
    uid: int | None
    operation: Seen
    file: str
    offset: int = 0
    size: int = 0
    result: int = 0
    errno: str | None = None
