"""The clients as people use them, against a real server."""

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import assert_type

import pytest
import trio

from dksmfs import AccessFault, ProtocolError, connect, connect_trio
from dksmfs.control import messages as m
from dksmfs.control.blocking import Blocking
from dksmfs.control.client import Machine, Process, Region
from dksmfs.control.limits import MAX_VIEW
from dksmfs.control.with_trio import Trio
from tests.control.serving import HELLO, PAGE, memfd, serving

PROGRAM = b"".join(n.to_bytes(2) * 2048 for n in range(1, 21)) + b"tail"


def scenario(test: Callable[[Machine[Blocking]], None]) -> Callable[[], None]:
    """A test of the blocking client: it gets a connection, in a thread beside the server."""

    def run() -> None:
        async def main() -> None:
            def client(path: str) -> None:
                with connect(path) as machine:
                    test(machine)

            async with serving() as served:
                await trio.to_thread.run_sync(client, served.path)
                while served.machine.processes():
                    await trio.lowlevel.checkpoint()

        trio.run(main)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@scenario
def test_two_virtual_machines(machine: Machine[Blocking]) -> None:
    machine.run = 1
    with machine.process("vm-1") as a, machine.process("vm-2") as b:
        for process in (a, b):
            region = process.mmap(PROGRAM, prot="rw")
            region.madvise("mergeable")
        assert machine.stats == m.Stats(1, 42, 21, 0, 21, 4096)
        child = b.fork()
        child.regions[0].write(offset=0, data=b"copied")
        assert child.regions[0].read(0, 8) == b"copied\0\1"
        assert b.regions[0].read(0, 8) == b"\0\1" * 4
        address = f"{region.address:#x}"
        assert str(machine.sharing()).splitlines() == [
            "vm-1 (pid 1)",
            f"  {address}: 21 pages, frames 1-21",
            "vm-2 (pid 2)",
            f"  {address}: 21 pages, frames 1-21",
            "vm-2 (pid 3)",
            f"  {address}: 21 pages, frames 22, 2-21",
        ]
    assert [process.pid for process in machine.processes()] == [child.pid]


@scenario
def test_run_and_the_files(machine: Machine[Blocking]) -> None:
    assert machine.run == 0
    machine.run = 1
    assert (machine.run, machine.show("run")) == (1, "1\n")
    with pytest.raises(OSError, match="EINVAL") as caught:
        machine.run = 2
    assert caught.value.errno == errno.EINVAL
    machine.set_run(0)
    assert machine.store("run", "0" * 4096 + "1") == 4096
    assert machine.stats.hashtable_size == 4096
    assert machine.thp == "never"
    machine.thp = "always"
    assert machine.thp == "always"
    assert machine.hello == HELLO


@scenario
def test_everything_a_region_can_do(machine: Machine[Blocking]) -> None:
    with machine.process("p") as process:
        region = process.mmap(pages=4, at=0x10000, prot="rwx")
        assert (region.address, region.length, region.pages) == (0x10000, 4 * PAGE, 4)
        assert region.pagemap() == [None] * 4
        region.touch(length=PAGE)
        assert region.pagemap()[:2] == ["Z", None]
        region.fill("index:5")
        assert [text and text[0] for text in region.contents()] == ["5", "6", "7", "8"]
        region.fill(b"\1" * PAGE, offset=PAGE, length=PAGE)
        assert region.read(PAGE, 2) == b"\1\1"
        region.mremap(0x40000)
        region.mprotect("r", offset=PAGE, length=PAGE)
        with pytest.raises(AccessFault) as caught:
            region.write(PAGE - 1, b"xy")
        assert (caught.value.signal, caught.value.address) == ("SIGSEGV", 0x40000 + PAGE)
        assert region.read(PAGE - 1, 1) == b"x", "the first page was written"
        region.mlock()
        region.munlock()
        region.madvise("dontneed", offset=2 * PAGE)
        assert region.pagemap()[2:] == [None, None]
        region.madvise(13)
        assert [(v.start, v.prot) for v in process.smaps()] == [
            (0x40000, "rwx"),
            (0x41000, "r"),
            (0x42000, "rwx"),
        ]
        region.munmap(offset=3 * PAGE)
        assert process.regions == [region]
        region.munmap()
        assert process.regions == []
        with pytest.raises(OSError, match="not mapped") as refused:
            process.range(0x40000, PAGE).madvise("mergeable")
        assert refused.value.errno == errno.ENOMEM


