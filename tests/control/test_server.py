"""The real socket: order, ownership, slices, many clients, and clients that die."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from dksmfs.control import server
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.pausing import Work
from tests.control.serving import PAGE, Raw, Served, memfd, raw_connection, serving

PAGES = 65_536  # enough for sixteen slices


def line(method: str, id: object = 1, **params: object) -> bytes:
    request = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
    return msgspec.json.encode(request) + b"\n"


async def big_process(raw: Raw, pages: int = PAGES) -> tuple[int, int]:
    """A process whose pages, all the same, take many slices to advertise."""
    await raw.result("store", file="run", data="1")
    pid = (await raw.result("spawn", name="big"))["pid"]
    mapping = await raw.result("mmap", pid=pid, length=pages * PAGE, content="const:7")
    return pid, mapping["address"]


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as served, raw_connection(served) as raw:
        await raw.send(b"".join(line("spawn", n, name=f"vm-{n}") for n in range(3000)))
        for n in range(3000):
            assert await raw.answer() == {"jsonrpc": "2.0", "id": n, "result": {"pid": n + 1}}


async def test_a_notification_is_carried_out_without_a_reply() -> None:
    async with serving() as served, raw_connection(served) as raw:
        await raw.send(b'{"jsonrpc":"2.0","method":"spawn","params":{"name":"quiet"}}\n')
        await raw.send(b'{"jsonrpc":"2.0","method":"exit","params":{"pid":99}}\n')
        assert [p["name"] for p in (await raw.result("ps"))["processes"]] == ["quiet"]


async def test_blank_lines_and_carriage_returns_do_no_harm() -> None:
    async with serving() as served, raw_connection(served) as raw:
        await raw.send(b"\n  \r\n" + line("stats")[:-1] + b"\r\n")
        assert (await raw.answer())["result"]["hashtable_size"] == 4096


async def test_a_request_may_arrive_in_pieces() -> None:
    async with serving() as served, raw_connection(served) as raw:
        for byte in line("spawn", name="slow"):
            await raw.send(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        assert (await raw.answer())["result"] == {"pid": 1}


async def test_looks_are_served_between_the_slices_of_an_advertisement() -> None:
    async with (
        serving() as served,
        raw_connection(served) as writer,
        raw_connection(served) as reader,
    ):
        pid, address = await big_process(writer)
        await writer.send(
            line("madvise", pid=pid, address=address, length=PAGES * PAGE, advice="mergeable")
        )
        seen = [0]
        while seen[-1] < PAGES:
            seen.append((await reader.result("stats"))["pages_scanned"])
        assert [n for n in seen if 0 < n < PAGES], "all at once"
        assert (await writer.answer())["result"] == {}


class Endless:
    """A method of machines that pauses again and again until it is told to end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str = "madvise") -> None:
        self.begun = trio.Event()
        self.outcome = "unfinished"
        self.may_end = False
        self._real = getattr(Machine, method).work
        monkeypatch.setattr(getattr(Machine, method), "work", self._work)

    def _work(self, *args: Any, **kwargs: Any) -> Work[Any]:
        try:
            self.begun.set()
            while not self.may_end:
                yield
            result = yield from self._real(*args, **kwargs)
            self.outcome = "finished"
            return result
        except GeneratorExit:
            self.outcome = "given up"
            raise


ADVISE = line("madvise", pid=1, address=0, length=0, advice="mergeable")
RANGE: dict[str, Any] = {"pid": 1, "address": 0x10000, "length": PAGE}
LONG: dict[str, dict[str, Any]] = {
    "fork": {"pid": 1},
    "exit": {"pid": 1},
    "mmap": {"pid": 1, "length": PAGE, "content": "zero"},
    "munmap": RANGE,
    "mprotect": {**RANGE, "prot": "r"},
    "mremap": {**RANGE, "new_address": 0x20000},
    "mlock": RANGE,
    "munlock": RANGE,
    "madvise": {**RANGE, "advice": "dontneed"},
    "read": RANGE,
    "write": {"pid": 1, "address": 0x10000, "data": "aGVsbG8="},
    "fill": {**RANGE, "content": "index:7"},
    "touch": RANGE,
    "mkfile": {"file": "disk", "pages": 1, "content": "zero"},
    "reset": {},
}
"""Requests that change the machine and may take long, with parameters for `one_page`."""


