"""Bytes <-> messages: JSON-RPC 2.0, a line a message. No I/O happens here.

Lines come out of `LineBuffer`, `decode_request` makes requests of them and `encode_*` makes lines
of what is to be said. A mistake of the other side is a `ProtocolError`; what the kernel would
answer is an `OSError`. Both cross the wire as JSON-RPC errors and come out as what they were.
"""

import errno
import os
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from dksmfs.control.in_parts import PART_ITEMS
from dksmfs.control.limits import MAX_DESCRIPTORS, MAX_LINE
from dksmfs.control.messages import METHOD_NAMES, METHODS, REPLIES, Hello, Request
from dksmfs.control.replies import Reply, SharedProcess, Stats
from dksmfs.errors import DksmfsError
from dksmfs.injection import Access
from dksmfs.kernel.errors import AccessFault

VERSION: Final = "2.0"
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
KERNEL_ERROR: Final = -32000
"""The kernel's own refusal: `data.errno` names it."""

R = TypeVar("R")

# Integers that every JSON implementation keeps exactly; or a short text.
Id = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[str, Meta(max_length=64)] | None


class ProtocolError(DksmfsError):
    """A message that broke the protocol; `code` is the JSON-RPC error code."""

    def __init__(self, code: int, message: str, id: Id = None) -> None:
        super().__init__(message)
        self.code = code
        self.id = id


class Call(Struct, frozen=True):
    """A request as it came in. Without an id (a notification) it gets no reply."""

    id: Id | UnsetType
    request: Request[Any]
    descriptors: int


class ErrorData(Struct, omit_defaults=True):
    """What the kernel would say: the errno, or the signal that an access would bring."""

    errno: str
    signal: str | None = None
    address: int | None = None


class Error(Struct, omit_defaults=True):
    """The error member of a JSON-RPC reply."""

    code: int
    message: str
    data: ErrorData | None = None


class _Incoming(Struct, forbid_unknown_fields=True):
    jsonrpc: Literal["2.0"]
    method: str
    params: Raw = Raw(b"{}")
    id: Id | UnsetType = UNSET
    descriptors: Annotated[int, Meta(ge=0, le=MAX_DESCRIPTORS)] = 0


class _Outgoing(Struct, omit_defaults=True):
    jsonrpc: str
    method: str
    params: Any
    id: Id | UnsetType = UNSET
    descriptors: int = 0


class _Result(Struct):
    jsonrpc: str
    id: Id
    result: Any


class _Failure(Struct):
    jsonrpc: str
    id: Id
    error: Error


class _OnlyId(Struct):
    id: Id = None


class _Answer(Struct):
    """Anything a server sends."""

    id: Id = None
    method: str | None = None
    params: Raw = Raw(b"{}")
    result: Raw | UnsetType = UNSET
    error: Error | UnsetType = UNSET


class Answer(NamedTuple):
    """The outcome of the request with this id, still encoded if it is a result."""

    id: Id
    outcome: Raw | Error


_encoder: Final = msgspec.json.Encoder()
_incoming: Final = msgspec.json.Decoder(_Incoming)
_answer: Final = msgspec.json.Decoder(_Answer)
_params: Final = {method: msgspec.json.Decoder(type_) for method, type_ in METHODS.items()}
_results: Final = {type_: msgspec.json.Decoder(reply) for type_, reply in REPLIES.items()}

_EVENTS: Final[dict[str, type[Hello | Stats | Access]]] = {
    "hello": Hello,
    "stats": Stats,
    "access": Access,
}

