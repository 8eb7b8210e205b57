"""Answers between the turns of trio: what trio waits for must come as if there were none."""

import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from dksmfs.control.attendant import Attendant, attending, epoll_of_trio
from tests.control.serving import raw_connection, serving

PATIENCE_S = 5.0
STATS = b'{"jsonrpc":"2.0","id":1,"method":"stats"}\n'


class Echo:
    """Sends back what comes, without waiting; a task is needed when "task" comes."""

    def __init__(self, attendant: Attendant) -> None:
        self.attendant = attendant
        self.client, self._server = socket.socketpair()
        self._server.setblocking(False)
        self.answered = 0
        self.called: Callable[[], None] = lambda: None

    async def serve(self, *, hasty: bool = False) -> None:
        await self.attendant.attend(self._server.fileno(), self._answer, hasty=hasty)

    def _answer(self) -> bool:
        data = self._server.recv(100)
        if data == b"fail":
            raise RuntimeError("a bug")
        self.answered += 1
        self._server.send(data)
        self.called()
        return data == b"task"

    def close(self) -> None:
        self.client.close()
        self._server.close()


@asynccontextmanager
async def echo() -> AsyncIterator[Echo]:
    with attending(await epoll_of_trio()) as attendant, trio.fail_after(PATIENCE_S):
        echo = Echo(attendant)
        try:
            yield echo
        finally:
            echo.close()


async def reply(client: socket.socket) -> bytes:
    await trio.lowlevel.wait_readable(client)
    return client.recv(100)


async def test_a_task_goes_on_when_its_answer_says_so() -> None:
    async with echo() as here, trio.open_nursery() as nursery:
        nursery.start_soon(here.serve)
        for text in (b"one", b"two", b"task"):
            here.client.send(text)
            assert await reply(here.client) == text
    assert here.answered == 3


async def test_an_answer_that_fails_fails_its_task() -> None:
    async with echo() as here:
        here.client.send(b"fail")
        with pytest.raises(RuntimeError, match="a bug"):
            await here.serve()


async def test_nobody_answers_for_a_task_that_was_cancelled() -> None:
    async with echo() as here:
        with trio.move_on_after(0.01):
            await here.serve()
        here.client.send(b"one")
        await trio.sleep(0.01)
        assert here.answered == 0


async def test_times_come_while_answers_are_given() -> None:
    async with echo() as here, trio.open_nursery() as nursery:

        def ask_again() -> None:
            here.client.recv(100)
            here.client.send(b"x")

        here.called = ask_again  # there is always somebody to answer
        here.client.send(b"x")
        nursery.start_soon(here.serve)
        begin = time.monotonic()
        await trio.sleep(0.05)
        assert time.monotonic() - begin < 1.0
        assert here.answered > 10
        nursery.cancel_scope.cancel()


async def test_answers_are_given_while_tasks_are_busy() -> None:
    async def be_busy() -> None:
        while here.answered < 100:
            await trio.lowlevel.checkpoint()

    async with echo() as here, trio.open_nursery() as nursery:
        nursery.start_soon(be_busy)
        serving = trio.CancelScope()

        async def serve() -> None:
            with serving:
                await here.serve()

        nursery.start_soon(serve)
        for _ in range(100):
            here.client.send(b"x")
            assert await reply(here.client) == b"x"
        serving.cancel()


async def test_an_answer_wakes_a_task_at_once() -> None:
    async with echo() as here, trio.open_nursery() as nursery:
        woken = trio.Event()
        here.called = woken.set
        nursery.start_soon(here.serve)
        await trio.testing.wait_all_tasks_blocked()
        here.client.send(b"x")
        await woken.wait()
        nursery.cancel_scope.cancel()


async def test_threads_and_signals_come_through() -> None:
    async with echo() as here, trio.open_nursery() as nursery:
        nursery.start_soon(here.serve)
        assert await trio.to_thread.run_sync(lambda: trio.from_thread.run_sync(lambda: 7)) == 7
        with trio.open_signal_receiver(signal.SIGUSR1) as signals:
            await trio.to_thread.run_sync(os.kill, os.getpid(), signal.SIGUSR1)
            async for number in signals:
                assert number == signal.SIGUSR1
                break
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("hasty", "answers"), [(False, 1), (True, 3)])
async def test_an_interlude_answers_hasty_ones_as_long_as_they_ask(
    hasty: bool, answers: int
) -> None:
    async with echo() as here, trio.open_nursery() as nursery:

        def ask_again() -> None:
            if here.answered < 3:
                here.client.send(b"x")

        here.called = ask_again
        nursery.start_soon(partial(here.serve, hasty=hasty))
        await trio.testing.wait_all_tasks_blocked()
        here.client.send(b"x")
        here.attendant.interlude()
        assert here.answered == answers
        nursery.cancel_scope.cancel()


async def test_a_client_that_asks_much_does_not_keep_the_server_from_others() -> None:
    requests = 20_000
    async with (
        serving() as served,
        raw_connection(served) as busy,
        raw_connection(served) as other,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(busy.send, STATS * requests)
        for _ in range(10):
            assert (await other.result("stats"))["run"] == 0
        for _ in range(requests):
            assert (await busy.answer())["id"] == 1
