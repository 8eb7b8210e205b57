"""The kernel's own KSM as an anchor: how long ksmd takes for the same contents.

Its settings are put back exactly as they were, whatever happens in between.
"""

import fcntl
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.core import MissingError

KSM = Path("/sys/kernel/mm/ksm")
_SETTINGS = ("sleep_millisecs", "pages_to_scan", "run")  # `run` is put back last
_FASTEST = {"run": "0", "sleep_millisecs": "0", "pages_to_scan": "10000000"}
_LIMIT_S = 600.0


def check_ksm() -> None:
    """Say what is missing for measurements of KSM."""
    if not Path("/proc/self/ksm_stat").exists():
        raise MissingError("real KSM: this kernel does not tell what ksmd has seen (ksm_stat)")
    if not os.access(KSM / "run", os.W_OK):
        raise MissingError(f"real KSM: {KSM} is missing, or we are not root")
    advisor = KSM / "advisor_mode"
    if advisor.exists() and "[none]" not in advisor.read_text():
        raise MissingError(f"real KSM: {advisor} chooses the speed; write none to it")


@contextmanager
def fast_ksm() -> Iterator[None]:
    """Let ksmd scan as fast as it can, once it is told to run; for the length of a block."""
    with _nobody_else():
        found = {name: (KSM / name).read_text() for name in _SETTINGS}
        try:
            for name, value in _FASTEST.items():
                (KSM / name).write_text(value)
            yield
        finally:
            for name in _SETTINGS:
                (KSM / name).write_text(found[name])


@contextmanager
def _nobody_else() -> Iterator[None]:
    """Hold the lock that our tests of live sysfs take too: there is only one KSM."""
    descriptor = os.open(KSM.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def scan_seconds(descriptors: Sequence[int]) -> tuple[float, float]:
    """How long ksmd takes for one scan of processes with the contents of these memfds, and for two.

    It merges a page only when a second scan finds it unchanged. A scan may begin anywhere, so the
    first is over when every page has been seen, and the second when one more has run to its end.
    """
    pages = sum(os.fstat(descriptor).st_size for descriptor in descriptors) // mmap.PAGESIZE
    with ExitStack() as held:
        children = [held.enter_context(_process(descriptor)) for descriptor in descriptors]
        start = time.perf_counter()
        (KSM / "run").write_text("1")
        try:
            once_s = _wait(start, lambda: sum(map(_pages_seen, children)) >= pages)
            last = _full_scans() + 2  # the one that has just seen the last page, and the next
            return once_s, _wait(start, lambda: _full_scans() >= last)
        finally:
            (KSM / "run").write_text("0")


def _full_scans() -> int:
    return int((KSM / "full_scans").read_text())


def _pages_seen(pid: int) -> int:
    for line in Path(f"/proc/{pid}/ksm_stat").read_text().splitlines():
        if line.startswith("ksm_rmap_items"):
            return int(line.split()[1])
    raise MissingError("real KSM: this kernel does not tell what ksmd has seen")


def _wait(start: float, is_done: Callable[[], bool]) -> float:
    """Seconds from `start` on until it is done."""
    while not is_done():
        if time.perf_counter() - start > _LIMIT_S:
            raise MissingError(f"real KSM: not done within {_LIMIT_S:.0f} s")
        time.sleep(0.001)
    return time.perf_counter() - start


@contextmanager
def _process(descriptor: int) -> Iterator[int]:
    """A process whose anonymous, mergeable memory has the contents of a memfd."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            memory = _mergeable_copy(descriptor)
            os.write(writer, b"x")
            signal.pause()
            memory.close()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        if os.read(reader, 1) != b"x":
            raise MissingError("real KSM: a process with mergeable memory could not be had")
        yield child
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _mergeable_copy(descriptor: int) -> mmap.mmap:
    size = os.fstat(descriptor).st_size
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    with mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ) as contents:
        memory[:] = contents
    memory.madvise(mmap.MADV_MERGEABLE)
    return memory
