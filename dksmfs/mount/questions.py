"""Questions that may never be answered, asked without hanging.

A process that waits for a stopped FUSE daemon may not even be killable until the daemon goes on. So
each question is put by a child process, and a child that does not answer in time is left behind.
"""

import json
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a question returned: anything that JSON can carry."""

    value: Any


def ask(questions: Sequence[Callable[[], Any]], timeout_s: float) -> list[Answer | None]:
    """Put all questions at the same time; None for those that fail or take over ``timeout_s``."""
    children = [_start(question) for question in questions]
    deadline = time.monotonic() + timeout_s
    answers = [_collect(reader, deadline) for _, reader in children]
    for child, _ in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, os.WNOHANG)
    return answers


def _start(question: Callable[[], Any]) -> tuple[int, int]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, json.dumps(question()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    return child, reader


def _collect(reader: int, deadline: float) -> Answer | None:
    """Read one answer: small enough for one write to a pipe (4096 bytes)."""
    with open(reader, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        text = pipe.read(4096) if ready else b""
    return Answer(json.loads(text)) if text else None