# What decoding bytes from outside can raise. RecursionError: deeply nested arrays.
_UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class LineBuffer:
    """Cuts a stream into lines. A line over `limit` bytes comes out as None, once, at its end."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._tail = bytearray()
        self._oversize = False

    @property
    def has_partial_line(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._tail) or self._oversize

    def feed(self, data: bytes) -> list[bytes | None]:
        """Take in what arrived, give out the lines that are complete, without their newlines."""
        parts = data.split(b"\n")
        rest = parts.pop()
        lines: list[bytes | None] = [*parts]
        if len(data) > self._limit:
            lines = [part if len(part) <= self._limit else None for part in parts]
        if lines and self.has_partial_line:
            self._keep(parts[0])
            lines[0] = self._finish()
        if rest:
            self._keep(rest)
        return lines

    def _finish(self) -> bytes | None:
        line = None if self._oversize else bytes(self._tail)
        self._tail.clear()
        self._oversize = False
        return line

    def _keep(self, part: bytes) -> None:
        self._oversize = self._oversize or len(self._tail) + len(part) > self._limit
        if self._oversize:
            self._tail.clear()
        else:
            self._tail += part


def decode_request(line: bytes | None) -> Call:
    """The request in a line of `LineBuffer`; ProtocolError (with its id, if it has one) if none."""
    if line is None:
        raise ProtocolError(
            INVALID_REQUEST, f"the line is longer than {MAX_LINE} bytes: send big data as a memfd"
        )
    try:
        incoming = _incoming.decode(line)
    except _UNDECODABLE as error:
        raise _refusal(line, error) from None
    id = None if incoming.id is UNSET else incoming.id
    decoder = _params.get(incoming.method)
    if decoder is None:
        known = ", ".join(METHODS)
        raise ProtocolError(
            METHOD_NOT_FOUND, f"no method {incoming.method[:64]!r}; there are {known}", id
        )
    try:
        request = decoder.decode(incoming.params)
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ProtocolError(INVALID_PARAMS, f"{incoming.method}: {error}", id) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(PARSE_ERROR, f"not JSON: {error}", id) from None
    return Call(incoming.id, request, incoming.descriptors)


def _refusal(line: bytes, error: Exception) -> ProtocolError:
    if not isinstance(error, msgspec.ValidationError):
        return ProtocolError(PARSE_ERROR, f"not JSON: {error}")
    if line.lstrip().startswith(b"["):
        return ProtocolError(
            INVALID_REQUEST, "batch arrays are not supported: send one request a line, any number"
        )
    try:
        id = msgspec.json.decode(line, type=_OnlyId).id
    except msgspec.ValidationError:
        id = None
    except _UNDECODABLE as broken:  # validation stopped early, before the broken part
        return ProtocolError(PARSE_ERROR, f"not JSON: {broken}")
    return ProtocolError(INVALID_REQUEST, f"not a JSON-RPC 2.0 request: {error}", id)


def encode_request(
    request: Request[Any], id: Id | UnsetType = UNSET, descriptors: int = 0
) -> bytes:
    """The line that asks for `request`, with this many descriptors beside it."""
    method = METHOD_NAMES[type(request)]
    return _encoder.encode(_Outgoing(VERSION, method, request, id, descriptors)) + b"\n"


def encode_result(id: Id, result: object) -> bytes:
    """The line that answers a request."""
    return _encoder.encode(_Result(VERSION, id, result)) + b"\n"


def encode_result_in_parts(id: Id, result: Reply) -> Iterator[bytes]:
    """The line of `encode_result`, a bounded number of list items at a time."""
    members = (getattr(result, name) for name in result.__struct_fields__)
    if not any(isinstance(member, list) for member in members):
        yield encode_result(id, result)
        return
    yield _encoder.encode(_Result(VERSION, id, None))[: -len("null}")]
    yield from _encode_in_parts(result)
    yield b"}\n"


def _encode_in_parts(value: object) -> Iterator[bytes]:
    if isinstance(value, Struct):
        for number, name in enumerate(value.__struct_fields__):
            yield (b"," if number else b"{") + _encoder.encode(name) + b":"
            yield from _encode_in_parts(getattr(value, name))
        yield b"}"
    elif isinstance(value, list) and value:
        for at in range(0, len(value), PART_ITEMS):
            yield b"," if at else b"["
            yield from _encode_items(value[at : at + PART_ITEMS])
        yield b"]"
    else:
        yield _encoder.encode(value)


def _encode_items(items: list[object]) -> Iterator[bytes]:
    if not isinstance(items[0], SharedProcess):
        yield _encoder.encode(items)[1:-1]
        return
    for number, item in enumerate(items):  # each of these can have many mappings
        yield b"," if number else b""
        yield from _encode_in_parts(item)


def encode_error(id: Id, error: ProtocolError | OSError) -> bytes:
    """The line that refuses a request."""
    return _encoder.encode(_Failure(VERSION, id, _error_of(error))) + b"\n"


def encode_hello(hello: Hello) -> bytes:
    """The first line of a connection."""
    return _encoder.encode(_Outgoing(VERSION, "hello", hello)) + b"\n"


def encode_event(name: str, content: object) -> bytes:
    """The line that tells a subscriber of something."""
    return _encoder.encode(_Outgoing(VERSION, name, content)) + b"\n"


def _error_of(error: ProtocolError | OSError) -> Error:
    if isinstance(error, ProtocolError):
        return Error(error.code, str(error))
    number = error.errno or errno.EIO
    name = errno.errorcode.get(number, str(number))
    data = ErrorData(name)
    if isinstance(error, AccessFault):
        data.signal, data.address = error.signal, error.address
    return Error(KERNEL_ERROR, error.strerror or os.strerror(number), data)


def decode_answer(line: bytes | None) -> Answer | Hello | Stats | Access | None:
    """What a server said; None for an event that this client does not know."""
    if line is None:
        raise ProtocolError(INVALID_REQUEST, "the server sent a line that is too long")
    try:
        answer = _answer.decode(line)
        event = _EVENTS.get(answer.method or "")
        if event is not None:
            return msgspec.json.decode(answer.params, type=event)
    except _UNDECODABLE as error:
        raise ProtocolError(PARSE_ERROR, f"not an answer of a dksmfs server: {error}") from None
    if isinstance(answer.error, Error):
        return Answer(answer.id, answer.error)
    return Answer(answer.id, answer.result) if isinstance(answer.result, Raw) else None


def decode_result(request: Request[R], outcome: Raw | Error) -> R:
    """The reply to `request`; raises what the server said instead."""
    if isinstance(outcome, Error):
        raise exception_of(outcome)
    try:
        return cast(R, _results[type(request)].decode(outcome))
    except _UNDECODABLE as error:
        raise ProtocolError(PARSE_ERROR, f"not the expected result: {error}") from None


def exception_of(error: Error) -> Exception:
    """The exception that became `error` on the server's side."""
    if error.data is None:
        return ProtocolError(error.code, error.message)
    number = getattr(errno, error.data.errno, errno.EIO)
    if error.data.signal is not None and error.data.address is not None:
        return AccessFault(error.data.signal, error.data.address)
    return OSError(number, error.message)
