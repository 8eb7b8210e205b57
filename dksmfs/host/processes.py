"""Looking at real processes: who they are and what they map. Nothing here changes them."""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dksmfs.control.limits import Kind, Prot
from dksmfs.control.messages import RealMapping

PAGE_SIZE: Final = 4096
USER_END: Final = (1 << 47) - PAGE_SIZE
"""Bytes of address space that a simulated process has. The vsyscall page is above it."""

# maps: start-end perms offset dev inode path
_LINE: Final = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) (....) [0-9a-f]+ [0-9a-f:]+ (\d+) *(.*)$", re.MULTILINE
)
_FLAGS: Final = re.compile(rb"^VmFlags:(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Mapped:
    """A mapping as in /proc/PID/maps."""

    mapping: RealMapping
    path: str


@dataclass(frozen=True)
class Image:
    """What tells a program from another that was executed since: where its stack, data and
    arguments are. A forked process has the same."""

    places: tuple[str, ...]


class RealProcess:
    """A process of this host, by its address space: an exec makes it another one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        directory = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._directory = directory
            self.parent, self.image = self._stat()
            self.name = printable(self._read("comm").rstrip(b"\n"))
            self._pagemap = os.open("pagemap", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
            self.pidfd = os.pidfd_open(pid)
        except BaseException:
            os.close(directory)
            raise

    def close(self) -> None:
        """Stop looking."""
        for descriptor in (self._directory, self._pagemap, self.pidfd):
            os.close(descriptor)

    @property
    def pagemap(self) -> int:
        """The open /proc/PID/pagemap."""
        return self._pagemap

    @property
    def is_there(self) -> bool:
        """Whether the address space still exists: not after exit, nor after exec."""
        return bool(os.pread(self._pagemap, 8, 0))

    def open_memory(self) -> int:
        """Open /proc/PID/mem."""
        return os.open("mem", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)

    def maps(self) -> bytes:
        """The text of /proc/PID/maps."""
        return self._read("maps")

    def huge_page_advice(self) -> list[bool | None]:
        """Per mapping whether the program advised for or against huge pages."""
        return [
            _huge_page_advice(match[1].split()) for match in _FLAGS.finditer(self._read("smaps"))
        ]

    def children(self) -> list[int]:
        """The pids of its children."""
        return children(self.pid)

    def _stat(self) -> tuple[int, Image]:
        return _stat_fields(self._read("stat"))

    def _read(self, name: str) -> bytes:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        with os.fdopen(descriptor, "rb") as file:
            return file.read()


def printable(name: bytes) -> str:
    """A process name as a simulated process can have it."""
    text = name.decode(errors="replace")
    return "".join(c if c.isprintable() else "?" for c in text) or "?"


def _stat_fields(text: bytes) -> tuple[int, Image]:
    """The parent, and the image: startstack, start_data, end_data, start_brk, arg_start."""
    fields = text[text.rindex(b")") + 2 :].decode().split()  # fields[0] is field 3, the state
    return int(fields[1]), Image(tuple(fields[number - 3] for number in (28, 45, 46, 47, 48)))


def identity(pid: int) -> tuple[int, Image] | None:
    """The parent and the image of a process; None if there is none."""
    try:
        return _stat_fields(Path(f"/proc/{pid}/stat").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return None


def process_of(thread: int) -> int:
    """The pid of the process that a thread belongs to."""
    for line in Path(f"/proc/{thread}/status").read_bytes().splitlines():
        if line.startswith(b"Tgid:"):
            return int(line.split()[1])
    raise ProcessLookupError(errno.ESRCH, f"no thread {thread}")


def children(pid: int) -> list[int]:
    """The pids of a process's children."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_text().split())
    return found


def parse_maps(text: bytes) -> list[Mapped]:
    """The mappings of /proc/PID/maps in user memory, as simulated processes have them."""
    return list(_parse_maps(text))


def _parse_maps(text: bytes) -> Iterator[Mapped]:
    for match in _LINE.finditer(text):
        start, end = int(match[1], 16), int(match[2], 16)
        if start < USER_END:
            path = match[5].decode(errors="surrogateescape")
            kind = _kind(match[3], match[4] != b"0", path)
            yield Mapped(RealMapping(start, min(end, USER_END), _prot(match[3]), kind), path)


def _kind(permissions: bytes, has_file: bool, path: str) -> Kind:
    if path.startswith("/anon_hugepage"):
        return "hugetlb"
    if permissions.endswith(b"s") or path in ("[vvar]", "[vdso]", "[vvar_vclock]", "[vsyscall]"):
        return "shared-anon"  # its pages are not anonymous ones, which is all that matters
    return "file-private" if has_file else "anon"


def _prot(permissions: bytes) -> Prot:
    letters = permissions[:3].replace(b"-", b"").decode()
    return letters or "none"  # type: ignore[return-value]


def _huge_page_advice(flags: Sequence[bytes]) -> bool | None:
    if b"hg" in flags:
        return True
    return False if b"nh" in flags else None


def with_huge_page_advice(mapped: list[Mapped], advice: list[bool | None]) -> list[Mapped]:
    """The same with the program's advice, if that was taken of the same mappings."""
    if len(mapped) > len(advice):
        return mapped
    return [
        replace(one, mapping=RealMapping(*_fields(one.mapping), hugepage))
        for one, hugepage in zip(mapped, advice, strict=False)
    ]


def _fields(mapping: RealMapping) -> tuple[int, int, Prot, Kind]:
    return mapping.start, mapping.end, mapping.prot, mapping.kind
