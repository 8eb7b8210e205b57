"""How page contents leave a client: described, in the line, or beside it as a memfd."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from dksmfs.control.messages import Carried, Content

PAGE_SIZE: Final = 4096

Data = bytes | bytearray | memoryview

_INLINE_SIZE: Final = 64 << 10
"""Bytes from which a memfd is cheaper than base64 in the line."""

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def whole_pages(data: Data | None, pages: int | None, memfd: int | None = None) -> int:
    """The bytes of the whole pages that are meant; ValueError if that is not clear."""
    if (data is None) + (pages is None) + (memfd is None) != 2:
        raise ValueError("give exactly one of data, pages and memfd")
    if pages is not None:
        return pages * PAGE_SIZE
    size = os.fstat(memfd).st_size if memfd is not None else len(_bytes_of(data or b""))
    return -(-size // PAGE_SIZE) * PAGE_SIZE


@contextmanager
def carried(content: str | Data) -> Iterator[tuple[Content, Sequence[int]]]:
    """Give the member that says it, and the descriptors that go with it."""
    if isinstance(content, str):
        yield content, ()
        return
    data = _bytes_of(content)
    if len(data) < _INLINE_SIZE:
        yield Carried(data=bytes(data)), ()
        return
    descriptor = os.memfd_create("dksmfs", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _write_all(descriptor, data)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        yield Carried(memfd=0), (descriptor,)
    finally:
        os.close(descriptor)


@contextmanager
def carried_if_any(
    data: Data | None, fill: str | None, memfd: int | None
) -> Iterator[tuple[Content | None, Sequence[int]]]:
    """Like `carried`, for a mapping that may stay untouched or share the caller's memory."""
    content = fill if data is None else data
    if memfd is not None:
        yield Carried(memfd=0), (memfd,)
    elif content is None:
        yield None, ()
    else:
        with carried(content) as (wanted, descriptors):
            yield wanted, descriptors


def _bytes_of(data: Data) -> memoryview:
    return memoryview(data).cast("B")


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
