"""Everything that a client can send wrong: a clear answer, and nothing else happens."""

import fcntl
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dksmfs.control.limits import MAX_LINE
from tests.control.serving import (
    PAGE,
    Raw,
    memfd,
    open_descriptors,
    raw_connection,
    serving,
)

PARSE, REQUEST, METHOD, PARAMS = -32700, -32600, -32601, -32602
SHRINK = fcntl.F_SEAL_SHRINK


@asynccontextmanager
async def unharmed() -> AsyncIterator[Raw]:
    """A connection to send something wrong to. Afterwards it must still work, the machine must
    be as it was, and so must another client with a process of its own."""
    async with serving() as served, raw_connection(served) as other, raw_connection(served) as raw:
        await other.result("store", file="run", data="1")
        await other.result("spawn", name="other's")
        extent: dict[str, Any] = {"pid": 1, "address": 0x10000, "length": 2 * PAGE}
        await other.result("mmap", **extent, content="const:5")
        await other.result("madvise", **extent, advice="mergeable")
        before = await state(other)
        descriptors = open_descriptors()
        yield raw
        assert await state(raw) == before
        assert await state(other) == before
        assert open_descriptors() == descriptors
        served.machine.check_invariants()
        data = (await other.result("read", pid=1, address=0x10000, length=1))["data"]
        assert data == "BQ=="


async def state(raw: Raw) -> list[Any]:
    """All that can be seen, but for whose the processes are: that depends on who looks."""
    processes = (await raw.result("ps"))["processes"]
    for process in processes:
        del process["owner"]
    return [processes, await raw.result("sharing"), await raw.result("stats")]


def request(method: str, params: str) -> bytes:
    return f'{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{params}}}'.encode()


SPAWN = b'"method":"spawn","params":{"name":"x"}'
NAMED = '{"pid":1,"address":4096,"length":4096'

MALFORMED = [
    (b"spawn", PARSE, None),
    (b"{", PARSE, None),
    (b'{"jsonrpc":"2.0","id":7,"method":"ps"', PARSE, None),
    (b'{"jsonrpc":"2.0","id":7,' + SPAWN + b"}}", PARSE, None),
    (b'{"jsonrpc":"2.0","id":7,"method":"\xff"}', PARSE, None),
    (b"\0", PARSE, None),
    (b"[" * 300_000, REQUEST, None),
    (b"[]", REQUEST, None),
    (b'[{"jsonrpc":"2.0","id":7,' + SPAWN + b"}]", REQUEST, None),
    (b"7", REQUEST, None),
    (b'"spawn"', REQUEST, None),
    (b"null", REQUEST, None),
    (b"{}", REQUEST, None),
    (b'{"id":7,' + SPAWN + b"}", REQUEST, 7),
    (b'{"jsonrpc":"1.0","id":7,' + SPAWN + b"}", REQUEST, 7),
    (b'{"jsonrpc":"2.0","id":7}', REQUEST, 7),
    (b'{"jsonrpc":"2.0","id":7,"method":5}', REQUEST, 7),
    (b'{"jsonrpc":"2.0","id":{},' + SPAWN + b"}", REQUEST, None),
    (b'{"jsonrpc":"2.0","id":1.5,' + SPAWN + b"}", REQUEST, None),
    (b'{"jsonrpc":"2.0","id":9007199254740993,' + SPAWN + b"}", REQUEST, None),
    (b'{"jsonrpc":"2.0","id":7,"colour":1,' + SPAWN + b"}", REQUEST, 7),
    (b'{"jsonrpc":"2.0","id":7,"descriptors":-1,' + SPAWN + b"}", REQUEST, 7),
    (b'{"jsonrpc":"2.0","id":7,"descriptors":17,' + SPAWN + b"}", REQUEST, 7),
    (request("swapn", "{}"), METHOD, 7),
    (request("", "{}"), METHOD, 7),
    (request("spawn", "{}"), PARAMS, 7),
    (request("spawn", "null"), PARAMS, 7),
    (request("spawn", '["x"]'), PARAMS, 7),
    (request("spawn", '{"name":5}'), PARAMS, 7),
    (request("spawn", '{"name":""}'), PARAMS, 7),
    (request("spawn", '{"name":"%s"}' % ("x" * 65)), PARAMS, 7),
    (request("spawn", '{"name":"\\u001b[2J"}'), PARAMS, 7),
    (request("spawn", '{"name":"x","colour":"red"}'), PARAMS, 7),
    (request("spawn", '{"name":"x","detached":1}'), PARAMS, 7),
    (request("exit", '{"pid":"1"}'), PARAMS, 7),
    (request("exit", '{"pid":true}'), PARAMS, 7),
    (request("exit", '{"pid":1.5}'), PARAMS, 7),
    (request("exit", '{"pid":-1}'), PARAMS, 7),
    (request("exit", '{"pid":0}'), PARAMS, 7),
    (request("exit", '{"pid":%s}' % ("9" * 4000)), PARAMS, 7),
    (request("mmap", '{"pid":1,"length":-1}'), PARAMS, 7),
    (request("mmap", f'{{"pid":1,"length":{2**47 + 1}}}'), PARAMS, 7),
    (request("mmap", '{"pid":1,"length":4096,"prot":"rr"}'), PARAMS, 7),
    (request("mmap", '{"pid":1,"length":4096,"kind":"stack"}'), PARAMS, 7),
    (request("mmap", '{"pid":1,"length":4096,"content":{}}'), PARAMS, 7),
    (request("mmap", '{"pid":1,"length":4096,"content":{"data":"","memfd":0}}'), PARAMS, 7),
    (request("mmap", '{"pid":1,"length":4096,"content":{"data":"?"}}'), PARAMS, 7),
    (request("mmap", '{"pid":1,"length":4096,"content":{"memfd":0}}'), PARAMS, 7),
    (request("mmap", '{"pid":1,"length":4096,"content":5}'), PARAMS, 7),
    (request("madvise", NAMED + ',"advice":"mergable"}'), PARAMS, 7),
    (request("madvise", NAMED + ',"advice":12.5}'), PARAMS, 7),
    (
        request("madvise", '{"pid":1,"address":18446744073709551616,"length":0,"advice":12}'),
        PARAMS,
        7,
    ),
    (request("read", '{"pid":1,"address":0,"length":1000000000}'), PARAMS, 7),
    (request("pagemap", '{"pid":1,"address":0,"length":1000000000}'), PARAMS, 7),
    (request("mkfile", '{"file":"f","pages":1000000000,"content":"zero"}'), PARAMS, 7),
    (request("store", '{"file":"run","data":"\\u0100"}'), PARAMS, 7),
    (request("thp", '{"mode":"sometimes"}'), PARAMS, 7),
]


