"""The socket: each connection is a task that reads requests and writes replies, in order.

Any number of connections at once. A request that changes the machine takes the `exclusive` lock;
one that takes long keeps it and lets everybody else run between its slices, so those who only
look never wait for it. Nothing is read from a client that does not take its replies.
"""

import array
import errno
import logging
import os
import resource
import select
import socket
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from typing import Any, Final

import trio
from msgspec import UNSET

from dksmfs.control import wire
from dksmfs.control.dispatch import Dispatcher, Steps
from dksmfs.control.events import Bell, Teller
from dksmfs.control.files import Files
from dksmfs.control.job import Caller, Memory
from dksmfs.control.limits import MAX_DESCRIPTORS
from dksmfs.control.live import LiveMemory
from dksmfs.control.memfd import MemoryMapper
from dksmfs.control.messages import Follow, Hello, Subscribe, descriptor_count
from dksmfs.control.recorder import Recorder
from dksmfs.control.stream import Company, Stream
from dksmfs.control.wire import Call, LineBuffer, ProtocolError
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.sysfs import Directory

_READ_SIZE: Final = 1 << 16
_ANCILLARY_SIZE: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
_TRUNCATED: Final = int(socket.MSG_CTRUNC)  # the enum's own `&` takes as long as decoding
_REPLIES_SIZE: Final = 1 << 18
"""Bytes of replies that are collected before they are sent, so that a burst is bounded."""

_TOO_MANY: Final = kernel_error(errno.EMFILE, "too many connections; close some")

_log: Final = logging.getLogger(__name__)