@scenario
def test_content_of_every_kind(machine: Machine[Blocking]) -> None:
    machine.mkfile("small", b"abc")
    machine.mkfile("big", bytes(range(256)) * 1024)
    machine.mkfile("described", pages=3, fill="const:9")
    with machine.process("p") as process:
        for name, pages, start in (
            ("small", 1, b"abc\0"),
            ("big", 64, b"\0\1"),
            ("described", 3, b"\t"),
        ):
            region = process.mmap(pages=pages, kind="file-private", file=name, prot="r")
            assert region.read(0, len(start)) == start
        big = os.urandom(3 << 20)
        region = process.mmap(big)
        assert region.read() == big
        region.write(5, big[:-5])
        assert region.read() == big[:5] + big[:-5]
        region.fill(memoryview(big))
        assert region.read() == big
        assert process.mmap(bytearray(b"xy")).read() == b"xy".ljust(PAGE, b"\0")
        assert process.mmap(pages=2, fill="seed:3").read(PAGE - 16, 8) == b"\3" + bytes(7)


@scenario
def test_memory_that_the_client_goes_on_writing(machine: Machine[Blocking]) -> None:
    machine.run = 1
    with memfd(bytes(2 * PAGE), fcntl.F_SEAL_SHRINK) as descriptor, machine.process("p") as process:
        with mmap.mmap(descriptor, 2 * PAGE) as shared:
            region = process.mmap(memfd=descriptor)
            region.madvise("mergeable")
            assert machine.stats.pages_merged == 1
            shared[:3] = b"new"
            assert region.read(0, 4) == b"new\0"
        copy = process.mmap(memfd=descriptor)
        region.write(0, b"own")
        assert copy.read(0, 3) == b"new"


