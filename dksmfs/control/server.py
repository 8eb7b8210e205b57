"""The socket: each connection has its requests answered, in order.

Any number of connections at once. What need not wait is answered by `Connection.answer`, which the
attendant calls between trio's turns; what has to is left to the connection's task. Work that takes
longer than a turn pauses after each turn, and everybody else runs. If it changes the machine, it
holds `exclusive` until its end, and other changes wait. If `exclusive` is free, a change that is
done within a turn need not take it: nobody runs meanwhile. Those who look never take it, so they
wait for nobody. Nothing is read from a client that does not take its replies.
"""

import array
import errno
import logging
import os
import resource
import select
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from types import GeneratorType
from typing import Any, Final

import trio
from msgspec import UNSET

from dksmfs.control import wire
from dksmfs.control.attendant import Attendant
from dksmfs.control.dispatch import Dispatcher
from dksmfs.control.events import Bell, Teller
from dksmfs.control.files import Files
from dksmfs.control.job import Caller, KilledError, Memory
from dksmfs.control.limits import MAX_DESCRIPTORS
from dksmfs.control.live import LiveMemory
from dksmfs.control.memfd import MemoryMapper
from dksmfs.control.messages import Follow, Hello, Subscribe, descriptor_count
from dksmfs.control.recorder import Recorder
from dksmfs.control.stream import Company, Stream
from dksmfs.control.wire import Call, LineBuffer, ProtocolError
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.sysfs.attribute import Directory

_ANCILLARY_SIZE: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
_TRUNCATED: Final = int(socket.MSG_CTRUNC)  # the enum's own `&` takes as long as decoding
_REPLIES_SIZE: Final = 1 << 18
"""Bytes of replies that are collected before they are sent, so that a burst is bounded."""

_TURN_S: Final = 0.001
"""After so much work for one client the others get a turn; those who read files are among them."""

_TURN_REQUESTS: Final = 16
"""So often a client that is alone is answered in a row."""

_TOO_MANY: Final = kernel_error(errno.EMFILE, "too many connections; close some")

_log: Final = logging.getLogger(__name__)

Waiting = Callable[[], Awaitable[None]]
"""What a task has to do before a connection can go on."""


async def serve_control(
    machine: Machine,
    attributes: Directory,
    listener: trio.SocketListener,
    exclusive: trio.Semaphore,
    hello: Hello,
    attendant: Attendant,
    recorder: Recorder | None = None,
    files: Files | None = None,
    bell: Bell | None = None,
) -> None:
    """Serve clients on `listener` until cancelled; their processes end with them.

    Whoever else changes the machine, or uses the files, rings the bell.
    """
    dispatcher = Dispatcher(machine, attributes, recorder, files)
    bell = bell or Bell()
    mapper = MemoryMapper()
    company = Company()
    places = trio.Semaphore(_connection_limit())

    async def serve(accepted: trio.SocketStream) -> None:
        stream = Stream(accepted)
        with closing(stream), suppress(OSError):
            try:
                places.acquire_nowait()
            except trio.WouldBlock:
                await stream.send_all(bytearray(wire.encode_error(None, _TOO_MANY)))
                return
            connection = Connection(stream, dispatcher, exclusive, mapper, bell, attendant, company)
            try:
                await stream.send_all(bytearray(wire.encode_hello(hello)))
                await connection.serve()
            finally:
                await connection.hang_up()
                places.release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapper.unmap_unused)
        await trio.serve_listeners(serve, [listener])


async def _pause(attendant: Attendant) -> None:
    """Let everybody else run, in the middle of what takes long."""
    attendant.interlude()
    await trio.lowlevel.checkpoint()


