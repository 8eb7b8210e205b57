"""Programs that run already: their memory, taken as advertised. They are not stopped."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dksmfs.errors import DksmfsError
from dksmfs.host.observer import Observer
from dksmfs.host.processes import Mapped
from dksmfs.host.report import Row

if TYPE_CHECKING:
    from dksmfs.control.blocking import Blocking
    from dksmfs.control.client import Machine


def advertise_programs(
    machine: "Machine[Blocking]", pids: list[int], pattern: str | None
) -> Iterator[tuple[Row, int]]:
    """Advertise the anonymous memory of each process, or its mappings that `pattern` matches;
    gives for each what came of it, and how many of its pages are part of huge ones.

    As long as the machine's connection lasts, they are followed.
    """
    observer = Observer(machine)
    for pid in pids:
        try:
            yield _advertise(observer, pid, None if pattern is None else _compiled(pattern))
        except (FileNotFoundError, ProcessLookupError) as error:
            raise DksmfsError(f"there is no process {pid}, or it has ended") from error
        except PermissionError as error:
            raise DksmfsError(
                f"the memory of process {pid} may not be read by this user; run as root"
            ) from error


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise DksmfsError(f"--maps {pattern}: not a regular expression: {error}") from error


def _advertise(observer: Observer, pid: int, pattern: re.Pattern[str] | None) -> tuple[Row, int]:
    watched = observer.watch(pid)
    for mapped in observer.mappings(watched):
        if _is_meant(mapped, pattern):
            start, end = mapped.mapping.start, mapped.mapping.end
            observer.advertise(watched, start, end - start)
    huge = sum(mapping.anon_huge_kb for mapping in watched.simulated.smaps()) // 4
    return watched.row, huge


def _is_meant(mapped: Mapped, pattern: re.Pattern[str] | None) -> bool:
    if pattern is None:
        return mapped.mapping.kind == "anon"
    return pattern.search(mapped.path) is not None
