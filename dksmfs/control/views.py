"""Looks at the machine from outside, as replies. Nothing here changes anything.

Others may change the machine in the pauses of a look; it shows each part as it finds it.
"""

import errno
from contextlib import suppress

import msgspec

from dksmfs.control import messages as m
from dksmfs.control.in_parts import in_parts
from dksmfs.control.job import Job
from dksmfs.control.limits import MAX_SHARING
from dksmfs.kernel.calls.smaps import MappingInfo
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.machine import Machine, PageInfo, ProcessInfo
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.units import PAGE_SIZE


def processes(job: Job, _: m.Ps) -> Work[m.Processes]:
    """All processes, and whose they are."""

    def shown(p: ProcessInfo) -> m.ProcessInfo:
        return m.ProcessInfo(p.pid, p.name, p.parent, job.owners.relation(p.pid, job.caller), p.rss)

    found = yield from job.machine.processes.work()
    return m.Processes((yield from in_parts(shown, found)))


def pagemap(job: Job, request: m.ViewPagemap) -> Work[m.Pagemap]:
    """The frames of a range."""
    pages = yield from job.machine.pagemap.work(request.pid, request.address, request.length)
    numbers = yield from in_parts(_number, pages)
    return m.Pagemap(numbers, sum(page.huge for page in pages))


def page_contents(job: Job, request: m.ViewContents) -> Work[m.Contents]:
    """The pages of a range, abridged."""
    pages = yield from job.machine.page_contents.work(request.pid, request.address, request.length)
    return m.Contents((yield from in_parts(_abridged, pages)))


def smaps(job: Job, request: m.ViewSmaps) -> Work[m.Smaps]:
    """The mappings of a process."""
    mappings = yield from job.machine.smaps.work(request.pid)
    return m.Smaps((yield from in_parts(_mapping, mappings)))


def sharing(job: Job, request: m.ViewSharing) -> Work[m.Sharing]:
    """The frames of all processes as classes, numbered as they appear. Processes that exit
    meanwhile are left out, or have no pages."""
    extents = []
    total = 0
    for process in (yield from job.machine.processes.work()):
        with suppress(ProcessLookupError):
            of_process = yield from _extents(job, process.pid, request.limit)
            total += sum(size for _, size in of_process)
            _check_total(total)
            extents.append((process, of_process))
    classes = Classes()
    shared = []
    for process, of_process in extents:
        with suppress(ProcessLookupError):
            mappings = []
            for start, size in of_process:
                pages = yield from _classes(job, classes, process.pid, start, size)
                mappings.append(m.SharedMapping(start, pages))
                yield  # even where `limit` leaves no pages
            shared.append(m.SharedProcess(process.pid, process.name, mappings))
    return m.Sharing(shared)


class Classes:
    """Numbers for frames, in the order in which they appear."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def of(self, page: PageInfo) -> m.PageNumber:
        """The number of the frame of a page, if it has one of its own."""
        pfn = _number(page)
        return (
            self._numbers.setdefault(pfn, len(self._numbers) + 1) if isinstance(pfn, int) else pfn
        )


def _classes(
    job: Job, classes: Classes, pid: int, start: int, size: int
) -> Work[list[m.PageNumber]]:
    pages = yield from job.machine.pagemap.work(pid, start, size)
    return (yield from in_parts(classes.of, pages))


def stats(job: Job, _: m.ReadStats) -> m.Stats:
    """The six values."""
    return statistics(job.machine)


def statistics(machine: Machine) -> m.Stats:
    """The six values of a machine."""
    dksm = machine.dksm
    return m.Stats(
        run=dksm.run,
        pages_scanned=dksm.pages_scanned,
        pages_merged=dksm.pages_merged,
        merging_failed=dksm.merging_failed,
        hashtable_entries=dksm.hashtable_entries,
        hashtable_size=dksm.hashtable_size,
    )


def _number(page: PageInfo) -> m.PageNumber:
    return "Z" if page.zero else page.pfn


def _abridged(page: tuple[int, int] | None) -> str | None:
    return page and f"{page[0]:x}/{page[1]:x}"


def _mapping(mapping: MappingInfo) -> m.MappingInfo:
    return msgspec.convert(mapping, m.MappingInfo, from_attributes=True)


def _extents(job: Job, pid: int, limit: int) -> Work[list[tuple[int, int]]]:
    """Start and size (bytes) of the first `limit` pages of each mapping."""

    def extent(mapping: MappingInfo) -> tuple[int, int]:
        return mapping.start, min(mapping.end - mapping.start, limit * PAGE_SIZE)

    return (yield from in_parts(extent, (yield from job.machine.smaps.work(pid))))


def _check_total(size: int) -> None:
    pages = size // PAGE_SIZE
    if pages > MAX_SHARING:
        raise kernel_error(
            errno.EMSGSIZE, f"{pages} pages to list, {MAX_SHARING} at most: lower `limit`"
        )
