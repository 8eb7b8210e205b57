"""Advertising an unchanged region once more: it is all tracked, or all merged, or of both."""

import mmap
import os
from collections.abc import Callable
from functools import partial

from benchmarks.contents import MIXES, PAGE_SIZE, mixed_memory
from benchmarks.core import Report, at_most, interleaved, seconds
from dksmfs.kernel.content.content import Content
from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.machine import ADVICE, Machine

Region = tuple[Machine, int, int, int]  # machine, process, address and size in bytes


def run(quick: bool) -> Report:
    """Measure regions of each kind."""
    pages, rounds = (16_384, 3) if quick else (131_072, 7)
    report = Report()
    with mixed_memory(MIXES[0], pages, sealed=True) as (descriptor, _):
        size = pages * PAGE_SIZE
        assert os.fstat(descriptor).st_size == size
        buffer = memoryview(mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ))
        stored, unsealed = StoredContent(buffer), StoredContent(buffer, stable=False)
        contents = {"stored": stored, "described": parse_content("seed:1")}
        regions = {
            **{f"tracked, {kind}": _owner(content, size) for kind, content in contents.items()},
            **{f"merged, {kind}": _sharer(content, size) for kind, content in contents.items()},
            "merged with each other, zero": _owner(parse_content("zero"), size),
            "merged, zero": _sharer(parse_content("zero"), size),
            "tracked, may change": _owner(unsealed, size),
        }
        again = {name: partial(_again, region) for name, region in regions.items()}
        samples = interleaved(again, rounds)
    for name, values in samples.items():
        wanted = None if "may change" in name else at_most(200)
        report.add(name, "advertise again", "ns/page", values, wanted)
    return report


def _again(region: Region) -> float:
    """Advertise a region, in nanoseconds a page."""
    machine, process, address, size = region
    advertise: Callable[[], None] = partial(
        machine.madvise, process, address, size, ADVICE["mergeable"]
    )
    return seconds(advertise) / (size // PAGE_SIZE) * 1e9


def _advertised(machine: Machine, content: Content, size: int) -> Region:
    process = machine.spawn("benchmark")
    address = machine.mmap(process, size, content=content)
    machine.madvise(process, address, size, ADVICE["mergeable"])
    return machine, process, address, size


def _owner(content: Content, size: int) -> Region:
    """A region that was advertised first."""
    machine = Machine(thp="never")
    machine.dksm.set_run(1)
    return _advertised(machine, content, size)


def _sharer(content: Content, size: int) -> Region:
    """A region that merged with one before."""
    machine, *_ = _owner(content, size)
    return _advertised(machine, content, size)