async def serve_control(
    machine: Machine,
    attributes: Directory,
    listener: trio.SocketListener,
    exclusive: trio.Lock,
    hello: Hello,
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
        stream = Stream(accepted, company)
        with closing(stream), suppress(trio.BrokenResourceError, ConnectionError):
            try:
                places.acquire_nowait()
            except trio.WouldBlock:
                await stream.send_all(wire.encode_error(None, _TOO_MANY))
                return
            connection = Connection(stream, dispatcher, exclusive, mapper, bell)
            try:
                await stream.send_all(wire.encode_hello(hello))
                await connection.serve()
            finally:
                await connection.hang_up()
                places.release()

    await trio.serve_listeners(serve, [listener])


def _connection_limit() -> int:
    """Half of the descriptors that this process may have: the mount and memfds need some too."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2


class Connection:
    """One client: its stream, the descriptors on their way, and (as owner) its processes."""

    def __init__(
        self,
        stream: Stream,
        dispatcher: Dispatcher,
        exclusive: trio.Lock,
        mapper: MemoryMapper,
        bell: Bell,
    ) -> None:
        self._stream = stream
        self._dispatcher = dispatcher
        self._exclusive = exclusive
        self._mapper = mapper
        self._bell = bell
        self._caller = Caller()
        self._lines = LineBuffer()
        self._descriptors: deque[int] = deque()
        self._replies = bytearray()
        self._subscription: Subscribe | None = None

    async def serve(self) -> None:
        """Answer requests until the client closes the connection."""
        while data := await self._receive():
            lines = self._lines.feed(data)
            for position, line in enumerate(lines, 1):
                await self._answer(line, is_last=position == len(lines))
            await self._flush()
            if self._subscription is not None:
                await self._tell(self._subscription)
                return

    async def _tell(self, subscription: Subscribe) -> None:
        """Send events until the client closes the connection."""
        dispatcher = self._dispatcher
        teller = Teller(subscription, dispatcher.machine, dispatcher.files, self._bell)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_closed, nursery.cancel_scope)
            with suppress(trio.BrokenResourceError):
                while True:
                    for name, content in await teller.wait():
                        self._replies += wire.encode_event(name, content)
                    await self._flush()
            nursery.cancel_scope.cancel()

    async def _end_when_closed(self, scope: trio.CancelScope) -> None:
        with suppress(ConnectionError):
            while await self._receive():
                pass
        scope.cancel()

    async def hang_up(self) -> None:
        """Close what is open; the client's processes exit, whatever it was doing."""
        self._close_descriptors()
        with trio.CancelScope(shield=True):
            async with self._exclusive:
                self._dispatcher.hang_up(self._caller)
        self._bell.ring()

    async def _receive(self) -> bytes:
        data, ancillary, flags = await self._stream.receive(_READ_SIZE, _ANCILLARY_SIZE)
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors = array.array("i")
                descriptors.frombytes(payload)
                self._descriptors.extend(descriptors)
        if flags & _TRUNCATED or len(self._descriptors) > MAX_DESCRIPTORS:
            await self._refuse_descriptors()
            return b""
        return data

    async def _refuse_descriptors(self) -> None:
        """Say why, and give up: which message lost its descriptors cannot be known."""
        text = f"more than {MAX_DESCRIPTORS} descriptors on their way; the connection is closed"
        self._replies += wire.encode_error(None, ProtocolError(wire.INVALID_REQUEST, text))
        await self._flush()

    async def _flush(self) -> None:
        replies, self._replies = self._replies, bytearray()
        if replies:
            await self._stream.send_all(replies)

    async def _answer(self, line: bytes | None, *, is_last: bool) -> None:
        if line is not None and not line.strip():
            return
        try:
            call = wire.decode_request(line)
        except ProtocolError as error:
            if self._is_all_read(is_last):  # descriptors can only belong to this line
                self._close_descriptors()
            self._replies += wire.encode_error(error.id, error)
        else:
            reply = await self._reply(call, is_last)
            if call.id is not UNSET:
                self._replies += reply
        if len(self._replies) > _REPLIES_SIZE:
            await self._flush()
        await self._stream.give_way()

    async def _reply(self, call: Call, is_last: bool) -> bytes:
        id = None if call.id is UNSET else call.id
        try:
            memory = self._take_memory(call, is_last) if self._may_carry(call) else ()
            return wire.encode_result(id, await self._carry_out(call, memory))
        except (ProtocolError, OSError) as error:
            return wire.encode_error(id, error)
        except trio.BrokenResourceError:
            raise
        except MemoryError:
            return wire.encode_error(id, kernel_error(errno.ENOMEM, "the daemon is out of memory"))
        except Exception:
            _log.exception("a bug in the handling of %r", call.request)
            text = "internal error; the daemon's log says more"
            return wire.encode_error(id, ProtocolError(wire.INTERNAL_ERROR, text))

    async def _carry_out(self, call: Call, memory: Sequence[Memory | LiveMemory]) -> Any:
        if not self._dispatcher.changes(call.request):
            if isinstance(call.request, Subscribe):
                self._subscription = call.request
            return self._dispatcher.start(call.request, self._caller, memory)
        try:
            self._exclusive.acquire_nowait()
        except trio.WouldBlock:
            await self._exclusive.acquire()
        try:
            outcome = self._dispatcher.start(call.request, self._caller, memory)
            return await self._finish(outcome) if isinstance(outcome, Generator) else outcome
        finally:
            self._exclusive.release()
            self._bell.ring()

    async def _finish(self, steps: Steps[Any]) -> Any:
        """Let everybody else run between the slices; stop, as the process would, if killed."""
        peer = select.poll()
        peer.register(self._stream, select.POLLHUP)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                return stop.value
            if peer.poll(0):
                steps.close()
                raise trio.BrokenResourceError("the client is gone")
            self._bell.ring()
            await trio.lowlevel.checkpoint()

    def _may_carry(self, call: Call) -> bool:
        return bool(self._descriptors or call.descriptors) or descriptor_count(call.request) > 0

    def _take_memory(self, call: Call, is_last: bool) -> Sequence[Memory | LiveMemory]:
        """Map the descriptors of `call`. They are closed, whatever becomes of it."""
        surplus = len(self._descriptors) - call.descriptors
        mine = [self._descriptors.popleft() for _ in range(call.descriptors - max(-surplus, 0))]
        try:
            if surplus < 0:
                missing = f"{call.descriptors} descriptors announced, {len(mine)} came"
                raise ProtocolError(wire.INVALID_REQUEST, missing)
            if surplus and self._is_all_read(is_last):
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

    def _is_all_read(self, is_last: bool) -> bool:
        """Whether no later line has begun: what is on its way came with this one."""
        return is_last and not self._lines.has_partial_line

    def _close_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popleft())
