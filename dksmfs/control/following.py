"""Simulated processes that follow real ones: what `follow` and `advise` do.

A followed address space is made equal to the real one whenever its process advertises. In
between, its pages are read where they are, so one that its owner changed is found changed.
"""

import errno
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import numpy as np

from dksmfs.control import messages as m
from dksmfs.control.in_parts import in_parts
from dksmfs.control.limits import ThpMode
from dksmfs.control.live import CHUNK_PAGES, LiveMemory
from dksmfs.control.replies import Advised, Done
from dksmfs.kernel.calls.follow import Area, Mapping, follow_mappings, follow_pages, take_over
from dksmfs.kernel.calls.madvise import Advice
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.memory.vma import Kind, VmaFlag, parse_prot
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.units import HUGE_PAGES, PAGE_SIZE, Pfns, Vpn

if TYPE_CHECKING:
    from dksmfs.control.job import Job

_PAGES_AT_ONCE = 1 << 13  # of a pagemap, which the kernel fills in about a millisecond

_HUGEPAGE = {None: VmaFlag.NONE, True: VmaFlag.HUGEPAGE, False: VmaFlag.NOHUGEPAGE}


class Followed:
    """The real memory behind each process that follows one."""

    def __init__(self) -> None:
        self._memories: dict[int, LiveMemory] = {}

    def add(self, pid: int, memory: LiveMemory, parent: int | None) -> None:
        """Let process `pid` follow `memory`; frames that its parent was seen with are its own."""
        if pid in self._memories:
            memory.close()
            raise kernel_error(errno.EBUSY, f"process {pid} follows a real process already")
        self._memories[pid] = memory
        if parent in self._memories:
            memory.frames = self._memories[parent].frames.copy()

    def of(self, pid: int) -> LiveMemory:
        """The memory that a process follows; EINVAL if it follows none."""
        if pid not in self._memories:
            raise kernel_error(errno.EINVAL, f"process {pid} follows no real process")
        return self._memories[pid]

    def clear(self) -> None:
        """All processes are gone."""
        for memory in self._memories.values():
            memory.close()
        self._memories.clear()

    def exit(self, machine: Machine, pid: int) -> Work[None]:
        """End a process, following or not. Frames that others share with it are read from their
        memory from now on."""
        yield from machine.exit.work(pid)
        gone = self._memories.pop(pid, None)
        if gone is None:
            return
        gone.close()
        for other, memory in self._memories.items():
            mm = machine.address_space(other)
            for lost in gone.contents():
                chunk = lost.first // CHUNK_PAGES
                take_over(mm, lost, memory.content(chunk), lost.first)
                yield

    def ended(self) -> list[int]:
        """The processes whose real ones have exited, or executed another program."""
        return [pid for pid, memory in self._memories.items() if not memory.is_there]

    def sees_changes(self) -> bool:
        """Whether pages may be other than when they were advertised."""
        return bool(self._memories)


def follow(job: "Job", request: m.Follow) -> Work[Done]:
    """Let a simulated process follow the real one behind the descriptors that came along."""
    (memory,) = job.memory
    assert isinstance(memory, LiveMemory)
    processes = yield from job.machine.processes.work()
    parents = {info.pid: info.parent for info in processes}
    if request.pid not in parents:
        memory.close()
        raise kernel_error(errno.ESRCH, f"there is no process {request.pid}")
    job.followed.add(request.pid, memory, parents[request.pid])
    return Done()


def advise(job: "Job", request: m.Advise) -> Work[Advised]:
    """Bring the address space up to date, then advertise the range."""
    machine, dksm = job.machine, job.machine.dksm
    memory = job.followed.of(request.pid)
    yield from reap(job)
    scanned, merged, failed = dksm.pages_scanned, dksm.pages_merged, dksm.merging_failed
    saved = 0
    if request.mappings is not None:
        wanted = yield from in_parts(_mapping, request.mappings)
        yield from follow_mappings(machine.address_space(request.pid), wanted)
    if dksm.run:
        yield from job.until_killed(_follow(job, request, memory))
        before = yield from _frames(machine, request)
        advertising = machine.madvise.work(
            request.pid, request.address, request.length, Advice.MERGEABLE
        )
        with suppress(OSError):  # ENOMEM for holes: what is mapped was advertised all the same
            yield from job.until_killed(advertising)
        after = yield from _frames(machine, request)
        saved = sum(map(_differing, before, after))
    return Advised(
        dksm.pages_scanned - scanned,
        dksm.pages_merged - merged,
        dksm.merging_failed - failed,
        saved,
        cast(ThpMode, machine.thp),
    )


def reap(job: "Job") -> Work[None]:
    """End the processes whose real ones have ended: their frames are free by now."""
    for pid in job.followed.ended():
        yield from job.followed.exit(job.machine, pid)
        job.owners.forget(pid)


def _follow(job: "Job", request: m.Advise, memory: LiveMemory) -> Work[None]:
    for start, end in _mapped(job.machine, request):
        low = start // HUGE_PAGES * HUGE_PAGES
        high = -(-end // HUGE_PAGES) * HUGE_PAGES
        for at in range(low, high, _PAGES_AT_ONCE):
            yield from _follow_part(job, request.pid, memory, at, min(at + _PAGES_AT_ONCE, high))
            yield


def _follow_part(job: "Job", pid: int, memory: LiveMemory, start: int, end: int) -> Work[None]:
    """Follow whole areas: page tables are shared with what else is mapped in them."""
    mm = job.machine.address_space(pid)
    entries = memory.entries(start, end)
    areas = entries.reshape(-1, HUGE_PAGES)
    used = np.any(areas, axis=1).tolist()
    for at in range(len(areas)):
        area = start // HUGE_PAGES + at
        if not used[at] and area not in mm.tables:
            continue
        first = Vpn(area * HUGE_PAGES)
        content = memory.content(first // CHUNK_PAGES)
        states = memory.states(first, areas[at])
        changed = memory.changed(area, areas[at])
        indices = np.arange(HUGE_PAGES) + first - content.first
        follow_pages(mm, Area(first, states, changed, content, indices))
        yield


def _frames(machine: Machine, request: m.Advise) -> Work[list[Pfns]]:
    """The frames of the present pages in the range, a piece at a time."""
    tables, found = machine.address_space(request.pid).tables, list[Pfns]()
    for start, end in _mapped(machine, request):
        for at in range(start, end, _PAGES_AT_ONCE):
            found.append(tables.present_frames(Vpn(at), min(Vpn(at + _PAGES_AT_ONCE), end)))
            yield
    return found


def _differing(before: Pfns, after: Pfns) -> int:
    return int(np.count_nonzero(before != after))


def _mapped(machine: Machine, request: m.Advise) -> list[tuple[Vpn, Vpn]]:
    """The parts of the range that are mapped, in pages."""
    start, end = _pages(request.address, request.address + request.length)
    vmas = machine.address_space(request.pid).vmas.overlapping(start, end)
    return [(max(start, vma.start), min(end, vma.end)) for vma in vmas]


def _pages(start: int, end: int) -> tuple[Vpn, Vpn]:
    """The virtual pages that have any byte between two addresses."""
    return Vpn(start // PAGE_SIZE), Vpn(-(-end // PAGE_SIZE))


def _mapping(real: m.RealMapping) -> Mapping:
    return Mapping(
        *_pages(real.start, real.end),
        parse_prot(real.prot),
        Kind(real.kind),
        _HUGEPAGE[real.hugepage],
    )
