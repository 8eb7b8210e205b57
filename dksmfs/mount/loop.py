"""Answering the kernel's requests without a turn of trio's scheduler for each of them.

A reader asks again within microseconds: `open`, `read` and `close` are three requests, and a loop
around them has no end. `pyfuse3.main` goes to sleep in trio after each, which costs three system
calls and a pass of the scheduler, several times the answer itself. Here the task that answers
stays for a moment and takes the next request too: it looks a few times without sleeping, for to
wake up costs as much as to answer, and then sleeps for a fraction of a millisecond. It goes back to
trio when no request comes, or after a number of requests, which is smaller if anything that trio
waits for has happened. An idle mount sleeps in trio, as everything else does.

pyfuse3 has one place where it waits for a request, the coroutine `_wait_fuse_readable`, which its
session loop awaits before it reads one. `answer_requests` puts another in its place. A handler
that has to wait (a store, for the machine's lock) must not hold up the others: whenever the
session loop gives way for another reason than to wait for requests, a new task goes on reading,
and this one ends with the answer that it is at.
"""

import os
import re
import select
import stat
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyfuse3
import trio

LOOKS = 25 if len(os.sched_getaffinity(0)) > 1 else 1
"""How often to look for a next request without sleeping, a microsecond each: so long a program in
a loop takes to get an answer and to ask again. With one processor it can only do so if we sleep."""

STAY_S = 100e-6
"""How long to sleep for a next request. The slices of the engine take tens of times as long."""

TURN_REQUESTS = 128
"""Requests in a row, of about 15 microseconds each, before everybody else has a turn."""

LAST_REQUESTS = 16
"""Requests in a row when others wait: that many are four times open, read and close."""

_FUSE_DEVICE = os.makedev(10, 229)  # Documentation/admin-guide/devices.txt
_NO_MORE_TASKS = -(1 << 31)  # pyfuse3 starts another task while it has less than this


def fuse_descriptors() -> set[int]:
    """Return the descriptors through which this process talks to FUSE; pyfuse3 keeps its secret."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 (a Path for each is slow)
        with suppress(OSError):
            status = os.fstat(int(name))
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == _FUSE_DEVICE:
                found.add(int(name))
    return found


async def answer_requests(fuse: int) -> None:
    """Answer the requests that come on the descriptor ``fuse`` until the mount has gone."""
    # The kernel may take back a request that was announced, when the one who asked is killed.
    os.set_blocking(fuse, False)
    async with trio.open_nursery() as nursery:
        requests = _Requests(fuse, nursery)
        with _pyfuse3_waits_with(requests.wait):
            await requests.answer()


class _Requests:
    """The requests of one mount: one task at a time, ``_reader``, takes and answers them."""

    def __init__(self, fuse: int, nursery: trio.Nursery) -> None:
        self._fuse = fuse
        self._watched = [fuse]  # ... and trio's own epoll, once that is known
        poll = select.poll()
        poll.register(fuse, select.POLLIN)
        self._register, self._look = poll.register, poll.poll
        self._just_a_request = [(fuse, select.POLLIN)]
        self._nursery = nursery
        self._reader: trio.lowlevel.Task | None = None
        self._sleeps = False
        self._left = 0

    async def answer(self) -> None:
        """Take over as the reader, and answer requests until the mount has gone or another does."""
        self._reader = trio.lowlevel.current_task()
        while True:
            # pyfuse3 types only what it documents.
            session = pyfuse3._session_loop(None, 1, _NO_MORE_TASKS)  # type: ignore[attr-defined]
            try:
                return await _noticing(session, self._given_way)
            except BlockingIOError:
                continue  # a request was taken back

    async def wait(self) -> bool:
        """Return when there is a request to read; False ends the task that asks."""
        if self._reader is not trio.lowlevel.current_task():
            return False
        if not (self._left and self._comes_soon()):
            await self._sleep()
        self._left -= 1
        return True

    def _comes_soon(self) -> bool:
        """Stay for a moment; tell whether there is a request to read."""
        for _ in range(LOOKS):
            ready = self._look(0)
            if ready == self._just_a_request:
                return True
            if ready:  # trio wants its turn, but a reader should not be left in the middle
                self._left = min(self._left, LAST_REQUESTS)
                if len(ready) > 1:
                    return True
        if not ready:
            select.select(self._watched, (), (), STAY_S)
        return self._look(0) == self._just_a_request

    async def _sleep(self) -> None:
        """Wait in trio, so that others have a turn even if there is a request already."""
        self._sleeps = True
        await trio.lowlevel.wait_readable(self._fuse)
        self._sleeps = False
        if len(self._watched) == 1:
            for epoll in _epolls_watching(self._fuse):
                self._watched.append(epoll)
                self._register(epoll, select.POLLIN)
        self._left = TURN_REQUESTS

    def _given_way(self) -> None:
        if not self._sleeps and self._reader is trio.lowlevel.current_task():
            self._reader = None
            self._nursery.start_soon(self.answer)


@types.coroutine
def _noticing(
    work: Coroutine[Any, Any, None], given_way: Callable[[], None]
) -> Generator[Any, Any, None]:
    """Await ``work``; call ``given_way`` each time that it gives way to other tasks."""
    step: Callable[[], Any] = partial(work.send, None)
    while True:
        try:
            wanted = step()
        except StopIteration:
            return
        given_way()
        try:
            step = partial(work.send, (yield wanted))
        except BaseException as error:
            step = partial(work.throw, error)


@contextmanager
def _pyfuse3_waits_with(wait: Callable[[], Coroutine[Any, Any, bool]]) -> Iterator[None]:
    kept = pyfuse3._wait_fuse_readable  # type: ignore[attr-defined]
    pyfuse3._wait_fuse_readable = wait  # type: ignore[attr-defined]
    try:
        yield
    finally:
        pyfuse3._wait_fuse_readable = kept  # type: ignore[attr-defined]


def _epolls_watching(descriptor: int) -> list[int]:
    """Return the epoll descriptors, of which trio has one, that were told to watch a descriptor.

    An epoll descriptor can be polled itself: it is readable when something it watches has happened.
    """
    target = re.compile(rf"^tfd: +{descriptor} ", re.MULTILINE)
    found = []
    for path in Path("/proc/self/fdinfo").iterdir():
        with suppress(OSError):
            if target.search(path.read_text()):
                found.append(int(path.name))
    return found
