"""Bytes to messages and back: whatever arrives, the outcome is a request or a clear refusal."""

import errno
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from dksmfs.control import messages as m
from dksmfs.control import replies, wire
from dksmfs.control.limits import MAX_POPULATED
from dksmfs.control.messages import METHODS, REPLIES, Carried, Hello
from dksmfs.control.wire import LineBuffer, ProtocolError
from dksmfs.kernel.errors import AccessFault

pids = st.integers(1, 2**31 - 1)
addresses = st.integers(0, 2**63 - 1)
lengths = st.integers(0, 2**47)
words = st.integers(0, 2**64 - 1)
names = st.text(
    st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]),
    min_size=1,
    max_size=64,
)
prots = st.sampled_from(["none", "r", "rw", "rwx"])
carried = st.one_of(
    st.builds(Carried, data=st.binary(max_size=99)), st.builds(Carried, memfd=st.integers(0, 15))
)
content = st.one_of(st.sampled_from(["zero", "const:1", "pattern:0xff"]), carried)
kinds = st.sampled_from(["anon", "shared-anon", "file-private", "file-shared", "hugetlb"])
advice = st.one_of(st.sampled_from(["mergeable", "dontneed"]), st.integers(-(2**31), 2**31 - 1))
requests = st.one_of(
    st.builds(m.Spawn, names, st.booleans()),
    st.builds(m.Fork, pids, st.none() | names),
    st.builds(m.Exit, pids),
    st.builds(m.Ps),
    st.builds(
        m.Mmap,
        pids,
        lengths,
        st.none() | addresses,
        prots,
        kinds,
        st.none() | names,
        st.none() | content,
    ),
    st.builds(m.Munmap, pids, addresses, lengths),
    st.builds(m.Mprotect, pids, addresses, lengths, prots),
    st.builds(m.Mremap, pids, addresses, lengths, addresses),
    st.builds(m.Madvise, pids, words, words, advice),
    st.builds(m.Read, pids, addresses, st.integers(0, 512 << 10)),
    st.builds(m.Write, pids, addresses, st.binary(max_size=99)),
    st.builds(m.Fill, pids, addresses, lengths, content),
    st.builds(m.Mkfile, names, st.integers(0, MAX_POPULATED >> 12), content),
    st.builds(m.Store, names, st.text(st.characters(max_codepoint=255), max_size=99)),
    st.builds(m.SetThp, st.sampled_from([None, "always", "never"])),
)
ids = st.one_of(
    st.none(),
    st.integers(-(2**53), 2**53),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=64),
)


@given(requests, st.just(UNSET) | ids, st.integers(0, 16))
def test_requests_survive_the_wire(request: m.Request[Any], id: Any, descriptors: int) -> None:
    line = wire.encode_request(request, id, descriptors)
    assert line.count(b"\n") == 1
    assert wire.decode_request(line.rstrip(b"\n")) == wire.Call(id, request, descriptors)


@given(
    st.sampled_from(
        [
            (m.Spawn("x"), m.Spawned(7)),
            (m.Read(1, 0, 3), m.Bytes(b"\0\xff\n")),
            (m.ViewPagemap(1, 0, 0), m.Pagemap([None, "Z", 8], 1)),
            (m.ReadStats(), m.Stats(1, 2, 3, 4, 5, 4096)),
            (m.Munmap(1, 0, 1), m.Done()),
        ]
    ),
    ids,
)
def test_replies_survive_the_wire(exchange: tuple[m.Request[m.Reply], m.Reply], id: Any) -> None:
    request, reply = exchange
    said = wire.decode_answer(wire.encode_result(id, reply).rstrip(b"\n"))
    assert isinstance(said, wire.Answer)
    assert said.id == id
    assert wire.decode_result(request, said.outcome) == reply


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOMEM, "part of the range is not mapped"),
        PermissionError(errno.EPERM, "not yours"),
        AccessFault("SIGBUS", 0x5000),
        ProtocolError(-32602, "wrong"),
    ],
)
def test_errors_come_out_as_they_went_in(error: OSError | ProtocolError) -> None:
    said = wire.decode_answer(wire.encode_error(3, error).rstrip(b"\n"))
    assert isinstance(said, wire.Answer)
    with pytest.raises(type(error)) as caught:
        wire.decode_result(m.ReadStats(), said.outcome)
    assert caught.value.args == error.args
    assert vars(caught.value) == vars(error)