async def one_page(raw: Raw) -> None:
    """Process 1, with a page at `RANGE`."""
    await raw.result("spawn", name="first")
    await raw.result("mmap", pid=1, address=0x10000, length=PAGE, content="const:7")


@pytest.mark.parametrize("method", LONG)
async def test_looks_are_answered_while_a_change_takes_long(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async with (
        serving() as served,
        raw_connection(served) as first,
        raw_connection(served) as second,
        raw_connection(served) as reader,
    ):
        await one_page(first)
        endless = Endless(monkeypatch, method)
        await first.send(line(method, **LONG[method]))
        await endless.begun.wait()
        await second.send(line("spawn", name="second"))
        for _ in range(10):
            assert (await reader.result("stats"))["run"] == 0
            assert (await reader.result("show", file="run"))["data"] == "0\n"
            assert len((await reader.result("ps"))["processes"]) == 1
            assert len((await reader.result("smaps", pid=1))["mappings"]) == 1
        endless.may_end = True
        assert "result" in await first.answer()
        assert "result" in await second.answer()


@pytest.mark.parametrize("method", [name for name in LONG if name != "reset"])
async def test_a_change_is_finished_without_its_client(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async with serving() as served, raw_connection(served) as witness:
        async with raw_connection(served) as raw:
            await one_page(raw)
            endless = Endless(monkeypatch, method)
            await raw.send(line(method, **LONG[method]))
            await endless.begun.wait()
        for _ in range(10):
            assert (await witness.result("stats"))["run"] == 0
        assert endless.outcome == "unfinished"
        assert served.exclusive.value == 0
        endless.may_end = True
        await only_detached(served)
        assert endless.outcome == "finished"
        await witness.result("spawn", name="own")


@pytest.mark.parametrize("method", ["ps", "smaps", "pagemap", "contents", "sharing"])
async def test_nobody_waits_for_a_long_look(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    views = {"ps": "processes", "contents": "page_contents", "sharing": "smaps"}
    ranges: dict[str, dict[str, Any]] = {"ps": {}, "sharing": {}, "smaps": {"pid": 1}}
    async with (
        serving() as served,
        raw_connection(served) as first,
        raw_connection(served) as second,
    ):
        await one_page(first)
        with monkeypatch.context() as patched:
            endless = Endless(patched, views.get(method, method))
            await first.send(line(method, **ranges.get(method, RANGE)))
            await endless.begun.wait()
        assert (await second.result("spawn", name="second"))["pid"] == 2
        assert (await second.result("smaps", pid=1))["mappings"]
        endless.may_end = True
        assert "result" in await first.answer()


async def test_a_look_is_given_up_without_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Endless(monkeypatch, "pagemap")
    async with serving() as served, raw_connection(served) as raw:
        await one_page(raw)
        await raw.send(line("pagemap", **RANGE))
        await endless.begun.wait()
        await raw.stream.aclose()
        await only_detached(served)
        assert endless.outcome == "given up"


async def test_looks_are_answered_while_the_processes_of_a_client_exit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endless = Endless(monkeypatch, "exit")
    async with serving() as served, raw_connection(served) as reader:
        async with raw_connection(served) as raw:
            await one_page(raw)
            await raw.result("fork", pid=1)
        await endless.begun.wait()
        for _ in range(10):
            assert len((await reader.result("ps"))["processes"]) == 2
        assert served.exclusive.value == 0
        endless.may_end = True
        assert (await reader.result("spawn", name="own"))["pid"] == 3
        assert len((await reader.result("ps"))["processes"]) == 1


async def test_shutdown_in_the_middle_of_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Endless(monkeypatch, "mmap")
    async with serving() as served, raw_connection(served) as raw:
        await raw.result("spawn", name="dies")
        await raw.send(line("mmap", pid=1, length=PAGE, content="zero"))
        await endless.begun.wait()
        served.server.cancel()
        endless.may_end = True
        assert await raw.line() == b""
        assert endless.outcome == "finished"


async def test_changes_wait_for_an_advertisement_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Endless(monkeypatch)
    async with (
        serving() as served,
        raw_connection(served) as first,
        raw_connection(served) as second,
        raw_connection(served) as reader,
    ):
        await first.result("spawn", name="first")
        await first.send(ADVISE)
        await endless.begun.wait()
        await second.send(line("spawn", name="second"))
        for _ in range(50):
            assert len((await reader.result("ps"))["processes"]) == 1
        endless.may_end = True
        assert (await first.answer())["result"] == {}
        assert (await second.answer())["result"] == {"pid": 2}


async def test_changes_wait_for_whoever_holds_the_lock() -> None:
    async with serving() as served, raw_connection(served) as raw:
        async with served.exclusive:
            await raw.send(line("spawn", name="x"))
            await trio.testing.wait_all_tasks_blocked()
            assert served.machine.processes() == []
        assert (await raw.answer())["result"] == {"pid": 1}


async def test_processes_exit_with_their_connection() -> None:
    async with serving() as served, raw_connection(served) as raw:
        async with raw_connection(served) as other:
            await other.result("spawn", name="a")
            await other.result("fork", pid=1)
            kept = (await other.result("spawn", name="kept", detached=True))["pid"]
        await only_detached(served)
        shown = (await raw.result("ps"))["processes"]
        assert [(p["name"], p["owner"]) for p in shown] == [("kept", "detached")]
        await raw.result("exit", pid=kept)


async def only_detached(served: Served) -> None:
    """Wait until the connections that are gone have taken their processes with them."""
    while [p for p in served.machine.processes() if p.name not in ("kept", "own")]:
        await trio.lowlevel.checkpoint()


async def test_another_connections_process_cannot_be_changed() -> None:
    async with serving() as served, raw_connection(served) as mine, raw_connection(served) as other:
        await mine.result("spawn", name="own")
        for refused in ("exit", "fork"):
            error = (await other.ask(refused, pid=1))["error"]
            assert (error["code"], error["data"]) == (-32000, {"errno": "EPERM"})
        assert (await other.result("smaps", pid=1))["mappings"] == []


async def test_death_in_the_middle_of_a_line() -> None:
    async with serving() as served, raw_connection(served) as witness:
        await witness.result("spawn", name="own")
        with memfd(b"x", fcntl.F_SEAL_SHRINK) as descriptor:
            async with raw_connection(served) as raw:
                await raw.result("spawn", name="dies")
                await raw.send(line("mmap", pid=2)[:20], [descriptor])
        await only_detached(served)
        assert len((await witness.result("ps"))["processes"]) == 1


async def test_death_in_the_middle_of_an_advertisement(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Endless(monkeypatch)
    async with serving() as served, raw_connection(served) as witness:
        async with raw_connection(served) as raw:
            await raw.result("spawn", name="dies")
            await raw.send(ADVISE)
            await endless.begun.wait()
        await only_detached(served)
        assert endless.outcome == "given up"
        assert served.exclusive.value == 1
        await witness.result("spawn", name="own")


async def test_shutdown_in_the_middle_of_an_advertisement(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Endless(monkeypatch)
    async with serving() as served, raw_connection(served) as raw:
        await raw.result("spawn", name="dies")
        await raw.send(ADVISE)
        await endless.begun.wait()
        served.server.cancel()
        assert await raw.line() == b""
        assert served.machine.processes() == []


async def test_death_with_requests_and_replies_under_way() -> None:
    async with serving() as served, raw_connection(served) as witness:
        await witness.result("spawn", name="own")
        for sent in range(1, 2000, 300):
            async with raw_connection(served) as raw:
                await raw.send(line("spawn", name="dies") * sent)
        await only_detached(served)
        assert len((await witness.result("ps"))["processes"]) == 1


async def test_a_killed_client_process() -> None:
    program = (
        "import sys\n"
        "from dksmfs import connect\n"
        "machine = connect(sys.argv[1])\n"
        "machine.process('dies').mmap(pages=3, fill='zero')\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    async with serving() as served:
        killed = await trio.lowlevel.open_process(
            [sys.executable, "-c", program, served.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert killed.stdin is not None
        assert killed.stdout is not None
        async with killed.stdin, killed.stdout:
            assert await killed.stdout.receive_some()
            assert [p.name for p in served.machine.processes()] == ["dies"]
            killed.send_signal(signal.SIGKILL)
            await killed.wait()
        await only_detached(served)


async def test_a_client_that_takes_no_replies_holds_up_nobody() -> None:
    async with (
        serving() as served,
        raw_connection(served) as witness,
        raw_connection(served) as deaf,
    ):
        await send_until_full(deaf, line("show", file="run"))
        await witness.result("spawn", name="own")
        assert (await witness.result("stats"))["run"] == 0


async def send_until_full(raw: Raw, request: bytes) -> None:
    """Send requests until the server, waiting to send replies, reads no more of them."""
    with suppress(BlockingIOError):
        while True:
            with socket.socket(fileno=os.dup(raw.stream.socket.fileno())) as stream:
                stream.send(request * 500, socket.MSG_DONTWAIT)
            await trio.testing.wait_all_tasks_blocked()


async def test_many_clients_at_once() -> None:
    async with serving() as served:
        await served_by_all(served, clients=60)
        assert served.machine.dksm.pages_scanned == 60 * 8


async def served_by_all(served: Served, clients: int) -> None:
    async with raw_connection(served) as raw:
        await raw.result("store", file="run", data="1")

    async def client(number: int) -> None:
        async with raw_connection(served) as raw:
            pid = (await raw.result("spawn", name=f"vm-{number}"))["pid"]
            region = await raw.result("mmap", pid=pid, length=8 * PAGE, content=f"seed:{number}")
            extent = {"pid": pid, "address": region["address"], "length": 8 * PAGE}
            await raw.result("madvise", **extent, advice="mergeable")
            assert (await raw.result("pagemap", **extent))["huge_pages"] == 0

    async with trio.open_nursery() as nursery:
        for number in range(clients):
            nursery.start_soon(client, number)


async def test_memfds_are_unmapped_when_nobody_holds_their_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dksmfs.control.memfd.MAX_MAPPED", 2)
    with memfd(b"x" * PAGE, fcntl.F_SEAL_SHRINK) as descriptor:
        async with serving() as served, raw_connection(served) as raw:
            for pid in range(1, 4):
                await raw.result("spawn", name="own")
                request = {"pid": pid, "length": PAGE, "content": {"memfd": 0}}
                for _ in range(2):
                    await raw.result("mmap", [descriptor], **request)
                refused = await raw.ask("mmap", [descriptor], **request)
                assert refused["error"]["data"] == {"errno": "ENOMEM"}
                await raw.result("exit", pid=pid)


async def test_large_memfds_are_unmapped_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dksmfs.control.memfd._PIECE_SIZE", PAGE)
    with memfd(b"x" * 3 * PAGE, fcntl.F_SEAL_SHRINK) as descriptor:
        async with serving() as served, raw_connection(served) as raw:
            request = {"pid": 1, "length": 3 * PAGE, "content": {"memfd": 0}}
            await raw.result("spawn", name="own")
            await raw.result("mmap", [descriptor], **request)
            assert memfds_mapped() == 1
            await raw.result("munmap", **(await only_range(raw)))
            while memfds_mapped():
                await trio.lowlevel.checkpoint()


def memfds_mapped() -> int:
    """How many mappings of memfds this process has."""
    return Path("/proc/self/maps").read_text().count("memfd:test")


async def only_range(raw: Raw) -> dict[str, Any]:
    """The range of the only mapping of process 1."""
    (found,) = (await raw.result("smaps", pid=1))["mappings"]
    return {"pid": 1, "address": found["start"], "length": found["end"] - found["start"]}


async def test_too_many_connections_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_connection_limit", lambda: 2)
    async with serving() as served, raw_connection(served) as first:
        async with raw_connection(served), await trio.open_unix_socket(served.path) as third:
            error = (await Raw(third).answer())["error"]
            assert error["data"] == {"errno": "EMFILE"}
        while True:  # until the server has noticed that the second has gone
            async with await trio.open_unix_socket(served.path) as third:
                if "error" not in await Raw(third).answer():
                    break
        assert (await first.result("stats"))["run"] == 0


async def test_a_bug_of_ours_is_answered_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Machine, name: str) -> int:
        raise AssertionError(name)

    async with serving() as served, raw_connection(served) as raw:
        with monkeypatch.context() as patched:
            patched.setattr(Machine, "spawn", broken)
            answer = await raw.ask("spawn", name="x")
        assert answer["error"]["code"] == -32603
        assert "AssertionError: x" in caplog.text
        assert await raw.result("spawn", name="x") == {"pid": 1}
