"""Who maps which frame, for people to read."""

from collections.abc import Iterator
from itertools import groupby

from dksmfs.control.messages import PageNumber, SharedProcess, Sharing


class SharingMap(Sharing, frozen=True):
    """A `Sharing` that prints itself: equal frame numbers are the same frame."""

    def __str__(self) -> str:
        return "\n".join(line for process in self.processes for line in _lines(process))


def _lines(process: SharedProcess) -> Iterator[str]:
    yield f"{process.name} (pid {process.pid})"
    for mapping in process.mappings:
        frames = ", ".join(_runs(mapping.pages))
        yield f"  {mapping.address:#x}: {len(mapping.pages)} pages, frames {frames or 'none'}"


def _runs(pages: list[PageNumber]) -> Iterator[str]:
    """Consecutive frames as `first-last`, repeated ones and absent ones with their number."""
    for (kind, _), run in groupby(enumerate(pages), key=lambda at: _key(*at)):
        numbers = [page for _, page in run]
        first, size = numbers[0], len(numbers)
        if kind == "frame":
            yield f"{first}-{numbers[-1]}" if size > 1 else f"{first}"
        else:
            yield f"{kind} x{size}"


def _key(index: int, page: PageNumber) -> tuple[str, int]:
    if isinstance(page, int):
        return "frame", page - index
    return ("zero page", 0) if page == "Z" else ("absent", 0)
