"""Everything that a server answers with.

Pure declarations. Addresses and lengths are in bytes unless a name says pages.
"""

from typing import Literal

from msgspec import Struct

from dksmfs.control.limits import ThpMode

PageNumber = int | Literal["Z"] | None
"""A pfn or class number, the kernel's zero page, or no page at all."""


class Reply(Struct, frozen=True):
    """Base of all results. Members may be added later: clients ignore those they do not know."""


class Done(Reply, frozen=True):
    """It is done, and there is nothing to say about it."""


class Spawned(Reply, frozen=True):
    """The new process."""

    pid: int


class Mapped(Reply, frozen=True):
    """Where the mapping is now (bytes)."""

    address: int


class Bytes(Reply, frozen=True):
    """The bytes that were read."""

    data: bytes


class Pagemap(Reply, frozen=True):
    """Per page: its pfn, "Z" for the kernel's zero page, None if nothing is present."""

    pages: list[PageNumber]
    huge_pages: int
    """How many of these pages belong to a compound page."""


class Contents(Reply, frozen=True):
    """Per page: None, or "F/K" in hexadecimal: first 8 bytes (little-endian) and checksum."""

    pages: list[str | None]


class MappingInfo(Reply, frozen=True):
    """A mapping as /proc/PID/smaps shows it: addresses in bytes, sizes in kB."""

    start: int
    end: int
    prot: str
    kind: str
    rss_kb: int
    pss_kb: int
    anonymous_kb: int
    anon_huge_kb: int


class Smaps(Reply, frozen=True):
    """The mappings of a process in ascending order."""

    mappings: list[MappingInfo]


class ProcessInfo(Reply, frozen=True):
    """A process as `ps` shows it."""

    pid: int
    name: str
    parent: int | None
    owner: Literal["you", "other", "detached"]
    rss_pages: int


class Processes(Reply, frozen=True):
    """All processes of the machine, oldest first."""

    processes: list[ProcessInfo]


class SharedMapping(Reply, frozen=True):
    """Per page: None (not present), "Z" (zero page) or the number of its frame's class."""

    address: int
    pages: list[PageNumber]


class SharedProcess(Reply, frozen=True):
    """The mappings of one process."""

    pid: int
    name: str
    mappings: list[SharedMapping]


class Sharing(Reply, frozen=True):
    """Who maps which frame: equal numbers are the same frame, counted from 1 as they appear."""

    processes: list[SharedProcess]


class Stats(Reply, frozen=True):
    """The six files of the dksm directory."""

    run: int
    pages_scanned: int
    pages_merged: int
    merging_failed: int
    hashtable_entries: int
    hashtable_size: int


class Shown(Reply, frozen=True):
    """What a read of the file returns."""

    data: str


class Stored(Reply, frozen=True):
    """What the write returned: the number of bytes taken."""

    ret: int


class Thp(Reply, frozen=True):
    """The machine's huge-page mode."""

    mode: ThpMode


class RecordingStopped(Reply, frozen=True):
    """What a recording has become; `note` says why, if it ended before it was told to."""

    steps: int
    size: int
    """Bytes that `record_take` will hand out."""
    note: str


class RecordedPart(Reply, frozen=True):
    """A part of a recording, and whether another one follows."""

    data: bytes
    more: bool


class Advised(Reply, frozen=True):
    """What came of an advertisement, in pages; all zero while DKSM is stopped."""

    scanned: int
    merged: int
    failed: int
    saved: int
    """Pages that have another process's (or page's) frame now, so that their own is free."""
    thp: ThpMode
    """The machine's huge-page mode at that time."""