@pytest.mark.parametrize(("line", "code", "id"), MALFORMED)
async def test_malformed_requests(line: bytes, code: int, id: int | None) -> None:
    async with unharmed() as raw:
        await raw.send(line + b"\n")
        answer = await raw.answer()
        assert set(answer) == {"jsonrpc", "id", "error"}
        assert (answer["error"]["code"], answer["id"]) == (code, id)
        assert len(answer["error"]["message"]) > 10
        assert "data" not in answer["error"]


KERNEL = [
    ("exit", {"pid": 99}, "ESRCH"),
    ("mmap", {"pid": 99, "length": 4096}, "ESRCH"),
    ("exit", {"pid": 1}, "EPERM"),
    ("fork", {"pid": 1}, "EPERM"),
    ("mmap", {"pid": 1, "length": 4096}, "EPERM"),
    ("munmap", {"pid": 1, "address": 0x10000, "length": 4096}, "EPERM"),
    ("write", {"pid": 1, "address": 0x10000, "data": "AAAA"}, "EPERM"),
    ("show", {"file": "nothing"}, "ENOENT"),
    ("store", {"file": "run", "data": "2"}, "EINVAL"),
    ("store", {"file": "run", "data": "-0"}, "EINVAL"),
    ("store", {"file": "hashtable_size", "data": "1"}, "EACCES"),
    ("mkfile", {"file": "f", "pages": 0, "content": "zero"}, "EINVAL"),
]


@pytest.mark.parametrize(("method", "params", "name"), KERNEL)
async def test_refusals_of_the_kernel(method: str, params: dict[str, Any], name: str) -> None:
    async with unharmed() as raw:
        error = (await raw.ask(method, **params))["error"]
        assert (error["code"], error["data"]["errno"]) == (-32000, name)


