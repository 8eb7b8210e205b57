"""Answers that wait for nothing, given without a pass of trio's scheduler.

Such a pass takes longer than most answers do. But trio has one place in which it waits, and tells
its instruments before it does (`before_io_wait`). There an `Attendant` waits in its stead: for
descriptors of its own, and for all that trio waits for. When one of its own is ready, a function
answers that never waits, so no task can see the middle of it. Whatever has to wait is left to a
task. As soon as trio has something to do, because something has happened, because a time has come
or because an answer has woken a task, the attendant lets go; and if tasks are busy all the time,
it answers between their turns.
"""

import os
import re
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import outcome
import trio

_MOST_EVENTS: Final = 64
"""Descriptors that are answered before trio is looked at again."""

_FOR_EVER_S: Final = 3600.0
"""trio says that it waits for a day when there is nothing to wait for: that needs no clock."""


_INTERLUDE_S: Final = 1e-3
"""How long a task that takes long waits for hasty ones, at most: less than for its own turns."""

_AGAIN_S: Final = 200e-6
"""Within this time a program that was answered asks again, if it will."""

Answer = Callable[[], bool]
"""Does what can be done at once; True once a task is needed. It never waits."""


@contextmanager
def attending(epoll_of_trio: int) -> Iterator["Attendant"]:
    """Have an attendant for the length of a block."""
    attendant = Attendant(epoll_of_trio, trio.lowlevel.current_trio_token())
    trio.lowlevel.add_instrument(attendant)
    try:
        yield attendant
    finally:
        trio.lowlevel.remove_instrument(attendant)
        attendant.close()


class Attendant(trio.abc.Instrument):
    """Answers for tasks that wait, in trio's thread and while none of them runs."""

    def __init__(self, epoll_of_trio: int, token: trio.lowlevel.TrioToken) -> None:
        self._trio = epoll_of_trio
        self._token = token
        self._trio_has_work = False
        self._answers: dict[int, Answer] = {epoll_of_trio: self._see_to_trio}
        self._tasks: dict[int, trio.lowlevel.Task] = {}
        self._hasty: set[int] = set()
        self._epoll = select.epoll()
        self._epoll.register(self._trio, select.EPOLLIN)

    def close(self) -> None:
        """Answer for nobody any more."""
        self._epoll.close()

    async def attend(self, descriptor: int, answer: Answer, *, hasty: bool = False) -> None:
        """Call `answer` whenever there is something to read, until it returns True or fails.

        A `hasty` one asks for something in several pieces, and wants all of it soon.
        """
        if hasty:
            self._hasty.add(descriptor)
        self._answers[descriptor] = answer
        self._tasks[descriptor] = trio.lowlevel.current_task()
        self._epoll.register(descriptor, select.EPOLLIN)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._forget(descriptor)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _forget(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._hasty.discard(descriptor)
        del self._answers[descriptor], self._tasks[descriptor]

    def _see_to_trio(self) -> bool:
        self._trio_has_work = True
        return False

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002
        """Be told by trio that a task can go on."""
        self._trio_has_work = True

    def before_io_wait(self, timeout: float) -> None:
        """Be told by trio that it is about to wait so long, or only to look if that is 0."""
        if timeout <= 0:
            self._answer_all(0)
            return
        self._trio_has_work = False
        ends = None if timeout > _FOR_EVER_S else time.monotonic() + timeout
        while not self._trio_has_work:
            rest = None if ends is None else ends - time.monotonic()
            if rest is not None and rest <= 0:
                break
            self._answer_all(rest)
        self._token.run_sync_soon(_nothing, idempotent=True)  # or trio would wait, after all

    def interlude(self) -> None:
        """Answer those who ask, in the middle of a task that takes long: everybody once, and the
        hasty ones for as long as they ask again at once, for a moment."""
        self._answer_all(0)
        self._answer_hasty()

    def _answer_all(self, timeout: float | None) -> None:
        """Answer those who are ready within so many seconds; where many answers take long, the
        hasty ones have their turns between them."""
        ready = self._epoll.poll(timeout, _MOST_EVENTS)
        ends = time.monotonic() + _INTERLUDE_S
        for descriptor, _ in ready:
            self._answer(descriptor)
            if time.monotonic() > ends:
                self._answer_hasty()
                ends = time.monotonic() + _INTERLUDE_S

    def _answer_hasty(self) -> None:
        hasty, wait_s = set(self._hasty), 0.0
        ends = time.monotonic() + _INTERLUDE_S
        while hasty and time.monotonic() < ends:
            again, _, _ = select.select(hasty, [], [], wait_s)  # epoll has no such short times
            for descriptor in again:
                self._answer(descriptor)
            hasty, wait_s = set(again), _AGAIN_S

    def _answer(self, descriptor: int) -> None:
        answer = self._answers.get(descriptor, _not_any_more)
        try:
            if answer():
                self._let_go_on(descriptor, outcome.Value(None))
        except BaseException as error:
            self._let_go_on(descriptor, outcome.Error(error))

    def _let_go_on(self, descriptor: int, result: outcome.Outcome[None]) -> None:
        task = self._tasks[descriptor]
        self._forget(descriptor)
        trio.lowlevel.reschedule(task, result)


def _not_any_more() -> bool:
    """Answer nobody: another one's answer has ended this one's."""
    return False


def _nothing() -> None:
    pass


async def epoll_of_trio() -> int:
    """Return the descriptor with which trio waits, which is readable when trio need not wait.

    trio keeps it to itself, but Linux tells what each such descriptor was told to watch.
    """
    event = os.eventfd(0)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.wait_readable, event)
            while not (found := _epolls_watching(event)):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return found[0]
    finally:
        os.close(event)


def _epolls_watching(descriptor: int) -> list[int]:
    watches_it = re.compile(rf"^tfd: +{descriptor} ", re.MULTILINE)
    found = []
    for path in Path("/proc/self/fdinfo").iterdir():
        with suppress(OSError):
            if watches_it.search(path.read_text()):
                found.append(int(path.name))
    return found
