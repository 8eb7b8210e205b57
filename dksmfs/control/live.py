"""The memory of a real process, read where it is whenever a page of it is looked at.

An open `/proc/PID/mem` or `/proc/PID/pagemap` stands for an address space, not for a pid: when
that ends, by exit or exec, it reads as empty, whoever has the pid by then.
"""

import errno
import os
import re
import resource
import weakref
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.calls.follow import State
from dksmfs.kernel.content.content import Content, Indices
from dksmfs.kernel.content.xxh64 import Rows
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.units import PAGE_SIZE

CHUNK_PAGES: Final = 1 << 32
"""Pages of address space in one `LiveContent`: a frame notes the page's number in 32 bits."""

# Bits of an entry of /proc/PID/pagemap.
_PRESENT: Final = np.uint64(1 << 63)
_FILE: Final = np.uint64(1 << 61)
_EXCLUSIVE: Final = np.uint64(1 << 56)
_PFN: Final = np.uint64((1 << 55) - 1)

_ZERO_PAGE: Final = 1 << 24  # KPF_ZERO_PAGE of /proc/kpageflags

_unreadable: Final = count(1)


class LiveMemory:
    """An address space of a real process; numbers are virtual pages."""

    def __init__(self, memory: int, pagemap: int) -> None:
        """Both descriptors are duplicated."""
        _check(memory, "mem")
        _check(pagemap, "pagemap")
        _raise_descriptor_limit()
        self._memory = os.dup(memory)
        self._pagemap = os.dup(pagemap)
        self._open = weakref.finalize(self, _close, self._memory, self._pagemap)
        self._contents: dict[int, LiveContent] = {}
        self.frames: dict[int, npt.NDArray[np.uint64]] = {}
        """The real frames of each 2 MiB area that was looked at, at the last look."""

    def close(self) -> None:
        """Stop reading; the pages are as those of a process that has ended."""
        self._open()

    @property
    def is_there(self) -> bool:
        """Whether the address space still exists."""
        return self._open.alive and bool(os.pread(self._pagemap, 8, 0))

    def contents(self) -> "list[LiveContent]":
        """Those that were handed out."""
        return list(self._contents.values())

    def content(self, chunk: int) -> "LiveContent":
        """The pages from `chunk` * CHUNK_PAGES on."""
        return self._contents.setdefault(chunk, LiveContent(self, chunk * CHUNK_PAGES))

    def entries(self, start: int, end: int) -> npt.NDArray[np.uint64]:
        """The pagemap of pages `start` to `end` - 1; nothing is present if it has ended."""
        wanted = (end - start) * 8
        data = os.pread(self._pagemap, wanted, start * 8) if self._open.alive else b""
        return np.frombuffer(data.ljust(wanted, b"\0"), np.uint64)

    def states(self, start: int, entries: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        """The `State` of each page of `entries`, the pagemap from page `start` on."""
        states = np.zeros(len(entries), np.uint8)
        present = entries & _PRESENT != 0
        states[present] = State.ANON
        states[present & (entries & _FILE != 0)] = State.FILE
        # The zero page is nobody's. Nor is a page that processes share after a fork.
        doubtful = np.flatnonzero((states == State.ANON) & (entries & _EXCLUSIVE == 0))
        if len(doubtful):
            zero = doubtful[~self.read(start + doubtful).any(axis=1)]
            states[zero[_are_zero_pages(entries[zero] & _PFN)]] = State.ZERO
        return states

    def changed(self, area: int, entries: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which pages of a whole area have other frames than at the last look, where we may know
        (that takes CAP_SYS_ADMIN)."""
        frames = entries & _PFN
        before = self.frames.get(area)
        self.frames[area] = frames
        if before is None:
            return np.zeros(len(entries), np.bool_)
        changed: npt.NDArray[np.bool_] = (before != frames) & (before != 0) & (frames != 0)
        return changed

    def read(self, vpns: Indices) -> Rows:
        """The bytes of pages; of one that cannot be read, bytes that no page ever has."""
        rows = np.empty((len(vpns), PAGE_SIZE), np.uint8)
        starts = np.flatnonzero(np.diff(vpns, prepend=vpns[:1] - 2) != 1)
        ends = np.append(starts[1:], len(vpns))
        for low, high in zip(starts.tolist(), ends.tolist(), strict=True):
            done = self._read_run(int(vpns[low]), rows[low:high])
            for at in range(low + done, high):
                if not self._read_run(int(vpns[at]), rows[at : at + 1]):
                    rows[at] = _unreadable_page()
        return rows

    def _read_run(self, vpn: int, rows: Rows) -> int:
        """Read consecutive pages; returns how many whole ones could be read."""
        if not self._open.alive:
            return 0
        try:
            return os.preadv(self._memory, [cast(bytearray, rows)], vpn * PAGE_SIZE) // PAGE_SIZE
        except OSError:
            return 0


class LiveContent(Content):
    """The pages of a real process from virtual page `first` on, as they are at each look."""

    stable = False

    def __init__(self, memory: LiveMemory, first: int) -> None:
        self._memory = memory
        self.first = first

    def rows(self, indices: Indices) -> Rows:
        return self._memory.read(indices + self.first)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _check(descriptor: int, name: str) -> None:
    """Refuse other files: reading a pipe, say, would hold everybody up."""
    path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
    if not re.fullmatch(rf"(/proc)?/\d+/(task/\d+/)?{name}", path):
        raise kernel_error(errno.EINVAL, f"the descriptor is not of /proc/PID/{name}")


def _raise_descriptor_limit() -> None:
    """Two descriptors for each process are more than the usual soft limit has room for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _unreadable_page() -> npt.NDArray[np.uint8]:
    row = np.frombuffer(np.uint64(next(_unreadable)).tobytes() + os.urandom(8), np.uint8)
    return np.resize(row, PAGE_SIZE)


def _are_zero_pages(frames: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which of these frames full of zeros are the kernel's own; all, if we may not know."""
    answer = np.ones(len(frames), np.bool_)
    if not frames.any():
        return answer
    try:
        flags = os.open("/proc/kpageflags", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return answer
    try:
        for at, frame in enumerate(frames.tolist()):
            answer[at] = int.from_bytes(os.pread(flags, 8, frame * 8), "little") & _ZERO_PAGE != 0
    finally:
        os.close(flags)
    return answer
