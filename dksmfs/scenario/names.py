"""What the names in a scenario stand for: processes, and the regions of each.

A name is given by a step that succeeds, whether the step is being replayed or recorded, so both
hand what happened to `Names.note`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from dksmfs.control import messages as m
from dksmfs.kernel.units import PAGE_SIZE
from dksmfs.scenario import recording as r


@dataclass(slots=True)
class Region:
    """A named range: its first virtual page, counted from `BASE`, and its size in pages."""

    vpn: int
    pages: int

    def address(self, page: int = 0) -> int:
        """The address (bytes) of a page of the region."""
        return r.BASE + (self.vpn + page) * PAGE_SIZE

    @property
    def length(self) -> int:
        """The size in bytes."""
        return self.pages * PAGE_SIZE

    def lies_in(self, address: int, length: int) -> bool:
        """Whether the range (bytes) covers all of the region."""
        return address <= self.address() and self.address(self.pages) <= address + length


@dataclass(slots=True)
class Proc:
    """A process that runs."""

    pid: int
    regions: dict[str, Region] = field(default_factory=dict)


class Names:
    """The processes that run, by their names."""

    def __init__(self) -> None:
        self._procs: dict[str, Proc] = {}

    def __iter__(self) -> Iterator[tuple[str, Proc]]:
        return iter(self._procs.items())

    def __getitem__(self, proc: str) -> Proc:
        return self._procs[proc]

    def region(self, proc: str, region: str) -> Region:
        """The region of that name."""
        return self._procs[proc].regions[region]

    def check_free(self, proc: str) -> None:
        """Raise ValueError if a process of that name runs."""
        if proc in self._procs:
            raise ValueError(f"{proc} runs already")

    def note(self, step: r.AnyStep, reply: object) -> None:
        """The step succeeded with this reply."""
        if isinstance(step, r.Spawn) and isinstance(reply, m.Spawned):
            self._procs[step.proc] = Proc(reply.pid)
        elif isinstance(step, r.Fork) and isinstance(reply, m.Spawned):
            regions = self._procs[step.proc].regions
            copies = {name: replace(region) for name, region in regions.items()}
            self._procs[step.child] = Proc(reply.pid, copies)
        elif isinstance(step, r.Exit):
            del self._procs[step.proc]
        elif isinstance(step, r.Mmap) and isinstance(reply, m.Mapped):
            region = Region(vpn_of(reply.address), step.pages)
            self._procs[step.proc].regions[step.region] = region
        elif isinstance(step, r.Munmap):
            self._unmapped(step)
        elif isinstance(step, r.Mremap):
            self._moved(step)

    def _unmapped(self, step: r.Munmap) -> None:
        regions = self._procs[step.proc].regions
        if step.region is not None:
            if step.count == regions[step.region].pages:
                del regions[step.region]
        elif step.address is not None and step.length is not None:
            address = r.BASE + step.address
            gone = [name for name, at in regions.items() if at.lies_in(address, step.length)]
            for name in gone:
                del regions[name]

    def _moved(self, step: r.Mremap) -> None:
        regions = self._procs[step.proc].regions
        if step.region is not None and step.new_vpn is not None:
            regions[step.region].vpn = step.new_vpn
        elif step.new_region is not None and step.new_address is not None and step.length:
            pages = -(-step.length // PAGE_SIZE)
            regions[step.new_region] = Region(vpn_of(r.BASE + step.new_address), pages)


def vpn_of(address: int) -> int:
    """The virtual page of an address (bytes), counted from `BASE`."""
    return (address - r.BASE) // PAGE_SIZE
