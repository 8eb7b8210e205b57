"""One simulated machine: memory, the merge engine, and the processes that use them.

`Machine` has a method for each thing a process can do, and for each view from outside. It does no
I/O, asks no clock and starts no threads. A method that is called runs to its end, as under the
kernel's dksm_mutex; its `work` pauses where others may look (see `pausing`). Addresses and lengths
are in bytes, as in the system calls. Failures are `OSError` with the kernel's errno, and leave the
machine as the kernel would.
"""

import errno
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from dksmfs.kernel.calls import faults
from dksmfs.kernel.calls import mapping as calls
from dksmfs.kernel.calls.madvise import Advice, AdvisedMappings, advised_range, apply_advice
from dksmfs.kernel.calls.smaps import MappingInfo, mappings_info, present_pages
from dksmfs.kernel.content.content import Content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.dksm.engine import Dksm, MergeShortcut
from dksmfs.kernel.dksm.known_merges import KnownMerges
from dksmfs.kernel.errors import AccessFault, kernel_error
from dksmfs.kernel.memory.address_space import AddressSpace, Memory, Thp
from dksmfs.kernel.memory.hashing.computed import Computed
from dksmfs.kernel.memory.hashing.copies import Copies
from dksmfs.kernel.memory.hashing.gathered import Gathered
from dksmfs.kernel.memory.hashing.hashes import HashShortcut
from dksmfs.kernel.memory.hashing.known import Known
from dksmfs.kernel.memory.hashing.repetitions import Repetitions
from dksmfs.kernel.memory.hashing.same_pages import SamePages
from dksmfs.kernel.memory.page_cache import File
from dksmfs.kernel.memory.vma import Kind, Prot, parse_prot
from dksmfs.kernel.pausing import Work, pausing
from dksmfs.kernel.selection import compact
from dksmfs.kernel.units import HUGE_PAGES, PAGE_SIZE, TASK_PAGES, Vpn

ADVICE: dict[str, int] = {advice.name.lower(): advice.value for advice in Advice}
"""The advices by the name that people write."""

Shortcut = type[HashShortcut] | type[MergeShortcut]

SHORTCUTS: Final[tuple[Shortcut, ...]] = (
    KnownMerges,
    Batches,
    Known,
    Gathered,
    Computed,
    SamePages,
    Repetitions,
    Copies,
)
"""All that come to the results of the engine with less work, in the order in which they are
tried."""

# Pages that are dealt with between two pauses.
_COPIED: Final = 256
_SHOWN: Final = 1024


