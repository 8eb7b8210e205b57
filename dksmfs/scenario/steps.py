"""What a request is as a step: the way back from `requests`, for recording.

A range inside one region is said by the region's name and pages, as people would; any other by
its address.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final, TypedDict

from dksmfs.control import messages as m
from dksmfs.control.job import Memory
from dksmfs.kernel.units import PAGE_SIZE
from dksmfs.scenario import recording as r
from dksmfs.scenario.names import Names, Proc, Region, vpn_of
from dksmfs.scenario.requests import DATA_PREFIX

_REGIONS_TRIED: Final = 64
"""Regions that a range is looked for in, the newest first; the others are left to addresses."""

MAX_DATA: Final = 64 << 20
"""Bytes of page contents in one recording, each counted once."""

_LONGEST_NAME: Final = 48  # characters of a name, so that a number fits behind


class Inexpressible(Exception):  # noqa: N818  # no mistake of anybody's
    """A scenario cannot say this; the text says why."""


class Pages(TypedDict, total=False):
    """The members of `recording.OfPages`."""

    region: str
    start: int
    count: int
    address: int
    length: int


class Bytes(TypedDict, total=False):
    """The members of `recording.OfBytes`."""

    region: str
    page: int
    offset: int
    address: int


class Steps:
    """Makes steps of requests, for names as they are now. Collects the data that steps name."""

    def __init__(self, names: Names) -> None:
        self.data: dict[str, bytes] = {}
        """By key; what is the same has one key."""
        self.shared: list[tuple[memoryview, bytes]] = []
        """Memory that its owner may go on writing, and what was in it when it was handed over."""
        self._data_size = 0
        self._names = names
        self._keys: dict[bytes, str] = {}
        self._used_names: set[str] = set()
        self._labels: dict[int, str] = {}
        self._files: dict[str, int] = {}
        self._region_count = 0

    def of(
        self, request: m.Request[Any], memory: Sequence[object], reply: object | None
    ) -> r.AnyStep | None:
        """The step; None if the request changes nothing that a scenario is about.

        Without a reply the request has failed. `Inexpressible` if it cannot be said.
        """
        if isinstance(request, m.OfProcess) and request.pid not in self._labels:
            if reply is None:
                return None  # of a process that does not exist
            raise Inexpressible(f"process {request.pid} is not one of the recording")
        make = _STEPS.get(type(request))
        if make is None:
            name = m.METHOD_NAMES.get(type(request), type(request).__name__)
            raise Inexpressible(f"a scenario has no step for {name}")
        return make(self, request, memory, reply)

    # --- parts of steps ---------------------------------------------------------------------

    def _label(self, name: str, reply: object | None) -> str:
        """A name that no process of the recording has had, for the one that has just started."""
        label, number = name[:_LONGEST_NAME], 2
        while label in self._used_names:
            label = f"{name[:_LONGEST_NAME]}.{number}"
            number += 1
        self._used_names.add(label)
        if isinstance(reply, m.Spawned):
            self._labels[reply.pid] = label
        return label

    def _proc(self, request: m.OfProcess[Any]) -> tuple[str, Proc]:
        label = self._labels[request.pid]
        return label, self._names[label]

    def _new_region(self) -> str:
        self._region_count += 1
        return f"r{self._region_count}"

    def _file(self, name: str) -> int:
        return self._files.setdefault(name, len(self._files) + 1)

    def _content(self, content: m.Content, size: int, memory: Sequence[object]) -> str:
        if isinstance(content, str):
            return content
        if content.memfd is None:
            return self._key(content.data or b"")
        handed = memory[content.memfd]
        assert isinstance(handed, Memory)
        view = handed.buffer[: -(-size // PAGE_SIZE) * PAGE_SIZE]
        self._check_size(len(view))
        data = bytes(view)
        if not handed.stable:
            self.shared.append((view, data))
        return self._key(data)

    def _key(self, data: bytes) -> str:
        if data not in self._keys:
            self._check_size(self._data_size + len(data))
            self._keys[data] = key = f"d{len(self._keys) + 1}"
            self.data[key] = data
            self._data_size += len(data)
        return DATA_PREFIX + self._keys[data]

    def _check_size(self, size: int) -> None:
        if size > MAX_DATA:
            raise Inexpressible(f"its page contents are more than {MAX_DATA >> 20} MiB")

    def _pages(self, proc: Proc, address: int, length: int) -> Pages:
        found = (
            None if address % PAGE_SIZE or length % PAGE_SIZE else _within(proc, address, length)
        )
        if found is None:
            return {"address": address - r.BASE, "length": length}
        name, region = found
        return {"region": name, "start": vpn_of(address) - region.vpn, "count": length // PAGE_SIZE}

    def _bytes(self, proc: Proc, address: int, length: int) -> Bytes:
        found = _within(proc, address, length)
        if found is None:
            return {"address": address - r.BASE}
        name, region = found
        return {
            "region": name,
            "page": vpn_of(address) - region.vpn,
            "offset": address % PAGE_SIZE,
        }

    # --- steps ------------------------------------------------------------------------------

    def _spawn(self, request: m.Spawn, _: object, reply: object | None) -> r.AnyStep:
        return r.Spawn(proc=self._label(request.name, reply))

    def _fork(self, request: m.Fork, _: object, reply: object | None) -> r.AnyStep:
        label, _proc = self._proc(request)
        return r.Fork(proc=label, child=self._label(request.name or label, reply))

    def _exit(self, request: m.Exit, _: object, reply: object | None) -> r.AnyStep:
        label, _proc = self._proc(request)
        if reply is not None:
            del self._labels[request.pid]
        return r.Exit(proc=label)

    def _mkfile(self, request: m.Mkfile, memory: Sequence[object], _: object) -> r.AnyStep:
        content = self._content(request.content, request.pages * PAGE_SIZE, memory)
        return r.Mkfile(file=self._file(request.file), pages=request.pages, content=content)

    def _mmap(self, request: m.Mmap, memory: Sequence[object], reply: object | None) -> r.AnyStep:
        if reply is not None and request.file is not None and request.file not in self._files:
            raise Inexpressible(f"the file {request.file!r} is older than the recording")
        label, _proc = self._proc(request)
        address = reply.address if isinstance(reply, m.Mapped) else request.address
        at = None if address is None else address - r.BASE
        aligned = at is not None and at % PAGE_SIZE == 0
        return r.Mmap(
            proc=label,
            region=self._new_region(),
            vpn=at // PAGE_SIZE if at is not None and aligned else None,
            address=None if aligned else at,
            pages=-(-request.length // PAGE_SIZE),
            kind=request.kind,
            prot=request.prot,
            file=None if request.file is None else self._file(request.file),
            content=None
            if request.content is None
            else self._content(request.content, request.length, memory),
        )

    def _mprotect(self, request: m.Mprotect, *_: object) -> r.AnyStep:
        label, proc = self._proc(request)
        pages = self._pages(proc, request.address, request.length)
        return r.Mprotect(proc=label, prot=request.prot, **pages)

    def _mremap(self, request: m.Mremap, *_: object) -> r.AnyStep:
        label, proc = self._proc(request)
        found = _within(proc, request.address, request.length)
        if found is not None and not request.new_address % PAGE_SIZE:
            name, region = found
            if (region.address(), region.length) == (request.address, request.length):
                return r.Mremap(proc=label, region=name, new_vpn=vpn_of(request.new_address))
        return r.Mremap(
            proc=label,
            address=request.address - r.BASE,
            length=request.length,
            new_address=request.new_address - r.BASE,
            new_region=self._new_region(),
        )

    def _madvise(self, request: m.Madvise, *_: object) -> r.AnyStep:
        label, proc = self._proc(request)
        pages = self._pages(proc, request.address, request.length)
        if "region" in pages:
            return r.Madvise(proc=label, advice=request.advice, **pages)
        address, length = request.address - r.BASE, request.length
        return r.MadviseRaw(proc=label, address=address, length=length, advice=request.advice)

    def _fill(self, request: m.Fill, memory: Sequence[object], _: object) -> r.AnyStep:
        label, proc = self._proc(request)
        content = self._content(request.content, request.length, memory)
        pages = self._pages(proc, request.address, request.length)
        return r.Fill(proc=label, content=content, **pages)

    def _store(self, request: m.Write, *_: object) -> r.AnyStep:
        label, proc = self._proc(request)
        at = self._bytes(proc, request.address, len(request.data))
        return r.Store(proc=label, data=request.data, **at)

    def _load(self, request: m.Read, *_: object) -> r.AnyStep:
        label, proc = self._proc(request)
        at = self._bytes(proc, request.address, request.length)
        return r.Load(proc=label, length=request.length, **at)

    def _write(self, request: m.Store, *_: object) -> r.AnyStep:
        return r.Write(file=request.file, data=request.data)

    def _thp(self, request: m.SetThp, *_: object) -> r.AnyStep | None:
        return None if request.mode is None else r.Thp(mode=request.mode)


def _within(proc: Proc, address: int, length: int) -> tuple[str, Region] | None:
    """The newest region that the whole range is in, and its name."""
    for name in islice(reversed(proc.regions), _REGIONS_TRIED):
        region = proc.regions[name]
        if region.address() <= address and address + length <= region.address(region.pages):
            return name, region
    return None


def _plain(step: Callable[..., r.AnyStep]) -> Callable[..., r.AnyStep]:
    """A request that has nothing but the range."""

    def make(steps: Steps, request: m.OfRange[Any], *_: object) -> r.AnyStep:
        label, proc = steps._proc(request)
        return step(proc=label, **steps._pages(proc, request.address, request.length))

    return make


_STEPS: Final[dict[type[m.Request[Any]], Callable[..., r.AnyStep | None]]] = {
    m.Spawn: Steps._spawn,
    m.Fork: Steps._fork,
    m.Exit: Steps._exit,
    m.Mkfile: Steps._mkfile,
    m.Mmap: Steps._mmap,
    m.Munmap: _plain(r.Munmap),
    m.Mprotect: Steps._mprotect,
    m.Mremap: Steps._mremap,
    m.Mlock: _plain(r.Mlock),
    m.Munlock: _plain(r.Munlock),
    m.Madvise: Steps._madvise,
    m.Fill: Steps._fill,
    m.Touch: _plain(r.Touch),
    m.Write: Steps._store,
    m.Read: Steps._load,
    m.Store: Steps._write,
    m.SetThp: Steps._thp,
}
