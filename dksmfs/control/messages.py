"""Everything that crosses the socket: requests, replies and the hello event.

Pure declarations. Addresses and lengths are in bytes unless a name says pages.
"""

from typing import Annotated, Any, Final, Generic, Literal, TypeVar, get_args

from msgspec import Meta, Struct

from dksmfs.control.limits import (
    MAX_DESCRIPTORS,
    MAX_INLINE,
    MAX_POPULATED,
    MAX_SHARING,
    PROTOCOL,
    U64,
    Address,
    AdviceNumber,
    AdviceWord,
    Description,
    FileName,
    Inline,
    Kind,
    Length,
    Name,
    Pid,
    Prot,
    ThpMode,
    ViewLength,
)

R_co = TypeVar("R_co", covariant=True)

PageNumber = int | Literal["Z"] | None
"""A pfn or class number, the kernel's zero page, or no page at all."""


class Carried(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Content that travels with its request: bytes in the line, or a descriptor beside it."""

    data: Inline | None = None
    memfd: Annotated[int, Meta(ge=0, lt=MAX_DESCRIPTORS)] | None = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.memfd is None):
            raise ValueError("content needs exactly one of `data` and `memfd`")


Content = Description | Carried


class Message(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all requests: unknown members are refused, defaults are not sent."""


class Request(Message, Generic[R_co], frozen=True):
    """A request that is answered with an `R_co`."""


class OfProcess(Request[R_co], Generic[R_co], frozen=True):
    """A request about one process."""

    pid: Pid


class OfRange(OfProcess[R_co], Generic[R_co], frozen=True):
    """A request about a range of one process's address space."""

    address: Address
    length: Length


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


class Spawn(Request[Spawned], frozen=True):
    """Start a process without mappings; detached ones outlive the connection."""

    name: Name
    detached: bool = False


class Fork(OfProcess[Spawned], frozen=True):
    """fork(2). The child has its parent's owner, and its name unless one is given."""

    name: Name | None = None


class Exit(OfProcess[Done], frozen=True):
    """End a process."""


class Ps(Request[Processes], frozen=True):
    """List all processes."""


class Mmap(OfProcess[Mapped], frozen=True):
    """mmap(2); with content, the pages are written before `prot` takes effect."""

    length: Length
    address: Address | None = None
    prot: Prot = "rw"
    kind: Kind = "anon"
    file: FileName | None = None
    content: Content | None = None


class Munmap(OfRange[Done], frozen=True):
    """munmap(2)."""


class Mprotect(OfRange[Done], frozen=True):
    """mprotect(2)."""

    prot: Prot


class Mremap(OfRange[Mapped], frozen=True):
    """mremap(2) with MREMAP_FIXED, same size."""

    new_address: Address


class Mlock(OfRange[Done], frozen=True):
    """mlock(2)."""


class Munlock(OfRange[Done], frozen=True):
    """munlock(2)."""


class Madvise(OfProcess[Done], frozen=True):
    """madvise(2). Address and length are any 64-bit numbers: its own checks are part of it."""

    address: Annotated[int, Meta(ge=0)]
    length: Annotated[int, Meta(ge=0)]
    advice: AdviceWord | AdviceNumber

    def __post_init__(self) -> None:
        if max(self.address, self.length) >= U64:
            raise ValueError("address and length are 64-bit numbers")


class Read(OfProcess[Bytes], frozen=True):
    """The process loads these bytes."""

    address: Address
    length: Annotated[int, Meta(ge=0, le=MAX_INLINE)]


class Write(OfProcess[Done], frozen=True):
    """The process stores these bytes."""

    address: Address
    data: Inline


class Fill(OfRange[Done], frozen=True):
    """The process stores content into whole pages."""

    content: Content


class Touch(OfRange[Done], frozen=True):
    """The process loads one byte of each page."""


class Mkfile(Request[Done], frozen=True):
    """Create or replace a tmpfs file for the file mappings."""

    file: FileName
    pages: Annotated[int, Meta(ge=0, le=MAX_POPULATED >> 12)]
    content: Content


class StartRecording(Request[Done], frozen=True):
    """Record what happens to the machine, for this connection, until it is stopped."""

    name: Name


class StopRecording(Request[RecordingStopped], frozen=True):
    """End the recording of this connection."""


class TakeRecording(Request[RecordedPart], frozen=True):
    """Hand out the next part of the recording, which has been stopped."""


class ViewPagemap(OfProcess[Pagemap], frozen=True):
    """Which frames a range maps; changes nothing."""

    address: Address
    length: ViewLength


class ViewContents(OfProcess[Contents], frozen=True):
    """What the pages of a range hold; changes nothing."""

    address: Address
    length: ViewLength


class ViewSmaps(OfProcess[Smaps], frozen=True):
    """The mappings of a process; changes nothing."""


class ViewSharing(Request[Sharing], frozen=True):
    """Which pages of all processes share frames; `limit` pages of each mapping at most."""

    limit: Annotated[int, Meta(ge=0, le=MAX_SHARING)] = MAX_SHARING


class ReadStats(Request[Stats], frozen=True):
    """The six values at once."""


class Show(Request[Shown], frozen=True):
    """Read a file of the dksm directory."""

    file: FileName


class Store(Request[Stored], frozen=True):
    """Write(2) to a file of the dksm directory; each character of `data` is one byte."""

    file: FileName
    # Twice the 4096 bytes that the kernel looks at, so that its cut can be seen.
    data: Annotated[str, Meta(max_length=8192, pattern=r"^[\x00-\xff]*$")]


class SetThp(Request[Thp], frozen=True):
    """Get, or with a mode set, transparent_hugepage/enabled."""

    mode: ThpMode | None = None


class Hello(Struct, frozen=True):
    """The event that a server sends first."""

    version: str
    mountpoint: str | None
    pid: int
    protocol: int = PROTOCOL
    extensions: list[str] = []


METHODS: Final[dict[str, type[Request[Any]]]] = {
    "spawn": Spawn,
    "fork": Fork,
    "exit": Exit,
    "ps": Ps,
    "mmap": Mmap,
    "munmap": Munmap,
    "mprotect": Mprotect,
    "mremap": Mremap,
    "mlock": Mlock,
    "munlock": Munlock,
    "madvise": Madvise,
    "read": Read,
    "write": Write,
    "fill": Fill,
    "touch": Touch,
    "mkfile": Mkfile,
    "record_start": StartRecording,
    "record_stop": StopRecording,
    "record_take": TakeRecording,
    "pagemap": ViewPagemap,
    "contents": ViewContents,
    "smaps": ViewSmaps,
    "sharing": ViewSharing,
    "stats": ReadStats,
    "show": Show,
    "store": Store,
    "thp": SetThp,
}
METHOD_NAMES: Final = {request: name for name, request in METHODS.items()}
REPLIES: Final[dict[type[Request[Any]], type[Reply]]] = {
    # The argument of the generic base: `class Spawn(Request[Spawned])` is answered by `Spawned`.
    request: get_args(request.__orig_bases__[0])[0]  # type: ignore[attr-defined]
    for request in METHODS.values()
}


def memfd_index(request: Request[Any]) -> int | None:
    """Which of its descriptors the request takes its content from, if it does."""
    content = getattr(request, "content", None)
    return content.memfd if isinstance(content, Carried) else None