OWN = [
    ("mmap", {"length": 0}, {"errno": "EINVAL"}),
    ("mmap", {"length": 4096, "address": 1}, {"errno": "EINVAL"}),
    ("mmap", {"length": 4096, "address": 2**47}, {"errno": "ENOMEM"}),
    ("mmap", {"length": 1 << 46, "content": "zero"}, {"errno": "ENOMEM"}),
    ("mmap", {"length": 4096, "kind": "file-shared", "file": "f"}, {"errno": "ENOENT"}),
    ("munmap", {"address": 1, "length": 4096}, {"errno": "EINVAL"}),
    ("mprotect", {"address": 0, "length": 4096, "prot": "r"}, {"errno": "ENOMEM"}),
    ("mremap", {"address": 0, "length": 4096, "new_address": 8192}, {"errno": "EFAULT"}),
    ("madvise", {"address": 1, "length": 4096, "advice": 12}, {"errno": "EINVAL"}),
    ("madvise", {"address": 0, "length": 4096, "advice": 12}, {"errno": "ENOMEM"}),
    ("madvise", {"address": 0, "length": 4096, "advice": -5}, {"errno": "EINVAL"}),
    ("madvise", {"address": 2**64 - 4096, "length": 2**64 - 1, "advice": 12}, {"errno": "EINVAL"}),
    (
        "read",
        {"address": 8192, "length": 1},
        {"errno": "EFAULT", "signal": "SIGSEGV", "address": 8192},
    ),
    ("touch", {"address": 2**62, "length": 1}, {"errno": "ENOMEM"}),
    ("write", {"address": 2**47, "data": "AA=="}, {"errno": "ENOMEM"}),
]


@pytest.mark.parametrize(("method", "params", "data"), OWN)
async def test_bad_ranges(method: str, params: dict[str, Any], data: dict[str, Any]) -> None:
    async with unharmed() as raw:
        pid = (await raw.result("spawn", name="mine"))["pid"]
        answer = await raw.ask(method, pid=pid, **params)
        await raw.result("exit", pid=pid)
        error = answer["error"]
        assert (error["code"], error["data"]) == (-32000, data)


@pytest.mark.parametrize("size", [MAX_LINE + 1, 3 * MAX_LINE])
async def test_an_oversize_line(size: int) -> None:
    async with unharmed() as raw:
        await raw.send(request("spawn", '{"name":"x"}').ljust(size) + b"\n")
        error = (await raw.answer())["error"]
        assert error["code"] == REQUEST
        assert "memfd" in error["message"]


async def test_a_line_of_the_largest_size() -> None:
    async with unharmed() as raw:
        await raw.send(request("stats", "{}").ljust(MAX_LINE) + b"\n")
        assert (await raw.answer())["id"] == 7


def mmap_line(descriptors: int | None = 1, content: str = '{"memfd":0}', pages: int = 1) -> bytes:
    announced = "" if descriptors is None else f'"descriptors":{descriptors},'
    params = f'{{"pid":2,"length":{pages * PAGE},"content":{content}}}'
    return f'{{"jsonrpc":"2.0","id":7,{announced}"method":"mmap","params":{params}}}\n'.encode()


@asynccontextmanager
async def refused_mapping() -> AsyncIterator[Raw]:
    """Like `unharmed`, with a process to map something into."""
    async with unharmed() as raw:
        await raw.result("spawn", name="mine")
        yield raw
        assert (await raw.result("smaps", pid=2))["mappings"] == []
        await raw.result("exit", pid=2)


@pytest.mark.parametrize(
    ("line", "count", "code"),
    [
        (mmap_line(1), 0, REQUEST),  # missing
        (mmap_line(2), 1, REQUEST),
        (mmap_line(1), 2, REQUEST),  # surplus
        (mmap_line(None), 1, REQUEST),  # not announced
        (mmap_line(None), 0, PARAMS),
        (mmap_line(2), 2, PARAMS),  # announced, and not used
        (mmap_line(1, '"zero"'), 1, PARAMS),
        (mmap_line(1, '{"memfd":1}'), 1, PARAMS),
        (mmap_line(1, pages=2), 1, PARAMS),  # content too short
        (b"nonsense\n", 1, PARSE),
        (request("swapn", "{}") + b"\n", 1, METHOD),
    ],
)
async def test_wrong_numbers_of_descriptors(line: bytes, count: int, code: int) -> None:
    async with refused_mapping() as raw:
        with memfd(b"x" * PAGE, SHRINK) as descriptor:
            await raw.send(line, [descriptor] * count)
            assert (await raw.answer())["error"]["code"] == code