@dataclass(slots=True)
class Process:
    """A process; `name` is a label, and need not be the only one of its kind."""

    pid: int
    name: str
    parent: int | None
    mm: AddressSpace = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process as `ps` shows it; `parent` may have exited. `rss` is in pages."""

    pid: int
    name: str
    parent: int | None
    rss: int


@dataclass(frozen=True, slots=True)
class PageInfo:
    """A page as /proc/PID/pagemap shows it: its frame, or none if absent."""

    pfn: int | None
    zero: bool
    huge: bool


class Machine:
    """A machine with DKSM stopped and no processes.

    Fewer than the real 32 `checksum_bits` make different pages collide. Without `shortcuts`, the
    engine hashes each page that it looks at and takes one after the other. Both are for tests.
    """

    def __init__(
        self,
        thp: str = "always",
        *,
        checksum_bits: int = 32,
        shortcuts: Sequence[Shortcut] = SHORTCUTS,
    ) -> None:
        self.memory = Memory(Thp(thp), checksum_bits)
        self.dksm = Dksm(self.memory)
        for shortcut in shortcuts:
            if issubclass(shortcut, HashShortcut):
                hashes = self.memory.frames.hashes
                hashes.shortcuts.append(shortcut(hashes))
            else:
                self.dksm.shortcuts.append(shortcut(self.dksm))
        self._processes: dict[int, Process] = {}
        self._last_pid = 0
        self._files: dict[str, File] = {}

    @property
    def thp(self) -> str:
        """The huge page mode: always, madvise or never. Other words are a ValueError."""
        return self.memory.thp.value

    @thp.setter
    def thp(self, mode: str) -> None:
        self.memory.thp = Thp(mode)

    @pausing
    def reset(self, thp: str) -> Work[None]:
        """Become a machine that has just been started.

        This is done at once. Then the memory of the old processes is freed, with pauses.
        """
        processes = self._processes
        vars(self).update(vars(Machine(thp)))
        while processes:
            processes.popitem()
            yield

    # --- processes --------------------------------------------------------------------------

    def spawn(self, name: str) -> int:
        """A new process without mappings; returns its pid, which is never used again."""
        return self._add(name, None, AddressSpace(self.memory))

    @pausing
    def fork(self, pid: int, name: str | None = None) -> Work[int]:
        """fork(2): the child has the parent's name unless given one; returns its pid."""
        parent = self._process(pid)
        child = yield from calls.fork(parent.mm)
        return self._add(name or parent.name, pid, child)

    @pausing
    def exit(self, pid: int) -> Work[None]:
        """The process ends; its frames live on as long as others map them."""
        yield from self._mm(pid).remove(Vpn(0), TASK_PAGES)
        del self._processes[pid]

    @pausing
    def processes(self) -> Work[list[ProcessInfo]]:
        """The living processes, the oldest first. Those that end in a pause are left out."""
        found = []
        for pid in list(self._processes):
            yield
            if (process := self._processes.get(pid)) is not None:
                rss = yield from present_pages(process.mm)
                found.append(ProcessInfo(pid, process.name, process.parent, rss))
        return [info for info in found if info.pid in self._processes]

    def address_space(self, pid: int) -> AddressSpace:
        """The mappings and page tables of a process, for those that change them directly."""
        return self._process(pid).mm

    def _add(self, name: str, parent: int | None, mm: AddressSpace) -> int:
        self._last_pid += 1
        self._processes[self._last_pid] = Process(self._last_pid, name, parent, mm)
        return self._last_pid

    def _process(self, pid: int) -> Process:
        process = self._processes.get(pid)
        if process is None:
            raise kernel_error(errno.ESRCH, f"there is no process {pid}")
        return process

    def _mm(self, pid: int) -> AddressSpace:
        return self._process(pid).mm

    # --- mappings ---------------------------------------------------------------------------

    @pausing
    def mkfile(self, name: str, pages: int, content: Content) -> Work[None]:
        """Create a file of `pages` pages in memory, in place of one with that name.

        Processes that map the old file keep it.
        """
        if pages < 1:
            raise kernel_error(errno.EINVAL, "a file has at least one page")
        self.memory.frames.contents.require_storage(content.held_bytes)
        file = File(pages)
        try:
            yield from file.write(self.memory.frames, content)
        except GeneratorExit:
            self.memory.close(file)
            raise
        file.linked = True
        old, self._files[name] = self._files.get(name), file
        if old is not None:
            old.linked = False
            self.memory.close(old)
        yield from self.memory.release_unused()

    @pausing
    def mmap(
        self,
        pid: int,
        length: int,
        *,
        prot: str = "rw",
        kind: str = "anon",
        address: int | None = None,
        file: str | None = None,
        content: Content | None = None,
    ) -> Work[int]:
        """mmap(2): map `length` bytes, at `address` if given (MAP_FIXED); returns the address.

        `prot` is "none" or letters of "rwx"; `kind` is anon, shared-anon, file-private,
        file-shared (both of `file`, from its start) or hugetlb. With `content`, the process
        writes it to the pages before `prot` applies.
        """
        mm, wanted, what = self._mm(pid), parse_prot(prot), Kind(kind)
        if length <= 0:
            raise kernel_error(errno.EINVAL, "a mapping has at least one byte")
        if content is not None:
            self.memory.frames.require(_pages(length))
            self.memory.frames.contents.require_storage(content.held_bytes)
        mapped = self._file(what, file)
        start = None if address is None else _page(address)
        first = wanted if content is None else wanted | Prot.READ | Prot.WRITE
        pages = _pages(length)
        start = yield from calls.mmap(mm, start, pages, first, what, mapped)
        end = Vpn(start + pages)
        if content is not None:
            try:
                yield from self._fill(mm, start, end, content)
            except AccessFault:
                yield from calls.munmap(mm, start, end)
                raise
            yield from calls.mprotect(mm, start, end, wanted)
        return start * PAGE_SIZE

    def _file(self, kind: Kind, name: str | None) -> File | None:
        if kind not in (Kind.FILE_PRIVATE, Kind.FILE_SHARED):
            if name is not None:
                raise kernel_error(errno.EINVAL, f"a mapping of kind {kind.value} has no file")
            return None
        if name is None or name not in self._files:
            raise kernel_error(errno.ENOENT, f"there is no file {name!r}")
        return self._files[name]

    @pausing
    def munmap(self, pid: int, address: int, length: int) -> Work[None]:
        """munmap(2)."""
        start, end = _range(address, length)
        if start == end:
            raise kernel_error(errno.EINVAL, "nothing to unmap: the length is 0")
        yield from calls.munmap(self._mm(pid), start, end)

    @pausing
    def mprotect(self, pid: int, address: int, length: int, prot: str) -> Work[None]:
        """mprotect(2); `prot` as for `mmap`."""
        yield from calls.mprotect(self._mm(pid), *_range(address, length), parse_prot(prot))

    @pausing
    def mremap(self, pid: int, address: int, length: int, new_address: int) -> Work[int]:
        """mremap(2) with MREMAP_FIXED and the size unchanged; returns the new address."""
        start, end = _range(address, length)
        if start == end:
            raise kernel_error(errno.EINVAL, "nothing to move: the length is 0")
        yield from calls.mremap(self._mm(pid), start, end - start, _page(new_address))
        return new_address

    @pausing
    def mlock(self, pid: int, address: int, length: int) -> Work[None]:
        """mlock(2)."""
        yield from calls.mlock(self._mm(pid), *_outer_range(address, length))

    @pausing
    def munlock(self, pid: int, address: int, length: int) -> Work[None]:
        """munlock(2)."""
        yield from calls.munlock(self._mm(pid), *_outer_range(address, length))

    @pausing
    def madvise(self, pid: int, address: int, length: int, advice: int) -> Work[None]:
        """madvise(2); `advice` is one of `ADVICE`, others are EINVAL."""
        mm = self._mm(pid)
        start, end = advised_range(address, length, advice)
        mappings = AdvisedMappings(mm, start, end)
        if advice == Advice.MERGEABLE:
            yield from self.dksm.advertise(mm, mappings)
        else:
            for vma, low, high in mappings:
                if advice != Advice.UNMERGEABLE:
                    yield from apply_advice(mm, vma, low, high, Advice(advice))
                yield
        mappings.refuse_holes()

    # --- accesses ---------------------------------------------------------------------------

    @pausing
    def read(self, pid: int, address: int, length: int) -> Work[bytes]:
        """The process loads bytes; `AccessFault` if it may not."""
        mm, pages = self._mm(pid), bytearray()
        start, end = _outer_range(address, length)
        yield from self._access(mm, start, end, write=False)
        for low, high in _portions(start, end, _COPIED):
            pages += self.memory.frames.contents.rows(mm.tables.entries(low, high)[0]).data
            yield
        offset = address % PAGE_SIZE
        return bytes(memoryview(pages)[offset : offset + length])

    @pausing
    def write(self, pid: int, address: int, data: bytes) -> Work[None]:
        """The process stores bytes; at an `AccessFault` the pages before are written."""
        mm = self._mm(pid)
        start, end = _outer_range(address, len(data))
        self.memory.frames.contents.require_storage((end - start) * PAGE_SIZE)
        # A page that is written in part is copied with what the stores before have left in it.
        whole = address + -address % PAGE_SIZE
        tail = max(whole, (address + len(data)) // PAGE_SIZE * PAGE_SIZE)
        yield from self._write_part(mm, address, data[: whole - address])
        yield from self._write_pages(mm, whole, data[whole - address : tail - address])
        yield from self._write_part(mm, tail, data[tail - address :])

    def _write_part(self, mm: AddressSpace, address: int, data: bytes) -> Work[None]:
        if data:
            vpn = Vpn(address // PAGE_SIZE)
            yield from self._access(mm, vpn, Vpn(vpn + 1), write=True)
            pfn, _ = mm.tables.entry(vpn)
            self.memory.frames.contents.overwrite(pfn, address % PAGE_SIZE, data)

    def _write_pages(self, mm: AddressSpace, address: int, data: bytes) -> Work[None]:
        if data:
            start = Vpn(address // PAGE_SIZE)
            end = Vpn(start + len(data) // PAGE_SIZE)
            yield from self._fill(mm, start, end, StoredContent(data))

    @pausing
    def fill(self, pid: int, address: int, length: int, content: Content) -> Work[None]:
        """The process stores page 0, 1, ... of `content` to the pages of a range of whole pages;
        at an `AccessFault` the pages before are stored."""
        mm = self._mm(pid)
        start, end = _range(address, length)
        self.memory.frames.contents.require_storage(content.held_bytes)
        yield from self._fill(mm, start, end, content)

    def _fill(self, mm: AddressSpace, start: Vpn, end: Vpn, content: Content) -> Work[None]:
        accessible, signal = yield from faults.reach(mm, start, end, write=True)
        for low, high in faults.accessed(mm, start, accessible, write=True):
            pfns = compact(mm.tables.entries(low, high)[0])
            self.memory.frames.contents.set(pfns, content, range(low - start, high - start))
            yield
        _fail(mm, accessible, signal, write=True)

    @pausing
    def touch(self, pid: int, address: int, length: int) -> Work[None]:
        """The process loads a byte of each page; at an `AccessFault` the pages before are read."""
        yield from self._access(self._mm(pid), *_outer_range(address, length), write=False)

    def _access(self, mm: AddressSpace, start: Vpn, end: Vpn, *, write: bool) -> Work[None]:
        accessible, signal = yield from faults.reach(mm, start, end, write=write)
        yield from faults.access(mm, start, accessible, write=write)
        _fail(mm, accessible, signal, write=write)

    # --- views from outside: they change nothing, but show what others change in their pauses ---

    @pausing
    def pagemap(self, pid: int, address: int, length: int) -> Work[list[PageInfo]]:
        """The frame of each page of the range (/proc/PID/pagemap)."""
        mm, frames, found = self._mm(pid), self.memory.frames, list[PageInfo]()
        for start, end in _portions(*_outer_range(address, length), _SHOWN):
            pfns, flags = mm.tables.entries(start, end)
            pages = zip(pfns.tolist(), flags.tolist(), frames.compound(pfns).tolist(), strict=True)
            found += [
                PageInfo(pfn if present else None, bool(present) and pfn < HUGE_PAGES, huge)
                for pfn, present, huge in pages
            ]
            yield
        return found

    @pausing
    def page_contents(
        self, pid: int, address: int, length: int
    ) -> Work[list[tuple[int, int] | None]]:
        """The first 8 bytes (little-endian) and the checksum of each page; None where absent."""
        mm, hashes = self._mm(pid), self.memory.frames.hashes
        found: list[tuple[int, int] | None] = []
        for start, end in _portions(*_outer_range(address, length), _COPIED):
            pfns, flags = mm.tables.entries(start, end)
            rows, checksums = hashes.look(pfns[flags != 0])
            words = np.ascontiguousarray(rows[:, :8]).view("<u8")[:, 0].tolist()
            known = iter(zip(words, checksums.tolist(), strict=True))
            found += [next(known) if flag else None for flag in flags.tolist()]
            yield
        return found

    @pausing
    def smaps(self, pid: int) -> Work[list[MappingInfo]]:
        """The mappings and what they hold (/proc/PID/smaps), in ascending order."""
        return (yield from mappings_info(self._mm(pid)))

    def check_invariants(self) -> None:
        """Assert that all the books of the machine agree; for tests, and slow."""
        mapped: Counter[int] = Counter()
        for process in self._processes.values():
            process.mm.check_invariants()
            for part in process.mm.tables.everything():
                mapped.update(part.present_frames().tolist())
        self.memory.frames.check_invariants(mapped)
        self.dksm.check_invariants()


def _fail(mm: AddressSpace, vpn: Vpn, signal: str | None, *, write: bool) -> None:
    """The access of page `vpn` gets the signal, if there is one."""
    if signal == "SIGBUS":
        faults.fault_behind_end(mm, vpn, write=write)
    if signal is not None:
        raise AccessFault(signal, vpn * PAGE_SIZE)


def _portions(start: Vpn, end: Vpn, pages: int) -> Iterator[tuple[Vpn, Vpn]]:
    """The range in parts of `pages` pages."""
    for at in range(start, end, pages):
        yield Vpn(at), min(Vpn(at + pages), end)


def _pages(length: int) -> int:
    return -(-length // PAGE_SIZE)


def _page(address: int) -> Vpn:
    if address % PAGE_SIZE or address < 0:
        raise kernel_error(errno.EINVAL, f"address {address:#x} is not a multiple of {PAGE_SIZE}")
    return Vpn(address // PAGE_SIZE)


def _range(address: int, length: int) -> tuple[Vpn, Vpn]:
    """The pages of a range that must start at a page and is rounded up to whole ones."""
    start = _page(address)
    end = Vpn(start + _pages(length))
    if length < 0 or end > TASK_PAGES:
        raise kernel_error(errno.ENOMEM, "the range ends beyond user memory")
    return start, end


def _outer_range(address: int, length: int) -> tuple[Vpn, Vpn]:
    """The pages that any byte of the range is in."""
    start = Vpn(address // PAGE_SIZE)
    end = Vpn(_pages(address + length))
    if length < 0 or address < 0 or end > TASK_PAGES:
        raise kernel_error(errno.ENOMEM, "the range ends beyond user memory")
    return start, max(end, start)
