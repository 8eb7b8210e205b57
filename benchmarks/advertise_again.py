"""Advertising a region again, of which nothing has changed.

Where the engine sees every write (contents that a client handed over, or described) it need not
look at the pages again. Memory that a client may still write has to be looked at.
"""

import mmap
import os
from collections.abc import Callable
from functools import partial

from benchmarks.contents import MIXES, PAGE_SIZE, mixed_memory
from benchmarks.core import Report, at_most, interleaved, seconds
from dksmfs.kernel.content import Content, StoredContent, parse_content
from dksmfs.kernel.machine import ADVICE, Machine


def run(quick: bool) -> Report:
    """Advertise once, and measure the times after."""
    pages, rounds = (16384, 5) if quick else (65536, 9)
    report = Report()
    with mixed_memory(MIXES[0], pages) as (descriptor, _):
        size = os.fstat(descriptor).st_size
        contents = {
            "stored": StoredContent(os.pread(descriptor, size, 0)),
            "seed": parse_content("seed:1"),
            "zero": parse_content("zero"),
            "shared, may change": StoredContent(
                memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ)), stable=False
            ),
        }
        again = {name: _advertised(content, pages) for name, content in contents.items()}
        samples = interleaved(again, rounds)
    for name, values in samples.items():
        wanted = at_most(200) if name != "shared, may change" else None
        report.add(name, "advertise again", "ns/page", values, wanted)
    return report


def _advertised(content: Content, pages: int) -> Callable[[], float]:
    """Advertise a region of `content`; what is returned does it again, in nanoseconds a page."""
    machine = Machine(thp="never")
    machine.dksm.set_run(1)
    process = machine.spawn("benchmark")
    size = pages * PAGE_SIZE
    address = machine.mmap(process, size, content=content)
    advertise = partial(machine.madvise, process, address, size, ADVICE["mergeable"])
    advertise()
    return lambda: seconds(advertise) / pages * 1e9
