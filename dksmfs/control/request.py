"""What all requests are made of."""

from typing import Annotated, Generic, TypeVar

from msgspec import Meta, Struct

from dksmfs.control.limits import MAX_DESCRIPTORS, Address, Description, Inline, Length, Pid

R_co = TypeVar("R_co", covariant=True)


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
