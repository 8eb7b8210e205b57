"""Everything that crosses the socket: requests, replies and the hello event.

Pure declarations. Addresses and lengths are in bytes unless a name says pages.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, get_args

from msgspec import Meta, Struct

from dksmfs.control.limits import (
    MAX_INLINE,
    MAX_POPULATED,
    MAX_SHARING,
    PROTOCOL,
    U64,
    Address,
    AdviceNumber,
    AdviceWord,
    FileName,
    Inline,
    Kind,
    Length,
    Name,
    Prot,
    ThpMode,
    ViewLength,
)
from dksmfs.control.rehearsal import (
    AddFault,
    ClearFaults,
    ListAccesses,
    ListFaults,
    Reset,
    SetLog,
    Subscribe,
)
from dksmfs.control.replies import (
    Advised,
    Bytes,
    Contents,
    Done,
    Mapped,
    MappingInfo,
    Pagemap,
    PageNumber,
    Processes,
    ProcessInfo,
    RecordedPart,
    RecordingStopped,
    Reply,
    SharedMapping,
    SharedProcess,
    Sharing,
    Shown,
    Smaps,
    Spawned,
    Stats,
    Stored,
    Thp,
)
from dksmfs.control.request import Carried, Content, Message, OfProcess, OfRange, Request

__all__ = [
    "AddFault",
    "Advised",
    "Bytes",
    "Carried",
    "ClearFaults",
    "Content",
    "Contents",
    "Done",
    "ListAccesses",
    "ListFaults",
    "Mapped",
    "MappingInfo",
    "Message",
    "OfProcess",
    "OfRange",
    "PageNumber",
    "Pagemap",
    "ProcessInfo",
    "Processes",
    "RecordedPart",
    "RecordingStopped",
    "Reply",
    "Request",
    "Reset",
    "SetLog",
    "SharedMapping",
    "SharedProcess",
    "Sharing",
    "Shown",
    "Smaps",
    "Spawned",
    "Stats",
    "Stored",
    "Subscribe",
    "Thp",
]
"""Of what is defined elsewhere; what is defined here needs no mention."""


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
    """End the recording of this connection, or let it go on: what there is up to now can be taken
    either way."""

    go_on: bool = False


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


class Follow(OfProcess[Done], frozen=True):
    """Let the process follow a real one: its open `/proc/PID/mem` and `/proc/PID/pagemap` come as
    two descriptors. They stand for that address space: an exec or exit is noticed by them."""


class RealMapping(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A mapping of a real process: [start, end, prot, kind, huge pages advised or not]."""

    start: Address
    end: Address
    prot: Prot
    kind: Kind
    hugepage: bool | None = None


class Advise(OfRange[Advised], frozen=True):
    """madvise(MADV_MERGEABLE) of a process that follows a real one: first the simulated address
    space becomes what the real one is. Without mappings, they are as at the last time."""

    mappings: list[RealMapping] | None = None


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
    "follow": Follow,
    "advise": Advise,
    "reset": Reset,
    "fault": AddFault,
    "faults": ListFaults,
    "clear_faults": ClearFaults,
    "log": SetLog,
    "accesses": ListAccesses,
    "subscribe": Subscribe,
}
METHOD_NAMES: Final = {request: name for name, request in METHODS.items()}
REPLIES: Final[dict[type[Request[Any]], type[Reply]]] = {
    # The argument of the generic base: `class Spawn(Request[Spawned])` is answered by `Spawned`.
    request: get_args(request.__orig_bases__[0])[0]  # type: ignore[attr-defined]
    for request in METHODS.values()
}


def descriptor_count(request: Request[Any]) -> int:
    """How many descriptors the request uses."""
    count = _DESCRIPTORS.get(type(request))
    return 0 if count is None else count(request)


def _of_content(request: Mmap | Fill | Mkfile) -> int:
    return int(isinstance(request.content, Carried) and request.content.memfd is not None)


_DESCRIPTORS: Final[dict[type[Request[Any]], Callable[[Any], int]]] = {
    Mmap: _of_content,
    Fill: _of_content,
    Mkfile: _of_content,
    Follow: lambda _: 2,
}
