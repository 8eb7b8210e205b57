"""The kernel's own KSM as an anchor: how long ksmd takes for the same contents.

Its settings are put back exactly as they were, whatever happens in between.
"""

import mmap
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.core import MissingError

KSM = Path("/sys/kernel/mm/ksm")
_SETTINGS = ("sleep_millisecs", "pages_to_scan", "run")  # `run` is put back last
_LIMIT_S = 600.0


@contextmanager
def fast_ksm() -> Iterator[None]:
    """Let ksmd scan as fast as it can, once it is told to run."""
    if not os.access(KSM / "run", os.W_OK):
        raise MissingError(f"real KSM: {KSM} is missing, or we are not root")
    advisor = KSM / "advisor_mode"
    if advisor.exists() and "[none]" not in advisor.read_text():
        raise MissingError(f"real KSM: {advisor} chooses the speed; write none to it")
    found = {name: (KSM / name).read_text() for name in _SETTINGS}
    try:
        for name, value in (("run", "0"), ("sleep_millisecs", "0"), ("pages_to_scan", "10000000")):
            (KSM / name).write_text(value)
        yield
    finally:
        for name in _SETTINGS:
            (KSM / name).write_text(found[name])


def scan_seconds(descriptors: Sequence[int]) -> tuple[float, float]:
    """How long ksmd takes for one scan of processes with the contents of these memfds, and for two.

    It merges a page only when a second scan finds it unchanged.
    """
    with ExitStack() as processes:
        for descriptor in descriptors:
            processes.enter_context(_process(descriptor))
        before = _full_scans()
        start = time.perf_counter()
        (KSM / "run").write_text("1")
        try:
            once = _wait_for(before + 1, start)
            return once, _wait_for(before + 2, start)
        finally:
            (KSM / "run").write_text("0")


def _full_scans() -> int:
    return int((KSM / "full_scans").read_text())


def _wait_for(scans: int, start: float) -> float:
    while _full_scans() < scans:
        if time.perf_counter() - start > _LIMIT_S:
            raise MissingError(f"real KSM: no full scan within {_LIMIT_S:.0f} s")
        time.sleep(0.0005)
    return time.perf_counter() - start


@contextmanager
def _process(descriptor: int) -> Iterator[None]:
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
        yield
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _mergeable_copy(descriptor: int) -> mmap.mmap:
    size = os.fstat(descriptor).st_size
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as contents:
        memory[:] = contents
    memory.madvise(mmap.MADV_MERGEABLE)
    return memory
