"""Requests for those who test programs: a machine as new, faults, accesses, events.

Pure declarations, as `messages`, which has them in its table.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta

from dksmfs import injection
from dksmfs.control.limits import FileName, ThpMode
from dksmfs.control.replies import Done, Reply
from dksmfs.control.request import Request
from dksmfs.injection import MAX_KEPT, Access, Fault

MAX_LISTED: Final = 1000
"""Accesses in one reply: some hundred kilobytes."""

Topic = Literal["stats", "accesses"]


class MachineReset(Reply, frozen=True):
    """How many of the mounted files somebody still has open: they go on as they are."""

    open_files: int


class Faults(Reply, frozen=True):
    """The faults that can still happen, in the order in which they came."""

    faults: list[Fault]


class Accesses(Reply, frozen=True):
    """Accesses in their order; `lost` of those before were not kept. `kept`: how many the log
    keeps, 0 if it is off."""

    accesses: list[Access]
    lost: int
    kept: int


class Reset(Request[MachineReset], frozen=True):
    """Let the machine be as new: all processes exit (whosever they are), DKSM is stopped, all
    counts start again, there are no faults and no accesses. The log stays on if it was; a recording
    of this connection is dropped."""

    thp: ThpMode | None = None


class AddFault(Request[Done], frozen=True):
    """Let something be wrong with a file, in the mount only."""

    fault: Fault


class ListFaults(Request[Faults], frozen=True):
    """The faults that can still happen."""


class ClearFaults(Request[Done], frozen=True):
    """Drop the faults of a file (without it: of all files), and of a kind (without it: any)."""

    file: FileName | None = None
    kind: injection.Kind | None = None


class SetLog(Request[Done], frozen=True):
    """Let the log keep so many accesses; 0 switches it off."""

    kept: Annotated[int, Meta(ge=0, le=MAX_KEPT)]


class ListAccesses(Request[Accesses], frozen=True):
    """The accesses behind the one of this number, `limit` at the most."""

    after: Annotated[int, Meta(ge=0)] = 0
    limit: Annotated[int, Meta(ge=0, le=MAX_LISTED)] = MAX_LISTED


class Subscribe(Request[Done], frozen=True):
    """From now on the server sends events on this connection, until the client closes it; it
    takes no more requests. `stats`: the six values, at once and whenever they have changed (those
    in between may be left out). `accesses`: each access behind number `after` that is in the log or
    comes into it; a gap in their numbers says how many were lost."""

    topics: Annotated[list[Topic], Meta(min_length=1)]
    after: Annotated[int, Meta(ge=0)] = 0
