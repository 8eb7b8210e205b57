"""The Python client: a machine, its processes and their regions as objects.

    with connect("/path/to/socket") as machine:
        machine.run = 1
        with machine.process("vm-1") as process:
            region = process.mmap(b"some bytes")
            region.madvise("mergeable")
        print(machine.stats.pages_merged)

`connect_trio` gives the same objects, whose methods and properties are awaited; to set a property
there, await `set_run` or `set_thp`. Failures are `OSError` with the kernel's errno (`AccessFault`
with the signal, where the process would get one) or `ProtocolError`. Addresses, offsets and
lengths are in bytes.
"""

import os
from typing import TYPE_CHECKING

from dksmfs.control import limits
from dksmfs.control import messages as m
from dksmfs.control.blocking import Blocking
from dksmfs.control.content import PAGE_SIZE, Data, carried, carried_if_any, whole_pages
from dksmfs.control.doors import Behind, D, attribute, operation, settable
from dksmfs.control.messages import Hello
from dksmfs.control.rehearsing import Rehearsing
from dksmfs.control.sharing import SharingMap

if TYPE_CHECKING:
    from dksmfs.control.with_trio import Trio

Path = str | os.PathLike[str]

_WRITE_SIZE = 256 << 10  # bytes of one write request; in base64 a third of a line


def connect(path: Path | None = None) -> "Machine[Blocking]":
    """Connect to the daemon whose socket is at `path`; without it, to the only one that runs."""
    return Machine(Blocking.open(_socket_path(path)))


async def connect_trio(path: Path | None = None) -> "Machine[Trio]":
    """Like `connect`, for trio: `async with await connect_trio() as machine`."""
    from dksmfs.control.with_trio import Trio  # those who block need not load trio

    return Machine(await Trio.open(_socket_path(path)))


def _socket_path(path: Path | None) -> str:
    if path is not None:
        return os.fspath(path)
    from dksmfs.instances import sole_instance  # reads a directory: only if it has to

    return sole_instance().socket


