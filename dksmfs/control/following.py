"""Simulated processes that follow real ones: what `follow` and `advise` do.

A followed address space is made equal to the real one whenever its process advertises. In
between, its pages are read where they are, so one that its owner changed is found changed.
"""

import errno
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import numpy as np

from dksmfs.control import messages as m
from dksmfs.control.limits import ThpMode
from dksmfs.control.live import CHUNK_PAGES, LiveMemory
from dksmfs.control.replies import Advised, Done
from dksmfs.kernel.calls.follow import Area, Mapping, follow_mappings, follow_pages, take_over
from dksmfs.kernel.calls.madvise import Advice
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.memory.vma import Kind, VmaFlag, parse_prot
from dksmfs.kernel.units import HUGE_PAGES, PAGE_SIZE

if TYPE_CHECKING:
    from dksmfs.control.job import Job

_PAGES_AT_ONCE = 1 << 16  # of a pagemap: half a megabyte

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
            known = self._memories[parent].frames
            memory.frames = {area: frames.copy() for area, frames in known.items()}

    def of(self, pid: int) -> LiveMemory:
        """The memory that a process follows; EINVAL if it follows none."""
        if pid not in self._memories:
            raise kernel_error(errno.EINVAL, f"process {pid} follows no real process")
        return self._memories[pid]

    def exit(self, machine: Machine, pid: int) -> None:
        """End a process, following or not. Frames that others share with it are read from their
        memory from now on."""
        machine.exit(pid)
        gone = self._memories.pop(pid, None)
        if gone is None:
            return
        gone.close()
        for other, memory in self._memories.items():
            mm = machine.address_space(other)
            for lost in gone.contents():
                chunk = lost.first // CHUNK_PAGES
                take_over(mm, lost, memory.content(chunk), lost.first)

    def ended(self) -> list[int]:
        """The processes whose real ones have exited, or executed another program."""
        return [pid for pid, memory in self._memories.items() if not memory.is_there]

    def sees_changes(self) -> bool:
        """Whether pages may be other than when they were advertised."""
        return bool(self._memories)


def follow(job: "Job", request: m.Follow) -> Done:
    """Let a simulated process follow the real one behind the descriptors that came along."""
    (memory,) = job.memory
    assert isinstance(memory, LiveMemory)
    parents = {info.pid: info.parent for info in job.machine.processes()}
    if request.pid not in parents:
        memory.close()
        raise kernel_error(errno.ESRCH, f"there is no process {request.pid}")
    job.followed.add(request.pid, memory, parents[request.pid])
    return Done()


def advise(job: "Job", request: m.Advise) -> Generator[None, None, Advised]:
    """Bring the address space up to date, then advertise the range."""
    machine, dksm = job.machine, job.machine.dksm
    memory = job.followed.of(request.pid)
    reap(job)
    scanned, merged, failed = dksm.pages_scanned, dksm.pages_merged, dksm.merging_failed
    saved = 0
    if request.mappings is not None:
        wanted = [_mapping(real) for real in request.mappings]
        follow_mappings(machine.address_space(request.pid), wanted)
    if dksm.run:
        yield from _follow(job, request, memory)
        before = _frames(machine, request)
        with suppress(OSError):  # ENOMEM for holes: what is mapped was advertised all the same
            yield from machine.madvise_slices(
                request.pid, request.address, request.length, Advice.MERGEABLE
            )
        saved = int(np.count_nonzero(before != _frames(machine, request)))
    return Advised(
        dksm.pages_scanned - scanned,
        dksm.pages_merged - merged,
        dksm.merging_failed - failed,
        saved,
        cast(ThpMode, machine.thp),
    )


def reap(job: "Job") -> None:
    """End the processes whose real ones have ended: their frames are free by now."""
    for pid in job.followed.ended():
        job.followed.exit(job.machine, pid)
        job.owners.forget(pid)


def _follow(job: "Job", request: m.Advise, memory: LiveMemory) -> Iterator[None]:
    mm = job.machine.address_space(request.pid)
    start, end = request.address // PAGE_SIZE, -(-(request.address + request.length) // PAGE_SIZE)
    for vma in mm.vmas.overlapping(start, end):
        low = max(start, vma.start) // HUGE_PAGES * HUGE_PAGES
        high = -(-min(end, vma.end) // HUGE_PAGES) * HUGE_PAGES
        for at in range(low, high, _PAGES_AT_ONCE):
            _follow_part(job, request.pid, memory, at, min(at + _PAGES_AT_ONCE, high))
            yield


def _follow_part(job: "Job", pid: int, memory: LiveMemory, start: int, end: int) -> None:
    """Follow whole areas: page tables are shared with what else is mapped in them."""
    mm = job.machine.address_space(pid)
    entries = memory.entries(start, end)
    areas = entries.reshape(-1, HUGE_PAGES)
    used = np.any(areas, axis=1).tolist()
    for at in range(len(areas)):
        area = start // HUGE_PAGES + at
        if not used[at] and area not in mm.tables:
            continue
        first = area * HUGE_PAGES
        content = memory.content(first // CHUNK_PAGES)
        states = memory.states(first, areas[at])
        changed = memory.changed(area, areas[at])
        indices = np.arange(HUGE_PAGES) + first - content.first
        follow_pages(mm, Area(first, states, changed, content, indices))


def _frames(machine: Machine, request: m.Advise) -> "np.typing.NDArray[np.int64]":
    """The frames of the present pages in the range."""
    start, end = request.address // PAGE_SIZE, -(-(request.address + request.length) // PAGE_SIZE)
    return machine.address_space(request.pid).tables.present_frames(start, end)


def _mapping(real: m.RealMapping) -> Mapping:
    return Mapping(
        real.start // PAGE_SIZE,
        -(-real.end // PAGE_SIZE),
        parse_prot(real.prot),
        Kind(real.kind),
        _HUGEPAGE[real.hugepage],
    )
