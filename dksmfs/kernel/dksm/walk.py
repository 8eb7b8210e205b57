"""The walk over the page tables of an address space (walk_page_range)."""

from collections import deque
from typing import Final, NamedTuple

from dksmfs.kernel.memory.address_space import AddressSpace
from dksmfs.kernel.memory.vma import Vma
from dksmfs.kernel.units import Vpn

_STRETCH_PAGES: Final = 1 << 20  # the longest stretch


class Stretch(NamedTuple):
    """Virtual pages `low` to `high` - 1 of a mapping, all in areas that have page tables."""

    vma: Vma
    low: Vpn
    high: Vpn

    @property
    def pages(self) -> int:
        """How many pages."""
        return self.high - self.low


class Walk:
    """The pages that are still to be walked over, by ascending address."""

    def __init__(self, mm: AddressSpace) -> None:
        self.mm = mm
        self.pages = 0
        self._ahead: deque[Stretch] = deque()

    def add(self, vma: Vma, first: Vpn, last: Vpn) -> None:
        """Go over virtual pages `first` to `last` - 1 of a mapping, too."""
        for low, high in self.mm.tables.stretches(first, last, _STRETCH_PAGES):
            self._ahead.append(Stretch(vma, low, high))
            self.pages += high - low

    @property
    def first(self) -> Stretch:
        """The next stretch."""
        return self._ahead[0]

    def next(self, pages: int) -> list[Stretch]:
        """The next `pages` pages, or all if there are fewer."""
        found = []
        for stretch in self._ahead:
            part = stretch._replace(high=min(stretch.high, Vpn(stretch.low + pages)))
            found.append(part)
            pages -= part.pages
            if not pages:
                break
        return found

    def go_on(self, pages: int) -> None:
        """Leave the next pages behind."""
        self.pages -= pages
        while pages:
            first = self._ahead.popleft()
            if first.pages > pages:
                self._ahead.appendleft(first._replace(low=Vpn(first.low + pages)))
                return
            pages -= first.pages
