"""One simulated machine: memory, the merge engine, and the processes that use them.

`Machine` has a method for each thing a process can do, and for each view from outside. It does no
I/O, asks no clock and starts no threads; a method runs to its end, as under the kernel's
dksm_mutex. Addresses and lengths are in bytes, as in the system calls. Failures are `OSError`
with the kernel's errno, and leave the machine as the kernel would.
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
from dksmfs.kernel.calls.smaps import MappingInfo, mapping_info, present_pages
from dksmfs.kernel.content.content import Content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.dksm.batches import Batches
from dksmfs.kernel.dksm.engine import Dksm, MergeShortcut
from dksmfs.kernel.dksm.known_merges import KnownMerges
from dksmfs.kernel.errors import AccessFault, kernel_error
from dksmfs.kernel.memory.address_space import AddressSpace, Memory, Thp
from dksmfs.kernel.memory.entries import HugePage, Part, Run
from dksmfs.kernel.memory.hashing.copies import Copies
from dksmfs.kernel.memory.hashing.formulas import Formulas
from dksmfs.kernel.memory.hashing.gathered import Gathered
from dksmfs.kernel.memory.hashing.hashes import HashShortcut
from dksmfs.kernel.memory.hashing.known import Known
from dksmfs.kernel.memory.hashing.repetitions import Repetitions
from dksmfs.kernel.memory.hashing.same_pages import SamePages
from dksmfs.kernel.memory.page_cache import File
from dksmfs.kernel.memory.vma import Kind, Prot, parse_prot
from dksmfs.kernel.units import HUGE_PAGES, PAGE_SIZE

ADVICE: dict[str, int] = {advice.name.lower(): advice.value for advice in Advice}
"""The advices by the name that people write."""

Shortcut = type[HashShortcut] | type[MergeShortcut]

SHORTCUTS: Final[tuple[Shortcut, ...]] = (
    KnownMerges,
    Batches,
    Known,
    Gathered,
    Formulas,
    SamePages,
    Repetitions,
    Copies,
)
"""All that come to the results of the engine with less work, in the order in which they are
tried."""


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

    def reset(self, thp: str) -> None:
        """Become a machine that has just been started, whatever this one has been through."""
        vars(self).update(vars(Machine(thp)))

    # --- processes --------------------------------------------------------------------------

    def spawn(self, name: str) -> int:
        """A new process without mappings; returns its pid, which is never used again."""
        return self._add(name, None, AddressSpace(self.memory))

    def fork(self, pid: int, name: str | None = None) -> int:
        """fork(2): the child has the parent's name unless given one; returns its pid."""
        parent = self._process(pid)
        return self._add(name or parent.name, pid, calls.fork(parent.mm))

    def exit(self, pid: int) -> None:
        """The process ends; its frames live on as long as others map them."""
        process = self._process(pid)
        process.mm.remove(list(process.mm.vmas))
        del self._processes[pid]

    def processes(self) -> list[ProcessInfo]:
        """The living processes, the oldest first."""
        return [
            ProcessInfo(process.pid, process.name, process.parent, present_pages(process.mm))
            for process in self._processes.values()
        ]

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

    def mkfile(self, name: str, pages: int, content: Content) -> None:
        """Create a file of `pages` pages in memory, in place of one with that name.

        Whoever maps the old file keeps it.
        """
        if pages < 1:
            raise kernel_error(errno.EINVAL, "a file has at least one page")
        self.memory.frames.contents.require_storage(content.held_bytes)
        file = File(pages)
        file.write(self.memory.frames, content)
        file.linked = True
        old, self._files[name] = self._files.get(name), file
        if old is not None:
            old.linked = False
            AddressSpace(self.memory).close(old)

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
    ) -> int:
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
        start = calls.mmap(mm, start, pages, first, what, mapped)
        if content is not None:
            try:
                self.fill(pid, start * PAGE_SIZE, pages * PAGE_SIZE, content)
            except AccessFault:
                calls.munmap(mm, start, start + pages)
                raise
            calls.mprotect(mm, start, start + pages, wanted)
        return start * PAGE_SIZE

    def _file(self, kind: Kind, name: str | None) -> File | None:
        if kind not in (Kind.FILE_PRIVATE, Kind.FILE_SHARED):
            if name is not None:
                raise kernel_error(errno.EINVAL, f"a mapping of kind {kind.value} has no file")
            return None
        if name is None or name not in self._files:
            raise kernel_error(errno.ENOENT, f"there is no file {name!r}")
        return self._files[name]

    def munmap(self, pid: int, address: int, length: int) -> None:
        """munmap(2)."""
        start, end = _range(address, length)
        if start == end:
            raise kernel_error(errno.EINVAL, "nothing to unmap: the length is 0")
        calls.munmap(self._mm(pid), start, end)

    def mprotect(self, pid: int, address: int, length: int, prot: str) -> None:
        """mprotect(2); `prot` as for `mmap`."""
        calls.mprotect(self._mm(pid), *_range(address, length), parse_prot(prot))

    def mremap(self, pid: int, address: int, length: int, new_address: int) -> int:
        """mremap(2) with MREMAP_FIXED and the size unchanged; returns the new address."""
        start, end = _range(address, length)
        if start == end:
            raise kernel_error(errno.EINVAL, "nothing to move: the length is 0")
        calls.mremap(self._mm(pid), start, end - start, _page(new_address))
        return new_address

    def mlock(self, pid: int, address: int, length: int) -> None:
        """mlock(2)."""
        calls.mlock(self._mm(pid), *_outer_range(address, length))

    def munlock(self, pid: int, address: int, length: int) -> None:
        """munlock(2)."""
        calls.munlock(self._mm(pid), *_outer_range(address, length))

    def madvise(self, pid: int, address: int, length: int, advice: int) -> None:
        """madvise(2); `advice` is one of `ADVICE`, others are EINVAL."""
        for _ in self.madvise_slices(pid, address, length, advice):
            pass

    def madvise_slices(self, pid: int, address: int, length: int, advice: int) -> Iterator[None]:
        """`madvise`, with a pause wherever a long MADV_MERGEABLE may let others look.

        Nothing may change the machine in a pause; failures are raised when asked for the next.
        """
        mm = self._mm(pid)
        start, end = advised_range(address, length, advice)
        mappings = AdvisedMappings(mm, start, end)
        if advice == Advice.MERGEABLE:
            yield from self.dksm.advertise(mm, mappings)
        else:
            for vma, low, high in mappings:
                if advice != Advice.UNMERGEABLE:
                    apply_advice(mm, vma, low, high, Advice(advice))
        mappings.refuse_holes()

    # --- accesses ---------------------------------------------------------------------------

    def read(self, pid: int, address: int, length: int) -> bytes:
        """The process loads bytes; `AccessFault` if it may not."""
        mm = self._mm(pid)
        start, end = _outer_range(address, length)
        self._access(mm, start, end, write=False)
        pfns, _ = mm.tables.entries(start, end)
        offset = address % PAGE_SIZE
        return self.memory.frames.contents.rows(pfns).tobytes()[offset : offset + length]

    def write(self, pid: int, address: int, data: bytes) -> None:
        """The process stores bytes; at an `AccessFault` the pages before are written."""
        mm = self._mm(pid)
        start, end = _outer_range(address, len(data))
        self.memory.frames.contents.require_storage((end - start) * PAGE_SIZE)
        # A page that is written in part is copied with what the stores before have left in it.
        whole = address + -address % PAGE_SIZE
        tail = max(whole, (address + len(data)) // PAGE_SIZE * PAGE_SIZE)
        self._write_part(mm, address, data[: whole - address])
        self._write_pages(mm, whole, data[whole - address : tail - address])
        self._write_part(mm, tail, data[tail - address :])

    def _write_part(self, mm: AddressSpace, address: int, data: bytes) -> None:
        if data:
            vpn = address // PAGE_SIZE
            self._access(mm, vpn, vpn + 1, write=True)
            pfn, _ = mm.tables.entry(vpn)
            self.memory.frames.contents.overwrite(pfn, address % PAGE_SIZE, data)

    def _write_pages(self, mm: AddressSpace, address: int, data: bytes) -> None:
        if data:
            start = address // PAGE_SIZE
            self._fill(mm, start, start + len(data) // PAGE_SIZE, StoredContent(data))

    def fill(self, pid: int, address: int, length: int, content: Content) -> None:
        """The process stores page 0, 1, ... of `content` to the pages of a range of whole pages;
        at an `AccessFault` the pages before are stored."""
        mm = self._mm(pid)
        start, end = _range(address, length)
        self.memory.frames.contents.require_storage(content.held_bytes)
        self._fill(mm, start, end, content)

    def _fill(self, mm: AddressSpace, start: int, end: int, content: Content) -> None:
        fault = self._access_some(mm, start, end, write=True)
        end = end if fault is None else fault.address // PAGE_SIZE
        frames = self.memory.frames
        for part in mm.tables.look(start, end):
            if isinstance(part, Run):
                pages = range(part.start - start, part.end - start)
                frames.contents.set(part.frames, content, pages)
        pfns, positions = mm.tables.opened_entries(start, end)
        if frames.cached(pfns).any():
            # Two pages may be one frame, of a file mapped twice: the last store counts.
            pfns, backwards = np.unique(pfns[::-1], return_index=True)
            positions = positions[len(positions) - 1 - backwards]
        frames.contents.set(pfns, content, positions)
        if fault is not None:
            raise fault

    def touch(self, pid: int, address: int, length: int) -> None:
        """The process loads a byte of each page; at an `AccessFault` the pages before are read."""
        self._access(self._mm(pid), *_outer_range(address, length), write=False)

    def _access(self, mm: AddressSpace, start: int, end: int, *, write: bool) -> None:
        fault = self._access_some(mm, start, end, write=write)
        if fault is not None:
            raise fault

    def _access_some(
        self, mm: AddressSpace, start: int, end: int, *, write: bool
    ) -> AccessFault | None:
        accessible, signal = faults.reach(mm, start, end, write=write)
        faults.access(mm, start, accessible, write=write)
        if signal == "SIGBUS":
            faults.fault_behind_end(mm, accessible, write=write)
        return None if signal is None else AccessFault(signal, accessible * PAGE_SIZE)

    # --- views from outside: they change nothing --------------------------------------------

    def pagemap(self, pid: int, address: int, length: int) -> list[PageInfo]:
        """The frame of each page of the range (/proc/PID/pagemap)."""
        frames = self.memory.frames
        pfns, flags = self._mm(pid).tables.entries(*_outer_range(address, length))
        huge = frames.compound(pfns)
        return [
            PageInfo(pfn if present else None, bool(present) and pfn < HUGE_PAGES, part)
            for pfn, present, part in zip(pfns.tolist(), flags.tolist(), huge.tolist(), strict=True)
        ]

    def page_contents(self, pid: int, address: int, length: int) -> list[tuple[int, int] | None]:
        """The first 8 bytes (little-endian) and the checksum of each page; None where absent."""
        frames = self.memory.frames
        pfns, flags = self._mm(pid).tables.entries(*_outer_range(address, length))
        present = pfns[flags != 0]
        rows, checksums = frames.hashes.look(present)
        words = np.ascontiguousarray(rows[:, :8]).view("<u8")[:, 0].tolist()
        known = iter(zip(words, checksums.tolist(), strict=True))
        return [next(known) if flag else None for flag in flags.tolist()]

    def smaps(self, pid: int) -> list[MappingInfo]:
        """The mappings and what they hold (/proc/PID/smaps), in ascending order."""
        return [mapping_info(self._mm(pid), vma) for vma in self._mm(pid).vmas]

    def check_invariants(self) -> None:
        """Assert that all the books of the machine agree; for tests, and slow."""
        mapped: Counter[int] = Counter()
        for process in self._processes.values():
            process.mm.check_invariants()
            for part in process.mm.tables.everything():
                mapped.update(_mapped_frames(part))
        self.memory.frames.check_invariants(mapped)
        self.dksm.check_invariants()


def _mapped_frames(part: Part) -> list[int]:
    if isinstance(part, Run):
        return [pfn for pfn in part.entries().tolist() if pfn]
    entries = part[1].split() if isinstance(part[1], HugePage) else part[1]
    return [pfn for pfn in entries.pfn.tolist() if pfn]


def _pages(length: int) -> int:
    return -(-length // PAGE_SIZE)


def _page(address: int) -> int:
    if address % PAGE_SIZE or address < 0:
        raise kernel_error(errno.EINVAL, f"address {address:#x} is not a multiple of {PAGE_SIZE}")
    return address // PAGE_SIZE


def _range(address: int, length: int) -> tuple[int, int]:
    """The pages of a range that must start at a page and is rounded up to whole ones."""
    start = _page(address)
    end = start + _pages(length)
    if length < 0 or end > calls.TASK_PAGES:
        raise kernel_error(errno.ENOMEM, "the range ends beyond user memory")
    return start, end


def _outer_range(address: int, length: int) -> tuple[int, int]:
    """The pages that any byte of the range is in."""
    start = address // PAGE_SIZE
    end = _pages(address + length)
    if length < 0 or address < 0 or end > calls.TASK_PAGES:
        raise kernel_error(errno.ENOMEM, "the range ends beyond user memory")
    return start, max(end, start)
