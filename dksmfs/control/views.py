"""Looks at the machine from outside, as replies. Nothing here changes anything."""

import errno
from collections.abc import Iterable
from itertools import count

import msgspec

from dksmfs.control import messages as m
from dksmfs.control.job import Job
from dksmfs.control.limits import MAX_SHARING
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.machine import Machine, PageInfo
from dksmfs.kernel.units import PAGE_SIZE


def processes(job: Job, _: m.Ps) -> m.Processes:
    """All processes, and whose they are."""
    return m.Processes(
        [
            m.ProcessInfo(p.pid, p.name, p.parent, job.owners.relation(p.pid, job.caller), p.rss)
            for p in job.machine.processes()
        ]
    )


def pagemap(job: Job, request: m.ViewPagemap) -> m.Pagemap:
    """The frames of a range."""
    pages = job.machine.pagemap(request.pid, request.address, request.length)
    return m.Pagemap(_numbers(pages), sum(page.huge for page in pages))


def page_contents(job: Job, request: m.ViewContents) -> m.Contents:
    """The pages of a range, abridged."""
    pages = job.machine.page_contents(request.pid, request.address, request.length)
    return m.Contents([page and f"{page[0]:x}/{page[1]:x}" for page in pages])


def smaps(job: Job, request: m.ViewSmaps) -> m.Smaps:
    """The mappings of a process."""
    mappings = job.machine.smaps(request.pid)
    return m.Smaps(msgspec.convert(mappings, list[m.MappingInfo], from_attributes=True))


def sharing(job: Job, request: m.ViewSharing) -> m.Sharing:
    """The frames of all processes as classes, numbered as they appear."""
    extents = [
        (process, _extents(job, process.pid, request.limit)) for process in job.machine.processes()
    ]
    _check_total(sum(size for _, of_process in extents for _, size in of_process))
    class_of: dict[int, int] = {}
    numbers = count(1)

    def classes(pages: list[PageInfo]) -> list[m.PageNumber]:
        return [
            class_of.get(pfn) or class_of.setdefault(pfn, next(numbers))
            if isinstance(pfn, int)
            else pfn
            for pfn in _numbers(pages)
        ]

    return m.Sharing(
        [
            m.SharedProcess(
                process.pid,
                process.name,
                [
                    m.SharedMapping(start, classes(job.machine.pagemap(process.pid, start, size)))
                    for start, size in of_process
                ],
            )
            for process, of_process in extents
        ]
    )


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


def _numbers(pages: Iterable[PageInfo]) -> list[m.PageNumber]:
    return ["Z" if page.zero else page.pfn for page in pages]


def _extents(job: Job, pid: int, limit: int) -> list[tuple[int, int]]:
    """Start and size (bytes) of the first `limit` pages of each mapping."""
    return [
        (mapping.start, min(mapping.end - mapping.start, limit * PAGE_SIZE))
        for mapping in job.machine.smaps(pid)
    ]


def _check_total(size: int) -> None:
    pages = size // PAGE_SIZE
    if pages > MAX_SHARING:
        raise kernel_error(
            errno.EMSGSIZE, f"{pages} pages to list, {MAX_SHARING} at most: lower `limit`"
        )
