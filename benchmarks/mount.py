"""Reading a file of the mount, against a daemon in C with the same tree and options.

The C daemon does nothing else. Ours serves its socket in the same process. As ours does, it may let
the kernel keep the attributes of files; then it gets the same requests, and only speed is compared.
Real sysfs, and lxcfs if it is installed, stand beside them.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks import daemon
from benchmarks.clients import rate
from benchmarks.core import (
    MissingError,
    Report,
    at_least,
    compiled,
    ending,
    interleaved,
    one_processor,
)

SYSFS_FILE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_START_S = 10.0


def run(quick: bool) -> Report:
    """Measure one client and sixteen, with all processors and with one."""
    report = Report()
    _measure(report, "", quick)
    with one_processor():
        _measure(report, ", one processor", quick)
    return report


def _measure(report: Report, where: str, quick: bool) -> None:
    rounds = 5 if quick else 11
    with ExitStack() as held:
        files = _served_files(held, report)
        for what, make_work, count in (
            ("open, read, close", _opening, 2000),
            ("pread", _holding, 10_000),
        ):
            for clients in (1, 16):
                each = max(count // (4 if quick else 1) // clients, 50)
                contestants = {
                    name: partial(rate, clients, each, partial(make_work, file))
                    for name, file in files.items()
                }
                case = f"{what}, {clients} client{'s' * (clients > 1)}{where}"
                _tell(report, case, interleaved(contestants, rounds))


def _served_files(held: ExitStack, report: Report) -> dict[str, Path]:
    here = held.enter_context(daemon.place())
    files = {"dksmfs": held.enter_context(daemon.running(here)).mountpoint / "run"}
    others: dict[str, Callable[[ExitStack, Path], Path]] = {
        "C daemon": partial(_c_daemon, name="anchor"),
        "C daemon, keep": partial(_c_daemon, name="anchor-keep", extra=["keep"]),
        "real sysfs": _sysfs,
        "lxcfs": _lxcfs,
    }
    for name, start in others.items():
        try:
            files[name] = start(held, here)
        except MissingError as missing:
            if str(missing) not in report.missing:
                report.missing.append(str(missing))
    return files


def _tell(report: Report, case: str, samples: dict[str, list[float]]) -> None:
    for name, rates in samples.items():
        report.add(case, name, "a second", rates)
    for name, rates in samples.items():
        if name != "dksmfs":
            wanted = at_least(0.7) if name == "C daemon" else None
            report.ratio(case, f"dksmfs : {name}", samples["dksmfs"], rates, wanted)


def _opening(file: Path) -> Callable[[], object]:
    path = str(file)

    def work() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        os.read(descriptor, 4096)
        os.close(descriptor)

    return work


def _holding(file: Path) -> Callable[[], object]:
    return partial(os.pread, os.open(file, os.O_RDONLY), 4096, 0)


# What to compare with


def _c_daemon(held: ExitStack, here: Path, name: str, extra: Sequence[str] = ()) -> Path:
    if shutil.which("pkg-config") is None:
        raise MissingError("C daemon: pkg-config is not installed")
    asked = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise MissingError("C daemon: libfuse3-dev is not installed")
    program = compiled("fuse_daemon.c", *asked.stdout.split())
    held.callback(shutil.rmtree, program.parent)
    options = "default_permissions,nosuid,nodev,noexec,fsname=dksmfs-anchor"
    if os.geteuid() == 0:
        options += ",allow_other"
    place = here / name
    command = [str(program), str(place), "-f", "-s", "-o", options, *extra]
    held.enter_context(_mounted(command, place, "run"))
    return place / "run"


def _sysfs(_held: ExitStack, _here: Path) -> Path:
    if not SYSFS_FILE.exists():
        raise MissingError(f"real sysfs: {SYSFS_FILE} is missing")
    return SYSFS_FILE


def _lxcfs(held: ExitStack, here: Path) -> Path:
    if shutil.which("lxcfs") is None:
        raise MissingError("lxcfs is not installed")
    place = here / "lxcfs"
    command = ["lxcfs", "-f", "-p", str(here / "lxcfs.pid"), str(place)]
    held.enter_context(_mounted(command, place, "proc/swaps"))
    return place / "proc/swaps"


@contextmanager
def _mounted(command: list[str], place: Path, file: str) -> Iterator[None]:
    """Have a daemon serve `place` for a block, once it shows `file`."""
    place.mkdir()
    with ending(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)):
        deadline = time.monotonic() + _START_S
        while not (place / file).exists():
            if time.monotonic() > deadline:
                raise MissingError(f"{command[0]} does not serve {file}")
            time.sleep(0.01)
        yield
    if place.is_mount():
        subprocess.run(["umount", "-l", place], check=True)
