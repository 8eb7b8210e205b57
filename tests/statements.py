"""What the statements about DKSM are shown with: a machine, and marks for those that fail."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dksmfs.control.blocking import Blocking
from dksmfs.control.client import Machine, Region

Test = TypeVar("Test", bound=Callable[..., None])

DIFFERENCES: list[tuple[str, str]] = []
"""What the document says and what the kernel does, of the statements that are marked."""


def differs(reason: str) -> Callable[[Test], Test]:
    """Mark a statement that the kernel does not keep."""

    def mark(test: Test) -> Test:
        assert test.__doc__ is not None
        DIFFERENCES.append((" ".join(test.__doc__.split()), reason))
        return test

    return mark


@dataclass
class World:
    """A running machine: its mounted directory mm, and a client."""

    mm: Path
    machine: Machine[Blocking]

    def read(self, file: str) -> int:
        """The number in a file of DKSM, as `cat` would show it."""
        return int((self.mm / "dksm" / file).read_text())

    def write(self, text: str, file: str = "dksm/run") -> None:
        """`echo text > file`."""
        (self.mm / file).write_text(f"{text}\n")

    def counters(self) -> tuple[int, int, int, int]:
        """Scanned, merged, failed, entries."""
        files = ("pages_scanned", "pages_merged", "merging_failed", "hashtable_entries")
        scanned, merged, failed, entries = map(self.read, files)
        return scanned, merged, failed, entries

    def process(self, fill: str = "index:0", *, pages: int = 4, **how: str) -> Region[Blocking]:
        """A new process with a region of these pages."""
        process = self.machine.process("process")
        return process.mmap(pages=pages, fill=fill, **how)  # type: ignore[arg-type]


def advertise(*regions: Region[Blocking]) -> None:
    for region in regions:
        region.madvise("mergeable")


def frames(region: Region[Blocking]) -> list[int | str | None]:
    return list(region.pagemap())
