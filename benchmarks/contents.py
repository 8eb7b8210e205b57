"""Memory with a known share of duplicate pages, in a memfd that several processes may map."""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PAGE_SIZE = 4096

Words = npt.NDArray[np.uint64]  # shape (pages, 512)


@dataclass(frozen=True, slots=True)
class Mix:
    """The contents of two processes; `duplicates` (percent) of the second's are in the first."""

    name: str
    duplicates: int
    zero: bool = False


MIXES = (
    Mix("0 % duplicates", 0),
    Mix("50 % duplicates", 50),
    Mix("90 % duplicates", 90),
    Mix("100 % duplicates", 100),
    Mix("zero pages", 100, zero=True),
)


@contextmanager
def mixed_memory(mix: Mix, pages: int, *, sealed: bool) -> Iterator[tuple[int, int]]:
    """Two memfds of `pages` pages each, one for each of two processes; sealed ones are known never
    to change."""
    first, second = _memfd(pages), _memfd(pages)
    try:
        with _mapped(first) as one, _mapped(second) as two:
            _fill(_words(one), _words(two), mix)
        for descriptor in (first, second) if sealed else ():
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        yield first, second
    finally:
        os.close(first)
        os.close(second)


@contextmanager
def sealed_memory(contents: bytes) -> Iterator[int]:
    """A sealed memfd with these bytes."""
    descriptor = _memfd(len(contents) // PAGE_SIZE)
    try:
        with _mapped(descriptor) as memory:
            memory[:] = contents
        yield descriptor
    finally:
        os.close(descriptor)


def _memfd(pages: int) -> int:
    descriptor = os.memfd_create("benchmark", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, pages * PAGE_SIZE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor


def _mapped(descriptor: int) -> mmap.mmap:
    return mmap.mmap(descriptor, os.fstat(descriptor).st_size)


def _words(memory: mmap.mmap) -> Words:
    return np.frombuffer(memory, np.uint64).reshape(-1, PAGE_SIZE // 8)


def _fill(first: Words, second: Words, mix: Mix) -> None:
    """Random pages; duplicates are spread evenly, each at the same place in both processes."""
    if mix.zero:
        first[:] = second[:] = 0  # written, so that it is memory and not a hole
        return
    random = np.random.default_rng(1)
    for words in (first, second):
        words[:] = random.integers(0, 1 << 64, words.shape, np.uint64)
    same = np.arange(len(first)) * 61 % 100 < mix.duplicates
    second[same] = first[same]
