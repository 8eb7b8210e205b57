"""A client's side of the conversation, and what both kinds of door have in common. No I/O."""

import array
import errno
import os
import socket
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from dksmfs.control import wire
from dksmfs.control.messages import Hello, Request
from dksmfs.control.replies import Stats
from dksmfs.control.wire import Answer, LineBuffer
from dksmfs.injection import Access

MAX_ANSWER: Final = 64 << 20
"""Bytes of one reply: five times what the largest, the smaps of 65,530 mappings, takes."""

READ_SIZE: Final = 1 << 16


class Exchange:
    """One side of the conversation, without I/O: numbers requests, recognises their answers."""

    def __init__(self) -> None:
        self._hello: Hello | None = None
        self._lines = LineBuffer(MAX_ANSWER)
        self._numbers = count(1)
        self._answers: dict[wire.Id, Answer] = {}
        self.events: deque[Stats | Access] = deque()
        """What came unasked; only a connection that has subscribed gets any."""

    @property
    def is_open(self) -> bool:
        """Whether the server has said hello."""
        return self._hello is not None

    @property
    def hello(self) -> Hello:
        """What the server said first."""
        assert self._hello is not None, "a door opens once the server has said hello"
        return self._hello

    def request(self, request: Request[Any], descriptors: int) -> tuple[int, bytes]:
        """Return the number that the answer will carry, and the bytes to send."""
        number = next(self._numbers)
        return number, wire.encode_request(request, number, descriptors)

    def feed(self, data: bytes) -> None:
        """Take in what the server sent; no bytes mean that it closed the connection."""
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
        for line in self._lines.feed(data):
            said = wire.decode_answer(line)
            if isinstance(said, Hello):
                self._hello = said
            elif isinstance(said, Stats | Access):
                self.events.append(said)
            elif said is not None:
                if said.id is None and isinstance(said.outcome, wire.Error):
                    raise wire.exception_of(said.outcome)  # about the connection, not a request
                self._answers[said.id] = said

    def answer(self, number: int) -> Answer | None:
        """The answer to a request, once it has come. Older ones were given up by who asked."""
        answer = self._answers.pop(number, None)
        if answer is not None:
            self._answers.clear()
        return answer


def rights(descriptors: Sequence[int]) -> list[tuple[int, int, "array.array[int]"]]:
    """The ancillary data that carries `descriptors`."""
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]


def explained(error: BaseException, path: str) -> BaseException:
    """The same error, saying what a person needs to know about a connection that failed."""
    if not isinstance(error, OSError) or error.errno is None:
        return error
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        text = f"no daemon listens on {path}; start one with: dksmfs mount"
        return OSError(error.errno, text)
    return OSError(error.errno, f"{path}: {error.strerror or os.strerror(error.errno)}")
