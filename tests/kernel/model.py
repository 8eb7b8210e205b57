"""The reference model: the rules of DKSM and of the memory around it, written down plainly.

It has the methods of `dksmfs.kernel.machine.Machine` with the same units, one object for each
frame, entry and mapping, and a loop over pages everywhere. It is slow, and as obvious as the
rules are; the engine has to do the same. The rules are those of Linux 5.15 with the DKSM patch:
the functions named in the comments are the kernel's.
"""

import errno
from contextlib import suppress
from dataclasses import dataclass

from dksmfs.kernel.calls.smaps import MappingInfo
from dksmfs.kernel.content.content import Content
from dksmfs.kernel.errors import AccessFault
from dksmfs.kernel.machine import ADVICE, PageInfo
from dksmfs.kernel.units import PAGE_SIZE
from tests.kernel import model_faults as faults
from tests.kernel.model_dksm import ModelDksm
from tests.kernel.model_memory import AREA, File, Frame, Huge, Mapping, Mm, Pte

_LIMIT = 1 << 64
_ADVICE_NAMES = {number: name for name, number in ADVICE.items()}


@dataclass(eq=False)
class Process:
    name: str
    parent: int | None
    mm: Mm


class Model:
    """What `Machine` is, without any cleverness."""

    def __init__(self, thp: str = "always", *, checksum_bits: int = 32) -> None:
        self.thp = thp
        self.dksm = ModelDksm(checksum_bits)
        self._processes: dict[int, Process] = {}
        self._files: dict[str, File] = {}
        self._last_pid = 0

    # --- processes --------------------------------------------------------------------------

    def spawn(self, name: str) -> int:
        return self._add(Process(name, None, Mm()))

    def fork(self, pid: int, name: str) -> int:
        return self._add(Process(name, pid, faults.fork(self._mm(pid))))

    def exit(self, pid: int) -> None:
        mm = self._mm(pid)
        for mapping in list(mm.mappings):
            mm.munmap(mapping.start, mapping.end)
        del self._processes[pid]

    def _add(self, process: Process) -> int:
        self._last_pid += 1
        self._processes[self._last_pid] = process
        return self._last_pid

    def _mm(self, pid: int) -> Mm:
        if pid not in self._processes:
            raise OSError(errno.ESRCH, "no such process")
        return self._processes[pid].mm

    # --- mappings ---------------------------------------------------------------------------

    def mkfile(self, name: str, pages: int, content: Content) -> None:
        file = self._files[name] = File([])
        for page in range(pages):
            frame = Frame()
            frame.put(content, page)
            file.pages.append(frame)

    def mmap(
        self,
        pid: int,
        length: int,
        *,
        address: int,
        prot: str = "rw",
        kind: str = "anon",
        file: str | None = None,
        content: Content | None = None,
    ) -> int:
        mm = self._mm(pid)
        start, end = _whole_range(address, length)
        mm.munmap(start, end)
        first = _prot(prot) if content is None else frozenset("rw") | _prot(prot)
        mapping = Mapping(start, end, kind, first, pgoff=start if kind == "anon" else 0)
        mapping.accounted = mapping.private and "w" in first
        if kind == "shared-anon":
            mapping.file = File([None] * (end - start))
        elif file is not None:
            mapping.file = self._files[file]
        # A file is mapped through one open file, so that its mappings can become one.
        if not mm.merge(start, end, mapping):
            mm.add(mapping)
        if content is not None:
            try:
                self.fill(pid, address, length, content)
            except AccessFault:
                self.munmap(pid, address, length)
                raise
            self.mprotect(pid, address, length, prot)
        return address

    def munmap(self, pid: int, address: int, length: int) -> None:
        self._mm(pid).munmap(*_whole_range(address, length))

    def mprotect(self, pid: int, address: int, length: int, prot: str) -> None:
        mm, wanted = self._mm(pid), _prot(prot)
        start, end = _whole_range(address, length)
        at = start
        while at < end:
            mapping = mm.find(at)
            if mapping is None:
                raise OSError(errno.ENOMEM, "not mapped")
            until = min(end, mapping.end)
            self._mprotect_mapping(mm, mapping, at, until, wanted)
            at = until

    def _mprotect_mapping(
        self, mm: Mm, mapping: Mapping, start: int, end: int, prot: frozenset[str]
    ) -> None:
        """mprotect_fixup."""
        if prot == mapping.prot:
            return
        was_locked_read_only = mapping.locked and mapping.private and "w" not in mapping.prot
        change: dict[str, object] = {"prot": prot}
        if mapping.private and "w" in prot:
            change["accounted"] = True
        changed = _change(mm, mapping, start, end, change)
        for vpn in range(start, end):
            entry = mm.entry(vpn)
            if entry is not None:
                entry.writable = False
        if was_locked_read_only and "w" in prot:
            with suppress(faults.Died):
                faults.populate(mm, changed, start, end, self.thp)

    def mremap(self, pid: int, address: int, length: int, new_address: int) -> int:
        mm = self._mm(pid)
        start, end = _whole_range(address, length)
        to, to_end = _whole_range(new_address, length)
        if start < to_end and to < end:
            raise OSError(errno.EINVAL, "the ranges overlap")
        mm.munmap(to, to_end)
        source = mm.find(start)
        if source is None or end > source.end:
            raise OSError(errno.EFAULT, "not within one mapping")
        if source.kind == "hugetlb":
            raise OSError(errno.EINVAL, "hugetlb")
        moved = source.copy()
        moved.start, moved.end, moved.pgoff = to, to_end, source.offset_of(start)
        if source.kind == "anon" and source.anon_vma is None:
            moved.pgoff = to
        if not mm.merge(to, to_end, moved):
            mm.add(moved)
        _move_pages(mm, start, end, to)
        mm.munmap(start, end)
        return new_address

    def mlock(self, pid: int, address: int, length: int) -> None:
        mm = self._mm(pid)
        start, end = _outer_range(address, length)
        self._set_locked(mm, start, end, True)
        for mapping in mm.overlapping(start, end):
            try:
                low, high = max(start, mapping.start), min(end, mapping.end)
                faults.populate(mm, mapping, low, high, self.thp)
            except faults.Died:
                raise OSError(errno.ENOMEM, "cannot populate") from None

    def munlock(self, pid: int, address: int, length: int) -> None:
        self._set_locked(self._mm(pid), *_outer_range(address, length), False)

    def _set_locked(self, mm: Mm, start: int, end: int, locked: bool) -> None:
        at = start
        while at < end:
            mapping = mm.find(at)
            if mapping is None:
                raise OSError(errno.ENOMEM, "not mapped")
            until = min(end, mapping.end)
            if mapping.locked != locked and mapping.kind != "hugetlb":
                _change(mm, mapping, at, until, {"locked": locked})
            at = until

    def madvise(self, pid: int, address: int, length: int, advice: int) -> None:
        mm = self._mm(pid)
        name = _ADVICE_NAMES.get(advice)
        rounded = (length + PAGE_SIZE - 1) % _LIMIT // PAGE_SIZE * PAGE_SIZE
        wrapped = (length != 0 and rounded == 0) or address + rounded >= _LIMIT
        if name is None or address % PAGE_SIZE or wrapped:
            raise OSError(errno.EINVAL, "madvise")
        start, end = address // PAGE_SIZE, (address + rounded) // PAGE_SIZE
        at, hole = start, False
        while at < end:
            found = mm.overlapping(at, end)
            if not found:
                raise OSError(errno.ENOMEM, "not mapped")
            hole = hole or found[0].start > at
            at, until = max(at, found[0].start), min(end, found[0].end)
            self._madvise_mapping(mm, found[0], at, until, name)
            at = until
        if hole:
            raise OSError(errno.ENOMEM, "not mapped")

    def _madvise_mapping(self, mm: Mm, mapping: Mapping, start: int, end: int, name: str) -> None:
        if name == "mergeable":
            self.dksm.advertise(mm, mapping, start, end)
        elif name == "dontneed":
            if mapping.locked or mapping.kind == "hugetlb":
                raise OSError(errno.EINVAL, "locked")
            mm.zap(start, end)
        elif name in ("hugepage", "nohugepage") and mapping.advice != name:
            _change(mm, mapping, start, end, {"advice": name})

    # --- accesses ---------------------------------------------------------------------------

    def read(self, pid: int, address: int, length: int) -> bytes:
        start, end = _outer_range(address, length)
        pages = [self._access(pid, vpn, write=False) for vpn in range(start, end)]
        offset = address % PAGE_SIZE
        return b"".join(frame.data() for frame in pages)[offset : offset + length]

    def write(self, pid: int, address: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            offset = (address + done) % PAGE_SIZE
            part = data[done : done + PAGE_SIZE - offset]
            frame = self._access(pid, (address + done) // PAGE_SIZE, write=True)
            frame.poke(offset, part)
            done += len(part)

    def fill(self, pid: int, address: int, length: int, content: Content) -> None:
        start, end = _whole_range(address, length)
        for page, vpn in enumerate(range(start, end)):
            self._access(pid, vpn, write=True).put(content, page)

    def touch(self, pid: int, address: int, length: int) -> None:
        self.read(pid, address, length)

    def _access(self, pid: int, vpn: int, *, write: bool) -> Frame:
        try:
            return faults.access(self._mm(pid), vpn, self.thp, write=write)
        except faults.Died as signal:
            raise AccessFault(str(signal), vpn * PAGE_SIZE) from None

    # --- views ------------------------------------------------------------------------------

    def pagemap(self, pid: int, address: int, length: int) -> list[PageInfo]:
        pages = []
        for frame in self._frames(pid, address, length):
            if frame is None:
                pages.append(PageInfo(None, False, False))
            else:
                huge = frame.compound is not None and not frame.zero
                pages.append(PageInfo(id(frame), frame.zero, huge))
        return pages

    def page_contents(self, pid: int, address: int, length: int) -> list[tuple[int, int] | None]:
        return [
            None
            if frame is None
            else (int.from_bytes(frame.data()[:8], "little"), self.dksm.checksum(frame))
            for frame in self._frames(pid, address, length)
        ]

    def _frames(self, pid: int, address: int, length: int) -> list[Frame | None]:
        mm = self._mm(pid)
        return [mm.frame(vpn) for vpn in range(*_outer_range(address, length))]

    def smaps(self, pid: int) -> list[MappingInfo]:
        mm = self._mm(pid)
        return [_smaps(mm, mapping) for mapping in mm.mappings]


def _smaps(mm: Mm, mapping: Mapping) -> MappingInfo:
    rss = pss = anonymous = huge = 0
    for vpn in range(mapping.start, mapping.end):
        frame = mm.frame(vpn)
        if frame is None or frame.zero or mapping.kind == "hugetlb":
            continue
        rss += 4
        pss += (PAGE_SIZE << 12) // frame.mapped
        anonymous += 4 if frame.family is not None else 0
        huge += 4 if isinstance(mm.entry(vpn), Huge) else 0
    start, end = mapping.start * PAGE_SIZE, mapping.end * PAGE_SIZE
    prot = "".join(letter for letter in "rwx" if letter in mapping.prot) or "none"
    return MappingInfo(start, end, prot, mapping.kind, rss, pss >> 22, anonymous, huge)


def _change(mm: Mm, mapping: Mapping, start: int, end: int, change: dict[str, object]) -> Mapping:
    """Give [start, end), part of `mapping`, other flags; neighbours that then fit become one."""
    like = mapping.copy()
    for name, value in change.items():
        setattr(like, name, value)
    like.pgoff = mapping.offset_of(start)
    if not mm.merge(start, end, like):
        mm.split(start)
        mm.split(end)
        part = mm.find(start)
        assert part is not None
        for name, value in change.items():
            setattr(part, name, value)
    changed = mm.find(start)
    assert changed is not None
    return changed


def _move_pages(mm: Mm, start: int, end: int, to: int) -> None:
    """move_page_tables: whole page tables where they fit, else entry by entry."""
    at = start
    while at < end:
        new = at - start + to
        size = min(AREA - at % AREA, AREA - new % AREA, end - at)
        area = mm.areas.get(at // AREA)
        if size == AREA and isinstance(area, Huge):
            mm.set_huge(new // AREA, mm.clear_huge(at // AREA))
        elif area is not None:
            mm.split_huge(at)
            mm.table(new)
            for vpn in range(at, at + size):
                pte = mm.entry(vpn)
                if isinstance(pte, Pte):
                    mm.clear_pte(vpn)
                    mm.set_pte(vpn - at + new, pte)
                    if size < AREA:
                        pte.soft_dirty = True  # move_soft_dirty_pte
        at += size


def _prot(text: str) -> frozenset[str]:
    return frozenset() if text == "none" else frozenset(text)


def _whole_range(address: int, length: int) -> tuple[int, int]:
    if address % PAGE_SIZE or length <= 0:
        raise OSError(errno.EINVAL, "not a range of pages")
    return address // PAGE_SIZE, (address + length + PAGE_SIZE - 1) // PAGE_SIZE


def _outer_range(address: int, length: int) -> tuple[int, int]:
    return address // PAGE_SIZE, (address + length + PAGE_SIZE - 1) // PAGE_SIZE
