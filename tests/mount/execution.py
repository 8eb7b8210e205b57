"""Executing a file, in a child that survives it."""

import json
import os
import socket

from tests.mount import calls
from tests.mount.calls import Outcome, call


def execve(path: str) -> Outcome:
    """Execute a file in a child, which sends back the errno of its failure."""
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:
        outcome = call(os.execv, path, [path])
        there.send(json.dumps(outcome).encode())
        os._exit(0)
    there.close()
    os.waitpid(child, 0)
    with here:
        told = here.recv(1000)
    answer: Outcome = json.loads(told) if told else calls.succeeded()
    return answer
