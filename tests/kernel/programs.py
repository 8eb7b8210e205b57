"""Random programs of processes with hundreds of pages, and what can be seen of a machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
from hypothesis import strategies as st

from dksmfs.kernel.content.content import Content
from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.dksm.engine import MergeShortcut
from dksmfs.kernel.dksm.walk import Walk
from dksmfs.kernel.machine import ADVICE, SHORTCUTS, Machine, Shortcut
from dksmfs.kernel.memory.hashing.copies import Copies
from dksmfs.kernel.memory.hashing.hashes import Question
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import Selection
from dksmfs.kernel.units import PAGE_SIZE, Numbers

AT = 0x10_0000_0000 + 500 * PAGE_SIZE  # near the end of a 2 MiB area
WORDS = PAGE_SIZE // 8

Program = list[tuple[str, Content, int, int]]
"""Steps: what to do, with which content, in which process, at which page."""

# Runs of pages: how many, which page the first is like, whether the next ones are like the next.
runs = st.tuples(st.sampled_from([1, 1, 2, 9, 63, 64, 130]), st.integers(0, 5), st.booleans())
short_runs = st.tuples(st.sampled_from([1, 2, 9, 20, 33]), st.integers(0, 5), st.booleans())


def stored(parts: list[tuple[int, int, bool]], changed: int, *, stable: bool) -> Content:
    """Pages that often are like others, or like them but for a word that is looked at last."""
    numbers = np.concatenate(
        [first * 40 + np.arange(count) * counts for count, first, counts in parts]
    )
    pages = np.zeros((len(numbers), WORDS), "<u8")
    pages[:, 0] = numbers // 3
    pages[:, 300] = numbers % 3
    pages[changed % len(pages), 400] = 1
    return StoredContent(memoryview(bytearray(pages.tobytes())), stable=stable)


def stored_contents(
    most_runs: int, run: st.SearchStrategy[tuple[int, int, bool]] = runs
) -> st.SearchStrategy[Content]:
    parts = st.lists(run, min_size=1, max_size=most_runs)
    return st.builds(stored, parts, st.integers(0, 600), stable=st.booleans())


described_contents = st.sampled_from(["zero", "const:1", "index:0", "index:7", "seed:1"]).map(
    parse_content
)
contents = stored_contents(6) | described_contents
small_contents = stored_contents(2)
short_contents = stored_contents(3, short_runs) | described_contents

KINDS = ["map", "map", "again", "again", "part", "fork", "write", "scatter", "change", "exit"]


def programs(content: st.SearchStrategy[Content], most: int) -> st.SearchStrategy[Program]:
    """Programs of up to `most` steps."""
    offsets = st.integers(0, 400)
    step = st.tuples(st.sampled_from(KINDS), content, st.integers(0, 7), offsets)
    return st.lists(step, min_size=2, max_size=most)


def counted(values: Numbers) -> Content:
    """Pages that show a number each, and are zero elsewhere."""
    pages = np.zeros((len(values), WORDS), "<u8")
    pages[:, 0] = values
    return StoredContent(pages.tobytes())


def run(machine: Machine, program: Program) -> Iterator[object]:
    """What can be seen after each step."""
    machine.dksm.set_run(1)
    own: dict[Content, tuple[Content, bytearray | None]] = {}
    regions: list[tuple[int, int]] = []  # process and size
    memories: dict[int, bytearray | None] = {}  # what a client shares with a process
    for what, content, which, offset in program:
        pid, size = regions[which % len(regions)] if regions else (0, 0)
        if what == "map" or not regions:
            filled, memory = own.setdefault(content, _owned(content))
            pages = len(content._bytes) // PAGE_SIZE if isinstance(content, StoredContent) else 200
            pid, size = machine.spawn("p"), pages * PAGE_SIZE
            machine.mmap(pid, size, address=AT, content=filled)
            regions.append((pid, size))
            memories[pid] = memory
            advertise(machine, pid, AT, size)
        elif what == "again":
            advertise(machine, pid, AT, size)
        elif what == "part":
            start = offset * PAGE_SIZE % size
            advertise(machine, pid, AT + start, size - start)
        elif what == "fork":
            child = machine.fork(pid)
            regions.append((child, size))
            memories[child] = memories[pid]
            advertise(machine, child, AT, size)
        elif what == "write":
            machine.write(pid, AT + offset * PAGE_SIZE % size, bytes([which]) * 8)
        elif what == "scatter":
            for page in range(min(20, size // PAGE_SIZE)):
                machine.write(pid, AT + page * PAGE_SIZE, bytes([page % 7]) * PAGE_SIZE)
            advertise(machine, pid, AT, size)
        elif what == "change":
            _change(memories[pid], offset, which)
        else:
            machine.exit(pid)
            regions.remove((pid, size))
        machine.check_invariants()
        dksm = machine.dksm
        yield dksm.pages_scanned, dksm.pages_merged, dksm.merging_failed, dksm.hashtable_entries
        yield sharing(machine, regions)


def _owned(content: Content) -> tuple[Content, bytearray | None]:
    """A content that this machine alone has, if it is one that changes, and its memory."""
    if not isinstance(content, StoredContent) or content.stable:
        return content, None
    memory = bytearray(content._bytes)
    return StoredContent(memoryview(memory), stable=False), memory


def _change(memory: bytearray | None, page: int, value: int) -> None:
    """A client writes to the memory that it shares."""
    if memory is not None:
        memory[page * PAGE_SIZE % len(memory)] = value


def advertise(machine: Machine, pid: int, address: int, length: int) -> None:
    machine.madvise(pid, address, length, ADVICE["mergeable"])


def sharing(machine: Machine, regions: list[tuple[int, int]]) -> list[int]:
    """The frame of each page, numbered in the order in which they turn up."""
    frames = [page.pfn for pid, size in regions for page in machine.pagemap(pid, AT, size)]
    numbers = {pfn: number for number, pfn in enumerate(dict.fromkeys(frames))}
    return [numbers[pfn] for pfn in frames]


def compare_with_page_by_page(
    program: Program, checksum_bits: int = 32, *shortcuts: Shortcut
) -> None:
    """What is seen of a machine with these shortcuts, or with all, and of one without any."""
    with small_thresholds():
        machine = Machine("never", checksum_bits=checksum_bits, shortcuts=shortcuts or SHORTCUTS)
        seen = list(run(machine, program))
    literal = Machine("never", checksum_bits=checksum_bits, shortcuts=())
    assert seen == list(run(literal, program))


@contextmanager
def small_thresholds() -> Iterator[None]:
    """What the shortcuts do for many pages, for few."""
    with (
        patch.object(Copies, "first_pages", 8),
        patch("dksmfs.kernel.dksm.batches.BATCH_PAGES", 64),
        patch("dksmfs.kernel.dksm.table._FEW_CHAINS", 1),
        patch("dksmfs.kernel.dksm.descriptors._LONG", 3),
    ):
        yield


def pages_done(program: Program, shortcut: Shortcut, *others: Shortcut) -> list[int]:
    """The pages that a shortcut decided on in each step of a program, beside `others`."""
    done = [0]
    with small_thresholds():
        machine = Machine("never", shortcuts=(_counting(shortcut, done), *others))
        for number, _ in enumerate(run(machine, program)):
            if number % 2:
                done.append(0)
    return done[:-1]


def _counting(shortcut: Shortcut, done: list[int]) -> Shortcut:
    """The shortcut; it adds what it has decided on to the last number."""
    if issubclass(shortcut, MergeShortcut):

        class CountedMerges(shortcut):  # type: ignore[misc, valid-type]
            def advertise(self, walk: Walk) -> Work[int]:
                taken: int = yield from super().advertise(walk)
                done[-1] += taken
                return taken

        return CountedMerges

    class CountedHashes(shortcut):  # type: ignore[misc, valid-type]
        def find(self, question: Question, left: Selection) -> Work[Selection]:
            rest: Selection = yield from super().find(question, left)
            done[-1] += len(left) - len(rest)
            return rest

    return CountedHashes