class Machine(Rehearsing[D]):
    """The machine behind a connection. Closing it ends the processes started through it."""

    @property
    def hello(self) -> Hello:
        """What the server said of itself: version, protocol, mount point, pid."""
        return self._door.hello

    async def _get_run(self) -> int:
        """Whether DKSM is on: 1 or 0. Other values are refused with EINVAL."""
        return (await self._door.ask(m.ReadStats())).run

    @operation
    async def set_run(self, value: int) -> None:
        """Start (1) or stop (0) DKSM."""
        await self._door.ask(m.Store("run", f"{value}\n"))

    run = settable(_get_run, set_run)

    async def _get_thp(self) -> limits.ThpMode:
        """The huge-page mode: always, madvise or never."""
        return (await self._door.ask(m.SetThp())).mode

    @operation
    async def set_thp(self, mode: limits.ThpMode) -> None:
        """Set the huge-page mode."""
        await self._door.ask(m.SetThp(mode))

    thp = settable(_get_thp, set_thp)

    @attribute
    async def stats(self) -> m.Stats:
        """The six values, all of one moment."""
        return await self._door.ask(m.ReadStats())

    @operation
    async def process(self, name: str, *, detached: bool = False) -> "Process[D]":
        """Start a process. It exits at the end of its `with` block, or with the connection;
        a detached one outlives the connection."""
        spawned = await self._door.ask(m.Spawn(name, detached))
        return Process(self._door, spawned.pid, name)

    @operation
    async def processes(self) -> list[m.ProcessInfo]:
        """All processes of the machine, those of other connections too."""
        return (await self._door.ask(m.Ps())).processes

    @operation
    async def attach(self, pid: int) -> "Process[D]":
        """A process that runs already; its regions are its mappings as they are now."""
        found = [p for p in (await self._door.ask(m.Ps())).processes if p.pid == pid]
        mappings = (await self._door.ask(m.ViewSmaps(pid))).mappings
        process = Process(self._door, pid, found[0].name)
        process.regions = [
            Region(process, mapping.start, mapping.end - mapping.start) for mapping in mappings
        ]
        return process

    @operation
    async def mkfile(
        self, name: str, data: Data | None = None, *, pages: int | None = None, fill: str = "zero"
    ) -> None:
        """Create or replace a tmpfs file: with `data`, or with `pages` pages of `fill`."""
        size = whole_pages(data, pages)
        with carried(fill if data is None else data) as (content, descriptors):
            await self._door.ask(m.Mkfile(name, size // PAGE_SIZE, content), descriptors)

    @operation
    async def sharing(self, *, limit: int = limits.MAX_SHARING) -> SharingMap:
        """Who maps which frame, for the first `limit` pages of each mapping; prints well."""
        return SharingMap((await self._door.ask(m.ViewSharing(limit))).processes)

    @operation
    async def show(self, file: str) -> str:
        """The text of a file of the dksm directory."""
        return (await self._door.ask(m.Show(file))).data

    @operation
    async def store(self, file: str, data: str) -> int:
        """Write(2) to a file of the dksm directory; returns the number of bytes taken."""
        return (await self._door.ask(m.Store(file, data))).ret

    def close(self: "Machine[Blocking]") -> None:
        """Close the connection: its processes exit."""
        self._door.close()

    async def aclose(self: "Machine[Trio]") -> None:
        """Close the connection: its processes exit."""
        await self._door.aclose()

    def __enter__(self: "Machine[Blocking]") -> "Machine[Blocking]":
        return self

    def __exit__(self: "Machine[Blocking]", *_: object) -> None:
        self.close()

    async def __aenter__(self: "Machine[Trio]") -> "Machine[Trio]":
        return self

    async def __aexit__(self: "Machine[Trio]", *_: object) -> None:
        await self.aclose()


class Process(Behind[D]):
    """A simulated process. `regions` are those that it mapped, in that order."""

    def __init__(self, door: D, pid: int, name: str) -> None:
        super().__init__(door)
        self.pid = pid
        self.name = name
        self.regions: list[Region[D]] = []
        self.exited = False

    def __repr__(self) -> str:
        return f"<process {self.name!r}, pid {self.pid}, {len(self.regions)} regions>"

    @operation
    async def mmap(
        self,
        data: Data | None = None,
        *,
        pages: int | None = None,
        fill: str | None = None,
        memfd: int | None = None,
        kind: limits.Kind = "anon",
        at: int | None = None,
        prot: limits.Prot = "rw",
        file: str | None = None,
    ) -> "Region[D]":
        """Map a region: with `data`, with the pages of `memfd` (a descriptor, sealed with
        F_SEAL_SHRINK; it may still be written), or with `pages` pages, untouched or with a
        `fill` such as "zero", "const:V", "index:B", "pattern:S" or "seed:N"."""
        length = whole_pages(data, pages, memfd)
        with carried_if_any(data, fill, memfd) as (content, descriptors):
            request = m.Mmap(self.pid, length, at, prot, kind, file, content)
            mapped = await self._door.ask(request, descriptors)
        region = Region(self, mapped.address, length)
        self.regions = [old for old in self.regions if not region.covers(old)] + [region]
        return region

    def range(self, address: int, length: int) -> "Region[D]":
        """Any range of addresses, mapped or not, to call a region's methods on."""
        return Region(self, address, length)

    @operation
    async def fork(self, name: str | None = None) -> "Process[D]":
        """fork(2): a child with the same regions, and the same name unless given one."""
        spawned = await self._door.ask(m.Fork(self.pid, name))
        child = Process(self._door, spawned.pid, name or self.name)
        child.regions = [Region(child, old.address, old.length) for old in self.regions]
        return child

    @operation
    async def smaps(self) -> list[m.MappingInfo]:
        """The mappings and what they hold, as /proc/PID/smaps."""
        return (await self._door.ask(m.ViewSmaps(self.pid))).mappings

    @operation
    async def follow(self, memory: int, pagemap: int) -> None:
        """Follow a real process of this host, whose /proc/PID/mem and /proc/PID/pagemap are open
        as these two descriptors (the caller may close them afterwards)."""
        await self._door.ask(m.Follow(self.pid), (memory, pagemap))

    @operation
    async def advise(
        self, address: int, length: int, mappings: list[m.RealMapping] | None
    ) -> m.Advised:
        """Do what MADV_MERGEABLE of the followed process does. `mappings` are all that it has,
        in ascending order; None if they are those of the last time."""
        return await self._door.ask(m.Advise(self.pid, address, length, mappings))

    @operation
    async def exit(self) -> None:
        """End the process."""
        await self._end()

    async def _end(self) -> None:
        await self._door.ask(m.Exit(self.pid))
        self.exited = True
        self.regions = []

    async def _leave(self) -> None:
        if not self.exited:
            try:
                await self._end()
            except ConnectionError:
                self.exited = True  # the connection ended, and its processes with it

    def __enter__(self: "Process[Blocking]") -> "Process[Blocking]":
        return self

    def __exit__(self: "Process[Blocking]", *_: object) -> None:
        self._door.run(self._leave())

    async def __aenter__(self: "Process[Trio]") -> "Process[Trio]":
        return self

    async def __aexit__(self: "Process[Trio]", *_: object) -> None:
        await self._leave()


class Region(Behind[D]):
    """A range of a process's addresses. Methods take part of it by `offset` and `length`."""

    def __init__(self, process: Process[D], address: int, length: int) -> None:
        super().__init__(process._door)
        self.process = process
        self.address = address
        self.length = length

    def __repr__(self) -> str:
        return f"<region {self.address:#x}, {self.pages} pages, of {self.process!r}>"

    @property
    def pages(self) -> int:
        """The number of pages."""
        return -(-self.length // PAGE_SIZE)

    def covers(self, other: "Region[D]") -> bool:
        """Whether no byte of `other` lies outside."""
        end = self.address + self.length
        return self.address <= other.address and other.address + other.length <= end

    @operation
    async def madvise(
        self, advice: limits.AdviceWord | int, *, offset: int = 0, length: int | None = None
    ) -> None:
        """madvise(2), with the advice as a word or as its number."""
        await self._door.ask(m.Madvise(*self._extent(offset, length), advice))

    @operation
    async def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """The process loads these bytes."""
        parts = [
            (await self._door.ask(m.Read(*part))).data
            for part in _parts(self._extent(offset, length), limits.MAX_INLINE)
        ]
        return b"".join(parts)

    @operation
    async def write(self, offset: int, data: Data) -> None:
        """The process stores these bytes."""
        view = memoryview(data).cast("B")
        for at in range(0, len(view), _WRITE_SIZE):
            part = bytes(view[at : at + _WRITE_SIZE])
            await self._door.ask(m.Write(self.process.pid, self.address + offset + at, part))

    @operation
    async def fill(
        self, content: str | Data, *, offset: int = 0, length: int | None = None
    ) -> None:
        """The process stores content into whole pages: a description such as "index:5", or
        bytes, as many as the range has."""
        with carried(content) as (wanted, descriptors):
            await self._door.ask(m.Fill(*self._extent(offset, length), wanted), descriptors)

    @operation
    async def touch(self, *, offset: int = 0, length: int | None = None) -> None:
        """The process loads one byte of each page."""
        await self._door.ask(m.Touch(*self._extent(offset, length)))

    @operation
    async def mprotect(
        self, prot: limits.Prot, *, offset: int = 0, length: int | None = None
    ) -> None:
        """mprotect(2); `prot` is "none" or letters of "rwx"."""
        await self._door.ask(m.Mprotect(*self._extent(offset, length), prot))

    @operation
    async def mlock(self, *, offset: int = 0, length: int | None = None) -> None:
        """mlock(2)."""
        await self._door.ask(m.Mlock(*self._extent(offset, length)))

    @operation
    async def munlock(self, *, offset: int = 0, length: int | None = None) -> None:
        """munlock(2)."""
        await self._door.ask(m.Munlock(*self._extent(offset, length)))

    @operation
    async def munmap(self, *, offset: int = 0, length: int | None = None) -> None:
        """munmap(2). Without its last byte the region leaves `process.regions`."""
        pid, address, size = self._extent(offset, length)
        await self._door.ask(m.Munmap(pid, address, size))
        gone = Region(self.process, address, size)
        self.process.regions = [old for old in self.process.regions if not gone.covers(old)]

    @operation
    async def mremap(self, new_address: int) -> None:
        """mremap(2): move the whole region to `new_address`, in place of what is there."""
        request = m.Mremap(*self._extent(0, None), new_address)
        self.address = (await self._door.ask(request)).address

    @operation
    async def pagemap(self, *, offset: int = 0, length: int | None = None) -> list[m.PageNumber]:
        """Per page its pfn, "Z" for the zero page, None if absent. Changes nothing."""
        parts = [
            (await self._door.ask(m.ViewPagemap(*part))).pages
            for part in _parts(self._extent(offset, length), limits.MAX_VIEW)
        ]
        return [page for part in parts for page in part]

    @operation
    async def contents(self, *, offset: int = 0, length: int | None = None) -> list[str | None]:
        """Per page its first 8 bytes and its checksum as "F/K", None if absent."""
        parts = [
            (await self._door.ask(m.ViewContents(*part))).pages
            for part in _parts(self._extent(offset, length), limits.MAX_VIEW)
        ]
        return [page for part in parts for page in part]

    def _extent(self, offset: int, length: int | None) -> tuple[int, int, int]:
        size = self.length - offset if length is None else length
        return self.process.pid, self.address + offset, size


def _parts(extent: tuple[int, int, int], size: int) -> list[tuple[int, int, int]]:
    """Cut a range into parts of at most `size` bytes, one at least."""
    pid, address, length = extent
    starts = range(0, max(length, 1), size)
    return [(pid, address + at, min(size, length - at)) for at in starts]
