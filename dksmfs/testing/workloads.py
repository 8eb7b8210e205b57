"""Ready-made workloads: each drives a machine in the same way every time.

They turn DKSM on, advertise all memory that they make, and return the processes, which exit when
they are told to or when the connection closes. Sizes are in pages of 4096 bytes. The numbers in
the examples are with huge pages off, as the fixture has them.
"""

from collections import deque
from collections.abc import Iterator
from random import Random

from dksmfs.control.blocking import Blocking
from dksmfs.control.client import Machine, Process

Processes = list[Process[Blocking]]

_SHARED_SEED = 1
_FIRST_OWN_SEED = 1000


def identical_virtual_machines(
    machine: Machine[Blocking], count: int = 8, *, pages: int = 1024, merged: float = 0.6
) -> Processes:
    """Virtual machines of one image: of all their pages, the share `merged` is merged.

    The first one's pages are there to be merged with, so at most (count - 1) / count are merged.
    Eight of 1024 pages with 0.6: pages_merged is 4914, as near as whole pages come.
    """
    most = (count - 1) / count if count else 0.0
    if not 0 <= merged <= most:
        raise ValueError(f"of {count} virtual machines {most:.3f} can be merged, not {merged}")
    image = round(merged * count * pages / max(count - 1, 1))
    machine.run = 1
    started = []
    for number in range(count):
        process = machine.process(f"vm-{number + 1}")
        _advertised(process, image, f"seed:{_SHARED_SEED}")
        _advertised(process, pages - image, f"seed:{_FIRST_OWN_SEED + number}")
        started.append(process)
    return started


def forked_workers(
    machine: Machine[Blocking], count: int = 8, *, pages: int = 1024, written: float = 0.25
) -> Processes:
    """A web server and its workers, forked off it: they share its pages until they write to them.

    Each worker writes the same things to the first `written` of its pages, and all advertise.
    Returns the server, then the workers.
    """
    machine.run = 1
    server = machine.process("server")
    region = server.mmap(pages=pages, fill=f"seed:{_SHARED_SEED}")
    region.madvise("mergeable")
    workers = []
    for number in range(count):
        worker = server.fork(f"worker-{number + 1}")
        heap = worker.regions[0]
        copied = round(pages * written)
        if copied:
            heap.fill("seed:2", length=copied * 4096)
        heap.madvise("mergeable")
        workers.append(worker)
    return [server, *workers]


def unique_memory(machine: Machine[Blocking], count: int = 4, *, pages: int = 1024) -> Processes:
    """Processes without a page in common: nothing is merged, and the hashtable grows."""
    machine.run = 1
    started = []
    for number in range(count):
        process = machine.process(f"unique-{number + 1}")
        _advertised(process, pages, f"seed:{_FIRST_OWN_SEED + number}")
        started.append(process)
    return started


def zero_pages(machine: Machine[Blocking], count: int = 4, *, pages: int = 1024) -> Processes:
    """Processes that have written nothing but zeros: all of their pages but one are merged."""
    machine.run = 1
    started = []
    for number in range(count):
        process = machine.process(f"zero-{number + 1}")
        _advertised(process, pages, "zero")
        started.append(process)
    return started


def churning_fleet(
    machine: Machine[Blocking],
    count: int = 8,
    *,
    pages: int = 256,
    generations: int = 20,
    seed: int = 1,
) -> Iterator[Processes]:
    """A fleet in which one virtual machine writes, the oldest exits and a new one starts, over and
    over: the table fills with stale descriptors.

    Yields the living ones after each generation, so that a test can look in between.
    """
    random = Random(seed)
    machine.run = 1
    fleet: deque[Process[Blocking]] = deque()
    for generation in range(count + generations):
        process = machine.process(f"vm-{generation + 1}")
        _advertised(process, pages, f"seed:{_SHARED_SEED + generation % 3}")
        fleet.append(process)
        if len(fleet) <= count:
            continue
        fleet.popleft().exit()
        written = random.randrange(pages)
        region = random.choice(fleet).regions[0]
        region.write(written * 4096, generation.to_bytes(8, "little"))
        region.madvise("mergeable")
        yield list(fleet)


def _advertised(process: Process[Blocking], pages: int, fill: str) -> None:
    if pages:
        process.mmap(pages=pages, fill=fill).madvise("mergeable")