def test_hello_survives_the_wire() -> None:
    hello = Hello("1.2", None, 5)
    assert wire.decode_answer(wire.encode_hello(hello).rstrip(b"\n")) == hello


def test_a_client_passes_over_what_it_does_not_know() -> None:
    assert wire.decode_answer(b'{"jsonrpc":"2.0","method":"news","params":{}}') is None
    newer = b'{"jsonrpc":"2.0","id":1,"result":{"pid":3,"since":"later"}}'
    said = wire.decode_answer(newer)
    assert isinstance(said, wire.Answer)
    assert wire.decode_result(m.Spawn("x"), said.outcome) == m.Spawned(3)


def decode(line: bytes | None) -> wire.Call | ProtocolError:
    try:
        return wire.decode_request(line)
    except ProtocolError as error:
        return error


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(line: bytes) -> None:
    decode(line)


@given(requests, st.data())
def test_a_damaged_request_is_a_request_or_refused(
    request: m.Request[Any], data: st.DataObject
) -> None:
    line = bytearray(wire.encode_request(request, 5)[:-1])
    for _ in range(data.draw(st.integers(1, 4))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    outcome = decode(bytes(line))
    if isinstance(outcome, ProtocolError):
        wire.encode_error(outcome.id, outcome)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_as_params_is_a_request_or_refused(params: Any) -> None:
    try:
        encoded = msgspec.json.encode(params)
    except UnicodeEncodeError:
        return  # half a surrogate pair: no JSON text has that
    for method in METHODS:
        line = b'{"jsonrpc":"2.0","id":5,"method":"%s","params":%s}' % (method.encode(), encoded)
        outcome = decode(line)
        if isinstance(outcome, ProtocolError):
            assert (outcome.code, outcome.id) == (wire.INVALID_PARAMS, 5)


@pytest.mark.parametrize(
    "line",
    [b"[" * 500_000, b'{"params":' * 100_000, b'{"method":"spawn","params":' + b"[" * 500_000],
)
def test_deep_nesting_is_refused(line: bytes) -> None:
    outcome = decode(line)
    assert isinstance(outcome, ProtocolError)
    assert outcome.code in (wire.PARSE_ERROR, wire.INVALID_REQUEST)


@given(
    st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=9),
    st.data(),
)
def test_lines_do_not_depend_on_how_they_arrive(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    buffer = LineBuffer(limit=8)
    out: list[bytes | None] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        out += buffer.feed(stream[:size])
        assert len(buffer._tail) <= 8
        stream = stream[size:]
    assert out == [line if len(line) <= 8 else None for line in lines]
    assert not buffer.has_partial_line


def test_an_unfinished_line_is_known() -> None:
    buffer = LineBuffer(limit=8)
    assert buffer.feed(b"12345678") == []
    assert buffer.has_partial_line
    assert buffer.feed(b"9") == []
    assert buffer.has_partial_line
    assert buffer.feed(b"\nok\n") == [None, b"ok"]


def test_every_method_has_a_reply() -> None:
    assert set(REPLIES) == set(METHODS.values())
    assert all(issubclass(reply, m.Reply) for reply in REPLIES.values())


def shared(pages: int, mappings: int) -> replies.SharedProcess:
    mapping = replies.SharedMapping(4096, [1] * pages)
    return replies.SharedProcess(1, 'a "name"', [mapping] * mappings)


@pytest.mark.parametrize(
    "reply",
    [
        replies.Done(),
        replies.Stats(1, 2, 3, 4, 5, 6),
        replies.Bytes(b"bytes"),
        replies.Pagemap([], 0),
        replies.Pagemap([1, "Z", None] * 500, 7),
        replies.Contents(["7/8", None]),
        replies.Processes([replies.ProcessInfo(1, "vm", None, "you", 3)] * 1000),
        replies.Sharing([]),
        replies.Sharing([shared(1000, 3), shared(0, 0), shared(1, 1000)] * 50),
    ],
    ids=lambda reply: type(reply).__name__,
)
def test_a_reply_in_parts_is_the_same_line(reply: replies.Reply) -> None:
    parts = list(wire.encode_result_in_parts("id", reply))
    assert b"".join(parts) == wire.encode_result("id", reply)
    assert max(map(len, parts)) < 20_000, "a part is bounded, whatever the reply"
