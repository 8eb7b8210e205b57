"""What it takes to have a machine: the command, the memory, the rest."""

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import daemon
from benchmarks.core import Report, at_most, seconds
from dksmfs.control.client import connect
from dksmfs.kernel.machine import Machine

SETTLE_S = 0.3  # until the last client is forgotten
REST_S = 3.0


def run(quick: bool) -> Report:
    """Start daemons, one after the other, and let each rest."""
    report = Report()
    starts: list[float] = []
    resident_mb: list[float] = []
    wakeups: list[float] = []
    machines: list[float] = []
    clients: list[float] = []
    imports: list[float] = []
    for _ in range(3 if quick else 7):
        with ExitStack() as held:
            here = held.enter_context(daemon.place())
            imports.append(seconds(lambda: _python("import trio, numpy, pyfuse3")))
            begin = time.perf_counter()
            running = held.enter_context(daemon.running(here))
            starts.append(time.perf_counter() - begin)
            clients.append(seconds(lambda: _connected(running.socket)) * 1e3)  # noqa: B023
            time.sleep(SETTLE_S)
            before = _switches(running.pid)
            time.sleep(REST_S)
            wakeups.append((_switches(running.pid) - before) / REST_S)
            resident_mb.append(_status(running.pid, "VmRSS") * 1024 / 1e6)
        machines.append(seconds(lambda: Machine(thp="never").spawn("one")) * 1e3)
    report.add("command", "dksmfs mount", "s", starts, at_most(0.6))
    report.add("command", "of it: python, trio, numpy, pyfuse3", "s", imports)
    report.add("warm machine", "in memory", "ms", machines, at_most(50))
    report.add(
        "warm machine", "a running daemon: connect, reset, spawn", "ms", clients, at_most(50)
    )
    report.add("idle daemon", "resident", "MB", resident_mb, at_most(45))
    report.add("idle daemon", "wake-ups", "a second", wakeups, at_most(0))
    return report


def _python(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True)


def _connected(socket: Path) -> None:
    with connect(socket) as client:
        client.set_run(0)
        client.set_run(1)
        client.process("one")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(name)


def _switches(pid: int) -> int:
    """How often all threads of a process went to sleep, which is how often they were awake."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(_status(int(task.name), "voluntary_ctxt_switches") for task in tasks)