@scenario
def test_a_wide_view_comes_in_parts(machine: Machine[Blocking]) -> None:
    with machine.process("p") as process:
        region = process.mmap(pages=MAX_VIEW // PAGE + 3)
        region.fill("zero", offset=MAX_VIEW, length=PAGE)
        pages = region.pagemap()
        assert len(pages) == region.pages
        assert [n for n, page in enumerate(pages) if page is not None] == [MAX_VIEW // PAGE]
        assert region.contents()[MAX_VIEW // PAGE - 1 :][1] is not None


@scenario
def test_processes_end_and_are_found_again(machine: Machine[Blocking]) -> None:
    with machine.process("ends early") as process:
        process.exit()
        assert process.exited
        with pytest.raises(ProcessLookupError):
            process.mmap(pages=1)
    detached = machine.process("stays", detached=True)
    detached.mmap(b"data", at=0x10000)
    found = machine.attach(detached.pid)
    assert (found.name, found.regions[0].read(0, 4)) == ("stays", b"data")
    found.exit()
    with pytest.raises(ProcessLookupError):
        machine.attach(detached.pid)
    assert machine.processes() == []


@scenario
def test_a_mapping_in_place_of_another(machine: Machine[Blocking]) -> None:
    with machine.process("p") as process:
        process.mmap(pages=1, at=0x10000)
        over = process.mmap(pages=2, at=0x10000)
        assert process.regions == [over]


@scenario
def test_what_the_server_refuses(machine: Machine[Blocking]) -> None:
    with pytest.raises(ProtocolError, match="name"):
        machine.process("")
    with machine.process("p") as process:
        with pytest.raises(ProtocolError, match="content"):
            process.mmap(pages=1, fill="const")
        with pytest.raises(ProtocolError):
            process.range(0, PAGE).madvise("mergable")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="exactly one"):
            process.mmap()
        with pytest.raises(ValueError, match="exactly one"):
            process.mmap(b"x", pages=1)
        with memfd(bytes(PAGE), 0) as unsealed, pytest.raises(OSError, match="F_SEAL_SHRINK"):
            process.mmap(memfd=unsealed)


@scenario
def test_threads_share_a_connection(machine: Machine[Blocking]) -> None:
    def work(number: int) -> None:
        with machine.process(f"vm-{number}") as process:
            for _ in range(20):
                assert process.mmap(pages=1, fill=f"const:{number}").read(0, 1)[0] == number

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert machine.processes() == []


async def test_a_server_that_goes_away() -> None:
    async with serving() as served:
        with await trio.to_thread.run_sync(connect, served.path) as machine:
            process = await trio.to_thread.run_sync(machine.process, "p")
            served.server.cancel()
            with pytest.raises(ConnectionError), process:
                await trio.to_thread.run_sync(machine.show, "run")


def test_nobody_listens(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", str(tmp_path / "missing")):
        with pytest.raises(FileNotFoundError, match="dksmfs mount"):
            connect(path)


async def test_the_trio_client() -> None:
    async with serving() as served, await connect_trio(served.path) as machine:
        await machine.set_run(1)
        await machine.set_thp("never")
        async with await machine.process("vm-1") as a, await machine.process("vm-2") as b:
            for process in (a, b):
                region = await process.mmap(PROGRAM)
                await region.madvise("mergeable")
            stats = await machine.stats
            assert (stats.run, stats.pages_merged, await machine.run) == (1, 21, 1)
            child = await b.fork("child")
            await child.regions[0].write(0, b"copied")
            assert await b.regions[0].read(0, 2) == b"\0\1"
            assert len((await machine.sharing()).processes) == 3
            big = os.urandom(300_000)
            assert await (await a.mmap(big)).read(0, 300_000) == big
            with pytest.raises(AccessFault):
                await a.range(0, 1).read()
        assert [process.name for process in await machine.processes()] == ["child"]
        with pytest.raises(AttributeError, match="set_"):
            machine.run = 0  # type: ignore[arg-type]
        assert machine.hello == HELLO


async def test_trio_tasks_share_a_connection() -> None:
    async with serving() as served, await connect_trio(served.path) as machine:

        async def work(number: int) -> None:
            async with await machine.process(f"vm-{number}") as process:
                for _ in range(10):
                    region = await process.mmap(pages=1, fill=f"const:{number}")
                    assert (await region.read(0, 1))[0] == number

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(work, number)
        assert await machine.processes() == []


async def test_a_cancelled_request_does_not_mix_up_the_next_answers() -> None:
    async with serving() as served, await connect_trio(served.path) as machine:
        async with served.exclusive:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(machine.process, "given up")
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
        assert (await machine.stats).hashtable_size == 4096
        process = await machine.process("next")
        assert process.pid == 2


def typed(machine: Machine[Blocking], other: Machine[Trio]) -> None:
    """Checked by mypy: what a method gives depends on the connection."""
    assert_type(machine.stats, m.Stats)
    assert_type(machine.run, int)
    process = machine.process("x")
    assert_type(process, Process[Blocking])
    region = process.mmap(b"")
    assert_type(region, Region[Blocking])
    assert_type(region.read(), bytes)
    process.mmap(5)  # type: ignore[arg-type]

    async def awaited() -> None:
        assert_type(await other.stats, m.Stats)
        process = await other.process("x")
        assert_type(process, Process[Trio])
        assert_type(await (await process.mmap(b"")).read(), bytes)
        with other:  # type: ignore[misc]
            pass
