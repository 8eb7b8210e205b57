"""Processes that all do the same thing at the same time."""

import os
import time
from collections.abc import Callable


def rate(clients: int, count: int, make_work: Callable[[], Callable[[], object]]) -> float:
    """Calls a second when `clients` processes make `count` calls each.

    Each process makes its own work first, and they all begin at once.
    """
    ready_reader, ready = os.pipe()
    begin, begin_writer = os.pipe()
    children = [_client(count, make_work, ready, begin, begin_writer) for _ in range(clients)]
    os.close(ready)
    os.close(begin)
    try:
        for _ in children:
            if os.read(ready_reader, 1) != b"x":
                raise RuntimeError("a client could not begin")
        start = time.perf_counter()
        os.close(begin_writer)
        failed = [child for child in children if os.waitpid(child, 0)[1]]
        duration_s = time.perf_counter() - start
    finally:
        os.close(ready_reader)
    if failed:
        raise RuntimeError(f"{len(failed)} clients failed")
    return clients * count / duration_s


def _client(
    count: int,
    make_work: Callable[[], Callable[[], object]],
    ready: int,
    begin: int,
    begin_writer: int,
) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.close(begin_writer)
        work = make_work()
        os.write(ready, b"x")
        os.read(begin, 1)  # until the parent closes it
        for _ in range(count):
            work()
        os._exit(0)
    finally:
        os._exit(1)
