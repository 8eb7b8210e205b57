"""Random programs on the engine and on the reference model: everything visible is the same.

The programs have few places, few contents and few processes, so that things meet: regions at a
border between two page tables, duplicates, and, with the checksum cut to a few bits, different
pages with one checksum.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dksmfs.kernel.content.content import Content
from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.errors import AccessFault
from dksmfs.kernel.machine import ADVICE, Machine
from dksmfs.kernel.units import PAGE_SIZE
from tests.kernel.conftest import programs_profile
from tests.kernel.model import Model

BASE = 0x1000000000 // PAGE_SIZE  # starts an area
PROCESSES = 4
SHARED_PAGES = 6

# Pages around the border between two areas, at the end of the second, and whole areas.
vpns = st.one_of(
    st.integers(506, 517),
    st.integers(506, 517),
    st.sampled_from([0, 5, 496, 500, 512, 1020, 1024]),
)
few_pages = st.integers(1, 9)
many_pages = st.sampled_from([16, 512, 520, 1024])
which = st.integers(0, 7)  # one of those there are, counted round and round


class Place(NamedTuple):
    """Some pages from `vpn` on, or from `start` pages behind the start of a mapping."""

    pages: int
    start: int
    mapping: int | None = None


few_anywhere = st.builds(Place, few_pages, vpns)
anywhere = st.builds(Place, few_pages | few_pages | few_pages | many_pages, vpns)
in_mapping = st.builds(Place, few_pages, st.integers(0, 4), which)
at_mapping = st.builds(Place, few_pages, st.just(0) | st.integers(-9, 9), which)
few = in_mapping | few_anywhere | in_mapping
places = in_mapping | anywhere | in_mapping

prots = st.sampled_from(["rw", "rw", "rw", "r", "none", "rwx"])
kinds = st.sampled_from(["anon", "anon", "anon", "shared-anon", "file-private", "file-shared"])
described = st.sampled_from(
    ["zero", "const:1", "const:1", "const:2", "index:0", "index:1", "index:3", "pattern:1"]
).map(parse_content)
two_contents = st.tuples(described, described) | described.map(lambda one: (one, one))
Result = tuple[str, Any]
Act = Callable[[Any], Any]


class Programs(RuleBasedStateMachine):
    """Each rule does the same to both, and the outcomes are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.pids: list[int] = []
        self.shared = bytearray(SHARED_PAGES * PAGE_SIZE)
        view = memoryview(self.shared)
        self.contents: list[Content] = [
            StoredContent(view, stable=False),
            StoredContent(view[PAGE_SIZE:], stable=False),
            StoredContent(bytes(3 * PAGE_SIZE) + b"\1"),
        ]

    @initialize(
        thp=st.sampled_from(["never", "never", "always", "madvise"]),
        checksum_bits=st.sampled_from([1, 2, 4, 8, 32]),
        run=st.sampled_from([1, 1, 1, 1, 1, 0]),
        place=few_anywhere | few_anywhere | st.none(),
        contents=two_contents,
    )
    def boot(
        self,
        thp: str,
        checksum_bits: int,
        run: int,
        place: Place | None,
        contents: tuple[Content, Content],
    ) -> None:
        self.checksum_bits = checksum_bits
        self.engine = Machine(thp, checksum_bits=checksum_bits)
        self.model = Model(thp, checksum_bits=checksum_bits)
        self.both(lambda m: m.mkfile("f", 8, parse_content("index:0")))
        self.both(lambda m: m.mkfile("g", 3, parse_content("const:1")))
        self.both(lambda m: m.dksm.set_run(run))
        for name in ("a", "b"):
            self.pids.append(self.both(_spawn(name)))
        if place is not None:
            self.two_with_pages(place, contents)

    def both(self, act: Act) -> Any:
        """Do it to both; the outcome must be the same, and is returned."""
        expected, got = _outcome(act, self.model), _outcome(act, self.engine)
        assert got == expected
        kind, value = got
        if kind != "value":
            event(f"outcome: {kind} {value if kind == 'errno' else value[0]}")
            return None
        return value

    def range(self, number: int, place: Place) -> tuple[int, int]:
        """Address and length of a place in a process."""
        first = BASE
        if place.mapping is not None:
            mappings = self.engine.smaps(self.pid(number))
            if mappings:
                first = mappings[place.mapping % len(mappings)].start // PAGE_SIZE
            else:
                first += 512
        return max(first + place.start, BASE) * PAGE_SIZE, place.pages * PAGE_SIZE

    def pid(self, number: int) -> int:
        return self.pids[number % len(self.pids)]

    def content(self, chosen: Content | int) -> Content:
        return self.contents[chosen % len(self.contents)] if isinstance(chosen, int) else chosen

    # --- processes --------------------------------------------------------------------------

    @precondition(lambda self: len(self.pids) < PROCESSES)
    @rule()
    def spawn(self) -> None:
        self.pids.append(self.both(lambda m: m.spawn("new")))

    @precondition(lambda self: len(self.pids) < PROCESSES)
    @rule(number=which)
    def fork(self, number: int) -> None:
        self.pids.append(self.both(lambda m: m.fork(self.pid(number), "child")))

    @precondition(lambda self: len(self.pids) > 1)
    @rule(number=which)
    def exit(self, number: int) -> None:
        pid = self.pids.pop(number % len(self.pids))
        self.both(lambda m: m.exit(pid))

    # --- mappings ---------------------------------------------------------------------------

    @rule(
        number=which,
        place=anywhere | at_mapping,
        kind=kinds,
        prot=prots,
        file=st.sampled_from("fg"),
    )
    def mmap(self, number: int, place: Place, kind: str, prot: str, file: str) -> None:
        address, length = self.range(number, place)
        options = {"kind": kind, "prot": prot, "file": file if "file" in kind else None}
        self.both(lambda m: m.mmap(self.pid(number), length, address=address, **options))

    @rule(number=which, place=few_anywhere | at_mapping, content=described, prot=prots)
    def mmap_filled(self, number: int, place: Place, content: Content, prot: str) -> None:
        address, length = self.range(number, place)
        self.both(
            lambda m: m.mmap(self.pid(number), length, address=address, content=content, prot=prot)
        )

    @rule(place=few_anywhere, contents=two_contents)
    def two_with_pages(self, place: Place, contents: tuple[Content, Content]) -> None:
        """The beginning of most stories: two processes have pages, and advertise them."""
        for number, content in enumerate(contents):
            self.mmap_filled(number, place, content, "rw")
            self.advise(number, place, "mergeable")

    @precondition(lambda self: self.model.thp != "never")
    @rule(
        number=which,
        area=st.sampled_from([0, 512]),
        advice=st.sampled_from(["hugepage", "nohugepage", "unmergeable"]),
        content=st.none() | described,
        fork=st.booleans(),
    )
    def mmap_huge(
        self, number: int, area: int, advice: str, content: Content | None, fork: bool
    ) -> None:
        """A whole area and its neighbours, which may get a huge page at the first access."""
        place, first = Place(540, max(area - 8, 0)), Place(2, area)
        address, length = self.range(number, place)
        self.both(lambda m: m.mmap(self.pid(number), length, address=address))
        self.advise(number, place, advice)
        if content is None:
            self.touch(number, first)
        else:
            self.fill(number, first, content)
        if fork and len(self.pids) < PROCESSES:
            self.fork(number)
            self.poke(number, first, 0, b"\1")

    @rule(number=which, place=places)
    def munmap(self, number: int, place: Place) -> None:
        self.both(lambda m: m.munmap(self.pid(number), *self.range(number, place)))

    @rule(number=which, place=places, prot=prots)
    def mprotect(self, number: int, place: Place, prot: str) -> None:
        self.both(lambda m: m.mprotect(self.pid(number), *self.range(number, place), prot))

    @rule(number=which, place=in_mapping, prot=st.sampled_from(["r", "none"]))
    def mprotect_and_back(self, number: int, place: Place, prot: str) -> None:
        """Only the page-table entries are not as before, as stores tell."""
        self.mprotect(number, place, prot)
        self.mprotect(number, place, "rw")
        self.poke(number, place, 8, b"\1")

    @rule(number=which, mapping=which, to=vpns)
    def move_mapping(self, number: int, mapping: int, to: int) -> None:
        """One mapping as a whole."""
        mappings = self.engine.smaps(self.pid(number))
        if mappings:
            at = mappings[mapping % len(mappings)]
            self.mremap(
                number,
                Place((at.end - at.start) // PAGE_SIZE, 0, mapping),
                Place(1, to),
            )

    @rule(number=which, place=places, to=few)
    def mremap(self, number: int, place: Place, to: Place) -> None:
        new_address, _ = self.range(number, to)
        self.both(lambda m: m.mremap(self.pid(number), *self.range(number, place), new_address))

    @rule(number=which, place=few, lock=st.booleans())
    def lock(self, number: int, place: Place, lock: bool) -> None:
        name = "mlock" if lock else "munlock"
        self.both(lambda m: getattr(m, name)(self.pid(number), *self.range(number, place)))

    @rule(number=which, place=places, advice=st.sampled_from(sorted(ADVICE)))
    def advise(self, number: int, place: Place, advice: str) -> None:
        self.both(lambda m: m.madvise(self.pid(number), *self.range(number, place), ADVICE[advice]))

    @rule(number=which, place=few)
    def advertise(self, number: int, place: Place) -> None:
        self.advise(number, place, "mergeable")

    @rule(number=which, place=in_mapping, times=st.integers(1, 3))
    def advertise_and_store(self, number: int, place: Place, times: int) -> None:
        """Whether others see the store depends on what the advertisements came to."""
        for _ in range(times):
            self.advise(number, place, "mergeable")
        self.poke(number, place, 8, b"\1")

    @rule(number=which, place=places)
    def drop(self, number: int, place: Place) -> None:
        self.advise(number, place, "dontneed")

    @rule(number=which, mapping=which)
    def advertise_mapping(self, number: int, mapping: int) -> None:
        """One mapping as a whole."""
        mappings = self.engine.smaps(self.pid(number))
        if mappings:
            at = mappings[mapping % len(mappings)]
            length = at.end - at.start
            self.both(lambda m: m.madvise(self.pid(number), at.start, length, 12))

    @rule(number=which)
    def advertise_all(self, number: int) -> None:
        """Every page of a process."""
        self.both(lambda m: m.madvise(self.pid(number), 0, 1 << 47, 12))

    @rule(
        number=which,
        address=st.sampled_from([0, 1, 4095, 4096]),
        length=st.sampled_from([0, 1, 4096, 4097, (1 << 64) - 1, 1 << 63]),
        advice=st.sampled_from([12, 13, 4, 100]),
    )
    def advise_oddly(self, number: int, address: int, length: int, advice: int) -> None:
        start = BASE * PAGE_SIZE + 508 * PAGE_SIZE + address
        self.both(lambda m: m.madvise(self.pid(number), start, length, advice))

    # --- accesses ---------------------------------------------------------------------------

    @rule(number=which, place=few, content=described | which)
    def fill(self, number: int, place: Place, content: Content | int) -> None:
        chosen = self.content(content)
        self.both(lambda m: m.fill(self.pid(number), *self.range(number, place), chosen))

    @precondition(lambda self: self.checksum_bits >= 8)
    @rule(number=which, vpn=vpns, first=st.integers(0, 3))
    def fill_many(self, number: int, vpn: int, first: int) -> None:
        """Chains must stay short: looking up each page would take its time."""
        content = parse_content(f"index:{first}")
        place = Place(540, vpn)
        self.both(lambda m: m.fill(self.pid(number), *self.range(number, place), content))

    @rule(number=which, place=places)
    def touch(self, number: int, place: Place) -> None:
        self.both(lambda m: m.touch(self.pid(number), *self.range(number, place)))

    @rule(
        number=which,
        place=few,
        offset=st.sampled_from([0, 1, 8, 4080, 4088, 4095]),
        data=st.sampled_from(
            [b"\0", b"\1", b"\1" + bytes(7), bytes(16), b"\2" * 4096, bytes(9000)]
        ),
    )
    def poke(self, number: int, place: Place, offset: int, data: bytes) -> None:
        address = self.range(number, place)[0] + offset
        self.both(lambda m: m.write(self.pid(number), address, data))

    @rule(number=which, place=few, offset=st.sampled_from([0, 4090]), length=st.integers(1, 5000))
    def peek(self, number: int, place: Place, offset: int, length: int) -> None:
        address = self.range(number, place)[0] + offset
        self.both(lambda m: m.read(self.pid(number), address, length))

    # --- the machine ------------------------------------------------------------------------

    @rule(page=st.integers(0, SHARED_PAGES - 1), value=st.integers(0, 2))
    def change_shared_memory(self, page: int, value: int) -> None:
        """Somebody writes to memory that pages were made of, behind the machine's back."""
        self.shared[page * PAGE_SIZE] = value

    @rule(name=st.sampled_from("fg"), pages=st.integers(1, 10), content=described | which)
    def mkfile(self, name: str, pages: int, content: Content | int) -> None:
        chosen = self.content(content)
        self.both(lambda m: m.mkfile(name, pages, chosen))

    @rule(value=st.sampled_from([0, 1, 1, 1]))
    def set_run(self, value: int) -> None:
        self.both(lambda m: m.dksm.set_run(value))

    @rule(mode=st.sampled_from(["always", "madvise", "never"]))
    def set_thp(self, mode: str) -> None:
        self.engine.thp = self.model.thp = mode

    # --- what must be equal -----------------------------------------------------------------

    @invariant()
    def all_is_equal(self) -> None:
        assert _counters(self.engine) == _counters(self.model)
        mappings = []
        for pid in self.pids:
            smaps = self.model.smaps(pid)
            assert self.engine.smaps(pid) == smaps
            mappings += [(pid, at.start, at.end - at.start) for at in smaps]
        assert _sharing(self.engine, mappings) == _sharing(self.model, mappings)
        for mapping in mappings:
            assert self.engine.page_contents(*mapping) == self.model.page_contents(*mapping)

    @invariant()
    def books_agree(self) -> None:
        self.engine.check_invariants()

    def teardown(self) -> None:
        """When all processes have ended, nothing but descriptors is left."""
        while self.pids:
            self.exit(0)
        if hasattr(self, "engine"):
            self.all_is_equal()
            self.books_agree()


def _spawn(name: str) -> Act:
    return lambda machine: machine.spawn(name)


def _outcome(act: Act, machine: Machine | Model) -> Result:
    try:
        return "value", act(machine)
    except AccessFault as fault:
        return "signal", (fault.signal, fault.address)
    except OSError as error:
        return "errno", error.errno


def _counters(machine: Machine | Model) -> tuple[int, ...]:
    dksm = machine.dksm
    return (
        dksm.run,
        dksm.pages_scanned,
        dksm.pages_merged,
        dksm.merging_failed,
        dksm.hashtable_entries,
        dksm.hashtable_size,
    )


def _sharing(machine: Machine | Model, mappings: list[tuple[int, int, int]]) -> list[Any]:
    """Per page: absent, the zero page, or the number of its frame's class by first appearance."""
    classes: dict[int | None, int] = {}
    return [
        None
        if page.pfn is None
        else (page.huge, "Z" if page.zero else classes.setdefault(page.pfn, len(classes)))
        for mapping in mappings
        for page in machine.pagemap(*mapping)
    ]


TestPrograms = Programs.TestCase
TestPrograms.settings = programs_profile()