def _connection_limit() -> int:
    """Half of the descriptors that this process may have: the mount and memfds need some too."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2


class Connection:
    """One client: its stream, the descriptors on their way, and (as owner) its processes."""

    def __init__(
        self,
        stream: Stream,
        dispatcher: Dispatcher,
        exclusive: trio.Semaphore,
        mapper: MemoryMapper,
        bell: Bell,
        attendant: Attendant,
        company: Company,
    ) -> None:
        self._company = company
        self._stream = stream
        self._dispatcher = dispatcher
        self._exclusive = exclusive
        self._mapper = mapper
        self._bell = bell
        self._attendant = attendant
        self._caller = Caller()
        self._peer = select.poll()
        self._peer.register(stream, select.POLLHUP)
        self._buffer = LineBuffer()
        self._lines: deque[bytes | None] = deque()
        self._descriptors: deque[int] = deque()
        self._replies = bytearray()
        self._subscription: Subscribe | None = None
        self._at_end = False
        self._work: Work[None] | None = None
        self._waiting: Waiting | None = None

    async def serve(self) -> None:
        """Answer requests until the client closes the connection."""
        while not self._at_end:
            await self._attendant.attend(self._stream.fileno(), self.answer)
            waiting, self._waiting = self._waiting, None
            while waiting is not None:
                await waiting()
                waiting = self._answer_lines()

    def answer(self) -> bool:
        """Take in what has come and answer it, as far as nothing has to wait; tell whether that
        leaves something to the task."""
        for _ in range(_TURN_REQUESTS):
            try:
                self._receive()
            except BlockingIOError:
                break
            self._waiting = self._answer_lines()
            if self._waiting is not None or self._at_end:
                return True
            # One that is alone often has the next request ready when it got its reply. To look
            # at one of many clients in vain costs more than that saves.
            if not self._company.has_only(self._stream):
                break
        return False

    def _answer_lines(self) -> Waiting | None:
        """Answer what has come until there is something to wait for; return that."""
        turn_ends = time.perf_counter() + _TURN_S
        while self._lines:
            waiting = self._answer(self._lines.popleft())
            if waiting is not None:
                return waiting
            if len(self._replies) > _REPLIES_SIZE:
                return self._flush
            if self._lines and time.perf_counter() > turn_ends:
                return self._pause
        if self._replies:
            self._stream.send(self._replies)
        if self._replies:
            return self._flush
        return None if self._subscription is None else self._tell

    async def _flush(self) -> None:
        await self._stream.send_all(self._replies)

    async def _tell(self) -> None:
        """Send events until the client closes the connection."""
        dispatcher, subscription = self._dispatcher, self._subscription
        assert subscription is not None
        teller = Teller(subscription, dispatcher.machine, dispatcher.files, self._bell)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_closed, nursery.cancel_scope)
            with suppress(OSError):
                while True:
                    for name, content in await teller.wait():
                        self._replies += wire.encode_event(name, content)
                    await self._flush()
                    await self._pause()
            nursery.cancel_scope.cancel()
        self._subscription, self._at_end = None, True

    async def _end_when_closed(self, scope: trio.CancelScope) -> None:
        with suppress(OSError):
            while not self._at_end:
                await self._stream.wait()
                self._receive()
                self._lines.clear()
        scope.cancel()

    async def hang_up(self) -> None:
        """Close what is open; the client's processes exit, whatever it was doing."""
        self._close_descriptors()
        self._caller.gone = True
        with trio.CancelScope(shield=True):
            await self._exclusive.acquire()
            self._work = self._dispatcher.hang_up.work(self._caller)
            await self._finish_change()

    def _receive(self) -> None:
        data, ancillary, flags, _ = self._stream.receive(_ANCILLARY_SIZE)
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors = array.array("i")
                descriptors.frombytes(payload)
                self._descriptors.extend(descriptors)
        if flags & _TRUNCATED or len(self._descriptors) > MAX_DESCRIPTORS:
            self._refuse_descriptors()
        elif data:
            self._lines.extend(self._buffer.feed(data))
        else:
            self._at_end = True

    def _refuse_descriptors(self) -> None:
        """Say why, and give up: which message lost its descriptors cannot be known."""
        text = f"more than {MAX_DESCRIPTORS} descriptors on their way; the connection is closed"
        self._replies += wire.encode_error(None, ProtocolError(wire.INVALID_REQUEST, text))
        self._at_end = True

    def _answer(self, line: bytes | None) -> Waiting | None:
        """Answer one line, or return what has to be done about it by a task."""
        if line is not None and not line.strip():
            return None
        try:
            call = wire.decode_request(line)
        except ProtocolError as error:
            if self._is_all_read():  # descriptors can only belong to this line
                self._close_descriptors()
            self._replies += wire.encode_error(error.id, error)
            return None
        changes = self._dispatcher.changes(call.request)
        if changes and self._exclusive.value == 0:
            return partial(self._answer_in_turn, call)
        more = self._begin(call)
        if changes:
            self._bell.ring()
        if not more:
            return None
        if not changes:
            return self._finish_look
        self._exclusive.acquire_nowait()  # nobody has run since we saw that it is free
        return self._finish_change

    async def _answer_in_turn(self, call: Call) -> None:
        """Answer a request that has to wait until somebody else has done with the machine."""
        await self._exclusive.acquire()
        if not self._is_client_gone():
            self._begin(call)
        await self._finish_change()

    def _begin(self, call: Call) -> bool:
        """Answer a request, or do its work for a turn; tell whether there is more of it."""
        try:
            outcome = self._dispatcher.start(call.request, self._caller, self._memory(call))
        except Exception as error:
            self._refuse(call, error)
            return False
        if isinstance(outcome, GeneratorType):
            self._work = self._replying(call, outcome)
            self._do_work()
            return self._work is not None
        self._reply(call, outcome)
        if type(call.request) is Subscribe:
            self._subscription = call.request
        return False

    def _replying(self, call: Call, work: Work[Any]) -> Work[None]:
        """Carry out a request and reply, both with pauses: a reply can have megabytes."""
        try:
            result = yield from work
        except KilledError:
            return
        except Exception as error:
            self._refuse(call, error)
            return
        if call.id is not UNSET:
            for part in wire.encode_result_in_parts(call.id, result):
                self._replies += part
                yield

    def _do_work(self) -> None:
        """Work until the end of a turn; forget the work at its end."""
        assert self._work is not None
        turn_ends = time.perf_counter() + _TURN_S
        try:
            next(self._work)
            while time.perf_counter() < turn_ends:
                next(self._work)
        except StopIteration:
            self._work = None

    async def _finish_look(self) -> None:
        """Do the rest of work that changes nothing; nobody needs it when the client is gone."""
        await self._work_on(changes=False)

    async def _finish_change(self) -> None:
        """Do the rest of the work, if there is any, and let go of `exclusive`.

        A system call is not interrupted half-way: this one is finished without its client, too, and
        when the server ends.
        """
        try:
            await self._work_on(changes=True)
        finally:
            self._caller.gone = self._caller.gone or self._work is not None
            with trio.CancelScope(shield=True):
                await self._work_on(changes=True)
            self._exclusive.release()
            self._bell.ring()

    async def _work_on(self, *, changes: bool) -> None:
        """Do the rest of the work, and let others run after each turn."""
        while self._work is not None:
            if self._is_client_gone() and not changes:
                self._work = None
                return
            if changes:
                self._bell.ring()
            await self._pause()
            self._do_work()

    def _is_client_gone(self) -> bool:
        """Whether the client has closed the connection: what it asked for is dropped, then."""
        if not self._caller.gone and self._peer.poll(0):
            self._caller.gone = self._at_end = True
            self._lines.clear()
        return self._caller.gone

    async def _pause(self) -> None:
        await _pause(self._attendant)

    def _reply(self, call: Call, result: object) -> None:
        if call.id is not UNSET:
            self._replies += wire.encode_result(call.id, result)

    def _refuse(self, call: Call, error: Exception) -> None:
        if isinstance(error, MemoryError):
            error = kernel_error(errno.ENOMEM, "the daemon is out of memory")
        elif not isinstance(error, ProtocolError | OSError):
            _log.error("a bug in the handling of %r", call.request, exc_info=error)
            text = "internal error; the daemon's log says more"
            error = ProtocolError(wire.INTERNAL_ERROR, text)
        if call.id is not UNSET:
            self._replies += wire.encode_error(call.id, error)

    def _memory(self, call: Call) -> Sequence[Memory | LiveMemory]:
        """The memory that came with a request."""
        if self._descriptors or call.descriptors or descriptor_count(call.request):
            return self._take_memory(call)
        return ()

    def _take_memory(self, call: Call) -> Sequence[Memory | LiveMemory]:
        """Map the descriptors of `call`. They are closed, whatever becomes of it."""
        surplus = len(self._descriptors) - call.descriptors
        mine = [self._descriptors.popleft() for _ in range(call.descriptors - max(-surplus, 0))]
        try:
            if surplus < 0:
                missing = f"{call.descriptors} descriptors announced, {len(mine)} came"
                raise ProtocolError(wire.INVALID_REQUEST, missing)
            if surplus and self._is_all_read():
                self._close_descriptors()
                unclaimed = f"{call.descriptors} descriptors announced, {surplus} more came"
                raise ProtocolError(wire.INVALID_REQUEST, unclaimed)
            used = descriptor_count(call.request)
            if call.descriptors != used:
                wrong = f"{call.descriptors} descriptors came, the request uses {used}"
                raise ProtocolError(wire.INVALID_PARAMS, wrong)
            if isinstance(call.request, Follow):
                return [LiveMemory(*mine)]
            return [self._mapper.map(descriptor) for descriptor in mine]
        finally:
            for descriptor in mine:
                os.close(descriptor)

    def _is_all_read(self) -> bool:
        """Whether no later line has begun: what is on its way came with this one."""
        return not self._lines and not self._buffer.has_partial_line

    def _close_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popleft())
