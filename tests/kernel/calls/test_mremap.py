"""mremap of regions of several areas, on the engine and on the reference model."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.machine import ADVICE, Machine
from dksmfs.kernel.memory.entries import ACCESSED, DIRTY, SOFT_DIRTY, WRITE
from dksmfs.kernel.units import HUGE_PAGES, PAGE_SIZE, Vpn
from tests.kernel.conftest import programs_profile
from tests.kernel.model import Model
from tests.kernel.model_memory import Huge, Pte

BASE = 0x1000000000 // PAGE_SIZE  # starts an area
SPAN = 4 * HUGE_PAGES
TARGET = BASE + 64 * HUGE_PAGES

offsets = st.sampled_from([0, 0, 0, 1, 5, 511, 512, 700, 1024])
sizes = st.sampled_from([1, 512, 600, 1024, 1536, 2000])
ranges = st.tuples(offsets, sizes)
contents = st.sampled_from(["zero", "const:1", "index:0", "pattern:1"])
preparations = st.tuples(
    st.sampled_from(["fill", "fill", "touch", "scatter", "drop", "fork", "merge", "protect"]),
    ranges,
    contents,
)


class Both:
    """The same calls on the engine and on the model."""

    def __init__(self, thp: str) -> None:
        self.machines: tuple[Machine, Model] = Machine(thp), Model(thp)
        self.pids: list[int] = []

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        engine, model = (self._outcome(m, method, args, kwargs) for m in self.machines)
        assert engine == model
        return engine

    @staticmethod
    def _outcome(machine: Machine | Model, method: str, args: Any, kwargs: Any) -> Any:
        try:
            return getattr(machine, method)(*args, **kwargs)
        except OSError as error:
            return f"errno {error.errno}"

    def prepare(self, pid: int, what: str, pages: tuple[int, int], content: str) -> None:
        start, count = BASE + pages[0], min(pages[1], SPAN - pages[0])
        place = start * PAGE_SIZE, count * PAGE_SIZE
        if what == "fill":
            self.call("fill", pid, *place, parse_content(content))
        elif what == "touch":
            self.call("touch", pid, *place)
        elif what == "scatter":
            for vpn in range(start, start + count, 97):
                self.call("fill", pid, vpn * PAGE_SIZE, PAGE_SIZE, parse_content(content))
        elif what == "drop":
            self.call("madvise", pid, *place, ADVICE["dontneed"])
        elif what == "merge":
            self.call("madvise", pid, *place, ADVICE["mergeable"])
        elif what == "protect":
            self.call("mprotect", pid, *place, "r")
            self.call("mprotect", pid, *place, "rw")
        elif len(self.pids) < 3:
            self.pids.append(self.call("fork", pid, "child"))

    def compare(self) -> None:
        engine, model = self.machines
        engine.check_invariants()
        for pid in self.pids:
            smaps = model.smaps(pid)
            assert engine.smaps(pid) == smaps
            assert _tables(engine, pid) == _tables(model, pid)
            for at in smaps:
                area = at.start, at.end - at.start
                assert engine.page_contents(pid, *area) == model.page_contents(pid, *area)
                assert _bits(engine, pid, *area) == _bits(model, pid, *area)


def _vpns(address: int, length: int) -> range:
    return range(address // PAGE_SIZE, (address + length) // PAGE_SIZE)


def _tables(machine: Machine | Model, pid: int) -> list[int]:
    """The areas that have a page table, or a huge page."""
    if isinstance(machine, Model):
        return sorted(machine._mm(pid).areas)
    parts = machine.address_space(pid).tables.everything()
    return sorted(
        {vpn // HUGE_PAGES for part in parts for vpn in range(part.start, part.end, HUGE_PAGES)}
        | {(part.end - 1) // HUGE_PAGES for part in parts}
    )


def _bits(machine: Machine | Model, pid: int, address: int, length: int) -> list[Any]:
    """What the entries of small pages say."""
    if isinstance(machine, Machine):
        tables = machine.address_space(pid).tables
        start, end = Vpn(address // PAGE_SIZE), Vpn((address + length) // PAGE_SIZE)
        _, flags = tables.entries(start, end)
        areas = {vpn // HUGE_PAGES for vpn in _vpns(address, length)}
        huge = {area for area in areas if tables.huge(area)}
        return [
            None
            if vpn // HUGE_PAGES in huge
            else [bool(bits & bit) for bit in (WRITE, ACCESSED, DIRTY, SOFT_DIRTY)]
            for vpn, bits in zip(_vpns(address, length), flags.tolist(), strict=True)
        ]
    return [_model_bits(machine._mm(pid).entry(vpn)) for vpn in _vpns(address, length)]


def _model_bits(entry: Pte | Huge | None) -> list[bool] | None:
    if isinstance(entry, Huge):
        return None
    if entry is None:
        return [False] * 4
    return [entry.writable, entry.accessed, entry.dirty, entry.soft_dirty]


@programs_profile()
@given(
    thp=st.sampled_from(["never", "never", "always"]),
    prepared=st.lists(preparations, max_size=5),
    moved=ranges,
    distance=st.sampled_from([0, 0, 512, 1, 511, 700]),
    beside=st.booleans(),
    back=st.booleans(),
)
def test_mremap_moves_what_there_is(
    thp: str,
    prepared: list[tuple[str, tuple[int, int], str]],
    moved: tuple[int, int],
    distance: int,
    beside: bool,
    back: bool,
) -> None:
    both = Both(thp)
    pid = both.call("spawn", "a")
    both.pids.append(pid)
    for machine in both.machines:
        machine.dksm.set_run(1)
    both.call("mmap", pid, SPAN * PAGE_SIZE, address=BASE * PAGE_SIZE)
    offset, count = moved[0], min(moved[1], SPAN - moved[0])
    source, target = (BASE + offset) * PAGE_SIZE, (TARGET + offset + distance) * PAGE_SIZE
    if beside:  # the tables of the target's first and last area are there already
        for start in (target - PAGE_SIZE, target + count * PAGE_SIZE):
            both.call("mmap", pid, PAGE_SIZE, address=start, content=parse_content("const:3"))
    for what, pages, content in prepared:
        both.prepare(pid, what, pages, content)
    both.call("mremap", pid, source, count * PAGE_SIZE, target)
    both.compare()
    if back:
        both.call("mremap", pid, target, count * PAGE_SIZE, source)
        both.compare()
    for mapping in both.machines[0].smaps(pid):
        length = mapping.end - mapping.start
        both.call("fill", pid, mapping.start, length, parse_content("index:9"))
    both.compare()


def test_what_was_never_touched_costs_nothing_to_move() -> None:
    machine = Machine("never")
    pid, address, length = machine.spawn("a"), BASE * PAGE_SIZE, 1 << 43
    machine.mmap(pid, length, address=address)
    target = machine.mremap(pid, address, length, address + length + PAGE_SIZE)
    assert [(at.start, at.end) for at in machine.smaps(pid)] == [(target, target + length)]
    assert not machine.address_space(pid).tables.everything()


def test_a_populated_region_stays_a_run_wherever_it_goes() -> None:
    machine = Machine("never")
    pid, address, length = machine.spawn("a"), BASE * PAGE_SIZE, 1 << 30
    machine.mmap(pid, length, address=address, content=parse_content("index:0"))
    for target in (2 * address, 3 * address + PAGE_SIZE):
        address = machine.mremap(pid, address, length, target)
        runs = [part for part in machine.address_space(pid).tables.everything() if part.resident]
        assert [(run.start, run.pages) for run in runs] == [(target // PAGE_SIZE, 1 << 18)]