@contextmanager
def unsealed() -> Iterator[int]:
    with memfd(b"x" * PAGE, fcntl.F_SEAL_GROW) as descriptor:
        yield descriptor


@contextmanager
def regular_file() -> Iterator[int]:
    with Path(__file__).open("rb") as file:
        yield file.fileno()


@contextmanager
def a_socket() -> Iterator[int]:
    with socket.socket(socket.AF_UNIX) as made:
        yield made.fileno()


@contextmanager
def directory() -> Iterator[int]:
    descriptor = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@contextmanager
def path_only() -> Iterator[int]:
    descriptor = os.open(__file__, os.O_PATH)
    yield descriptor
    os.close(descriptor)


@contextmanager
def sparse() -> Iterator[int]:
    descriptor = os.memfd_create("sparse", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 1 << 33)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SHRINK)
    yield descriptor
    os.close(descriptor)


@contextmanager
def enormous() -> Iterator[int]:
    descriptor = os.memfd_create("enormous", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 1 << 60)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SHRINK)
    yield descriptor
    os.close(descriptor)


@contextmanager
def write_only() -> Iterator[int]:
    with memfd(b"x" * PAGE, SHRINK) as made:
        descriptor = os.open(f"/proc/self/fd/{made}", os.O_WRONLY)
        yield descriptor
        os.close(descriptor)


@pytest.mark.parametrize(
    ("make", "name", "word"),
    [
        (unsealed, "EINVAL", "F_SEAL_SHRINK"),
        (regular_file, "EINVAL", "memfd"),
        (a_socket, "EINVAL", "memfd"),
        (directory, "EINVAL", "memfd"),
        (path_only, "EINVAL", "memfd"),
        (sparse, "ENOMEM", "never written"),
        (enormous, "ENOMEM", "larger"),
        (write_only, "EACCES", "memfd"),
    ],
)
async def test_descriptors_that_will_not_do(make: Any, name: str, word: str) -> None:
    async with refused_mapping() as raw:
        with make() as descriptor:
            await raw.send(mmap_line(), [descriptor])
            error = (await raw.answer())["error"]
            assert (error["code"], error["data"]["errno"]) == (-32000, name)
            assert word in error["message"]


@pytest.mark.parametrize("lines", [b"", mmap_line()])
async def test_a_flood_of_descriptors_ends_the_connection(lines: bytes) -> None:
    async with unharmed() as _, serving() as served:
        before = open_descriptors()
        with memfd(b"x" * PAGE, SHRINK) as descriptor:
            async with raw_connection(served) as raw:
                await raw.send(lines or b"{", [descriptor] * 17)
                assert (await raw.answer())["error"]["code"] == REQUEST
                assert await raw.line() == b""
        assert open_descriptors() == before


async def test_descriptors_piling_up_end_the_connection() -> None:
    async with serving() as served, raw_connection(served) as raw:
        with memfd(b"x" * PAGE, SHRINK) as descriptor:
            for _ in range(17):
                await raw.send(b"{", [descriptor])
            assert (await raw.answer())["error"]["code"] == REQUEST
            assert await raw.line() == b""


async def test_each_message_gets_its_own_descriptors() -> None:
    """The kernel may hand over several messages at once."""
    async with serving() as served, raw_connection(served) as raw:
        await raw.result("spawn", name="first")
        await raw.result("spawn", name="second")
        with memfd(b"a" * PAGE, SHRINK) as one, memfd(b"b" * PAGE, SHRINK) as two:
            async with served.exclusive:  # the server is busy while all of this is sent
                await raw.send(request("touch", '{"pid":2,"address":4096,"length":0}') + b"\n")
                await raw.send(mmap_line(), [one])
                await raw.send(request("stats", "{}") + b"\n")
                await raw.send(mmap_line(), [two])
        assert (await raw.answer())["result"] == {}
        first = (await raw.answer())["result"]["address"]
        assert "run" in (await raw.answer())["result"]
        second = (await raw.answer())["result"]["address"]
        for address, data in ((first, "YQ=="), (second, "Yg==")):
            read = await raw.result("read", pid=2, address=address, length=1)
            assert msgspec.to_builtins(read) == {"data": data}
