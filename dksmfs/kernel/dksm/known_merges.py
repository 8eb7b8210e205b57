"""Regions that are the same as one before: many machines of a fleet run the same programs.

Exact, as the same pages at home merge with the same frames again, if all of them merged before,
each at the first try, and nothing has happened since that a page descriptor would notice. So it is
noted which pages of which content merged with which frames, and a run of frames that holds these
pages is merged in one go. The time this takes does not grow with the pages, but for counting who
maps each frame.
"""

from dataclasses import dataclass

from dksmfs.kernel.dksm.engine import MERGED, Dksm, MergeShortcut
from dksmfs.kernel.dksm.walk import Walk
from dksmfs.kernel.memory.address_space import AddressSpace
from dksmfs.kernel.memory.entries import PRESENT, PROTNONE, Run
from dksmfs.kernel.memory.frames import home
from dksmfs.kernel.memory.vma import Vma
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import compact
from dksmfs.kernel.units import Pfn, Pfns, Vpn

Origin = tuple[int, int]  # the number of a content, and a page in it


@dataclass(frozen=True, slots=True)
class _Known:
    """Pages `first` to `end` - 1 of a content merge with frames `pfn` + `step` * i."""

    first: int
    end: int
    pfn: Pfn
    step: int

    def continues_at(self, page: int, pfn: Pfn, step: int) -> bool:
        """Whether more pages, from `page` on, go on in the same way."""
        return (page, step) == (self.end, self.step) and pfn == self.frame(page)

    def frame(self, page: int) -> Pfn:
        """The frame that a page merges with."""
        return Pfn(self.pfn + self.step * (page - self.first))


class KnownMerges(MergeShortcut):
    """What merged with what, as long as nothing changes."""

    def __init__(self, dksm: Dksm) -> None:
        super().__init__(dksm)
        self._version = -1
        self._known: dict[int, _Known] = {}  # by the number of the content
        self._asked: tuple[Origin | None, int, int] = None, -1, 0
        """Of pages whose outcome is not known: their origin, the version, the pages merged."""

    def advertise(self, walk: Walk) -> Work[int]:
        yield from ()
        mm, (vma, low, high) = walk.mm, walk.first
        origin, version = origin_of(mm, vma, low, high), mm.frames.version.number
        merged = 0
        if origin is not None and version == self._version:
            merged = self._merge(mm, origin, low, high)
            self.dksm.pages_scanned += merged
            self.dksm.pages_merged += merged
        self._asked = None if merged else origin, version, self.dksm.pages_merged
        return merged

    def _merge(self, mm: AddressSpace, origin: Origin, low: Vpn, high: Vpn) -> int:
        """Merge pages from `low` on as far as is known; returns how many."""
        known = self._known.get(origin[0])
        if known is None or not known.first <= origin[1] < known.end:
            return 0
        run = mm.tables.look(low, min(high, Vpn(low + known.end - origin[1])))[0]
        assert isinstance(run, Run)
        merged = Run(run.start, run.end, known.frame(origin[1]), known.step, MERGED)
        if merged.frames != run.frames and mm.frames.any_tracked(run.frames):
            return 0  # a descriptor would become stale before the end
        mm.get_run(merged)
        mm.frames.put(run.frames)
        mm.tables.add_run(merged)
        return run.pages

    def learn(self, walk: Walk, pages: int) -> None:
        origin, *before = self._asked
        now = walk.mm.frames.version.number, self.dksm.pages_merged - pages
        low, most = walk.first.low, walk.first.pages
        if origin is not None and now == tuple(before) and pages <= most:
            self._note(origin, walk.mm.tables.entries(low, Vpn(low + pages))[0], now[0])

    def _note(self, origin: Origin, targets: Pfns, version: int) -> None:
        """The page at `origin` and those behind it have merged with the frames `targets`."""
        if version != self._version:
            self._known, self._version = {}, version
        line = compact(targets)
        step = int(isinstance(line, range) and len(line) > 1)
        if not step and (targets != targets[0]).any():
            return
        content, first = origin
        pfn, end = Pfn(int(targets[0])), first + len(targets)
        before = self._known.get(content)
        if before is not None and before.continues_at(first, pfn, step):
            first, pfn = before.first, before.pfn
        self._known[content] = _Known(first, end, pfn, step)


def origin_of(mm: AddressSpace, vma: Vma, low: Vpn, high: Vpn) -> Origin | None:
    """The content that the stretch holds, and which of its pages comes first; None if it is not
    one run of accessible pages at home, or not known to hold pages in a row that never change."""
    parts = mm.tables.look(low, high)
    if len(parts) != 1 or not isinstance(parts[0], Run):
        return None
    run = parts[0]
    if run.pages != high - low or not run.step or run.flags & (PRESENT | PROTNONE) != PRESENT:
        return None
    if vma.anon_vma is None:
        return None
    place = home(vma.anon_vma.root, vma.linear_page_index(low))
    if mm.frames.first_home(run.frames) != place:
        return None
    return mm.frames.contents.stable_line(run.frames)
