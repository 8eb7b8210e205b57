"""The document that comes with DKSM, statement by statement, on the mounted files.

Each test says a statement in our words and shows it. Where the real kernel does otherwise, the test
is marked with what it does instead, shows that, and stands in the list of docs/dksm.md.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dksmfs import connect
from tests.cli.command_line import REPOSITORY, command_line
from tests.statements import DIFFERENCES, World, advertise, differs, frames

pytestmark = pytest.mark.mounted

PAGE = 4096
HUGE = 512  # pages


@pytest.fixture(scope="module")
def mounted() -> Iterator[tuple[Path, str]]:
    """A machine mounted for all of these tests: its mm directory and its socket."""
    with command_line() as line:
        started = line.mount("--root", "sys", "--thp", "never")
        yield Path(started["mountpoint"], "kernel", "mm"), started["socket"]
        line.succeed("umount")


@pytest.fixture
def world(mounted: tuple[Path, str]) -> Iterator[World]:
    """The machine without processes, with DKSM on and huge pages off."""
    mm, socket = mounted
    with connect(socket) as machine:
        world = World(mm, machine)
        world.write("never", "transparent_hugepage/enabled")
        world.write("1")
        yield world
        world.write("0")


# --- what is merged, and when ---------------------------------------------------------------------


def test_identical_pages_become_one_without_any_daemon(world: World) -> None:
    """Identical pages of processes are merged, with no daemon: it happens within the call."""
    first, second = world.process(), world.process()
    assert frames(first) != frames(second)
    advertise(first, second)
    assert frames(first) == frames(second)
    assert world.counters() == (8, 4, 0, 4)


def test_only_anonymous_pages(world: World) -> None:
    """Only anonymous pages are merged."""
    world.machine.mkfile("file", pages=4, fill="index:0")
    for kind in ("file-private", "file-shared"):
        region = world.machine.process(kind).mmap(pages=4, kind=kind, file="file")
        region.touch()
        advertise(region)
    advertise(world.process(kind="shared-anon"))
    assert world.counters() == (0, 0, 12, 0)
    region = world.machine.process("copies").mmap(pages=4, kind="file-private", file="file")
    region.fill("index:0")  # private copies of a file's pages are anonymous
    advertise(region, world.process())
    assert world.counters() == (8, 4, 12, 4)


@differs("nothing checks that: writable pages are scanned, tracked and merged")
def test_only_read_only_pages(world: World) -> None:
    """Only read-only pages are merged."""
    advertise(world.process(prot="r"), world.process(prot="rw"), world.process(prot="rw"))
    assert world.counters() == (12, 8, 0, 4)


@differs(
    "it is up to you: if the process whose page was merged with can still write to it, "
    "all sharers see its writes, even in memory that they may only read"
)
def test_the_region_should_be_read_only(world: World) -> None:
    """The region that is advertised should be read-only."""
    owner, sharer = world.process(), world.process(prot="r")
    advertise(owner, sharer)
    owner.write(0, b"leak")
    assert sharer.read(0, 4) == b"leak"
    # Safe once its entry is read-only, even if the memory may be written again:
    owner.mprotect("r")
    owner.mprotect("rw")
    owner.write(0, b"safe")
    assert sharer.read(0, 4) == b"leak"


def test_a_sharer_that_writes_gets_a_copy(world: World) -> None:
    """(The document leaves out that) a sharer that writes gets a page of its own."""
    owner, sharer = world.process(), world.process()
    advertise(owner, sharer)
    before = world.counters()
    sharer.write(0, b"mine")
    assert owner.read(0, 4) == bytes(4)
    assert frames(owner)[1:] == frames(sharer)[1:]
    assert frames(owner)[0] != frames(sharer)[0]
    assert world.counters() == before


def test_pages_advertised_before(world: World) -> None:
    """A page is merged with an identical page that was advertised before, by any process."""
    mapped_only, first, second = world.process(), world.process("const:7"), world.process("const:7")
    advertise(first)  # three of its pages are merged with the first one
    assert world.counters() == (4, 3, 0, 1)
    advertise(second)
    assert world.counters() == (8, 7, 0, 1)
    assert len({*frames(first), *frames(second)}) == 1
    advertise(world.process())
    assert set(frames(mapped_only)).isdisjoint(frames(first))
    assert world.counters() == (12, 7, 0, 5)


@differs(
    "a page that is advertised again is merged with itself, and counted each time, though nothing "
    "is saved; and nothing is subtracted when merged pages go away"
)
def test_pages_merged(world: World) -> None:
    """`pages_merged` counts the pages that were merged."""
    region = world.process()
    advertise(region, region, region)
    assert world.counters() == (12, 8, 0, 4)
    assert len(set(frames(region))) == 4
    region.process.exit()
    assert world.read("pages_merged") == 8


# --- the end of a page ----------------------------------------------------------------------------


@differs(
    "the memory is freed, but the table keeps its entries for it: they are counted until a page "
    "with the same checksum comes by them, or DKSM is stopped"
)
def test_pages_are_reclaimed_with_the_last_process(world: World) -> None:
    """Pages are reclaimed when all processes that share them have ended."""
    regions = [world.process(), world.process()]
    advertise(*regions)
    regions[0].process.exit()
    assert regions[1].read(PAGE, 1) == b"\x01"  # whoever is left keeps the page
    regions[1].process.exit()
    assert world.counters() == (8, 4, 0, 4)
    advertise(world.process())  # finds the dead entries, and puts its own in their place
    assert world.counters() == (12, 4, 0, 4)


def test_unmergeable_does_nothing(world: World) -> None:
    """MADV_UNMERGEABLE has no effect."""
    first, second = world.process(), world.process()
    advertise(first, second)
    before = world.counters()
    second.madvise("unmergeable")
    assert frames(first) == frames(second)
    assert world.counters() == before


# --- starting and stopping ------------------------------------------------------------------------


def test_it_is_off_at_first() -> None:
    """DKSM is off until somebody turns it on."""
    with command_line() as line:
        started = line.mount()
        directory = Path(started["mountpoint"])
        values = {path.name: path.read_text() for path in directory.iterdir()}
        assert values == {
            "run": "0\n",
            "pages_scanned": "0\n",
            "pages_merged": "0\n",
            "merging_failed": "0\n",
            "hashtable_entries": "0\n",
            "hashtable_size": "4096\n",
        }
        line.succeed("umount")


def test_writing_one_turns_it_on(world: World) -> None:
    """Writing 1 to `run` turns DKSM on; before that, advertising does nothing, and is forgotten."""
    world.write("0")
    first, second = world.process(), world.process()
    advertise(first, second)
    assert world.counters() == (0, 0, 0, 0)
    world.write("1")
    assert world.read("run") == 1
    advertise(second)
    assert world.counters() == (4, 0, 0, 4)
    assert set(frames(first)).isdisjoint(frames(second))


def test_writing_zero_turns_it_off(world: World) -> None:
    """Writing 0 to `run` turns DKSM off."""
    world.write("0")
    assert world.read("run") == 0
    advertise(world.process(), world.process())
    assert world.counters() == (0, 0, 0, 0)


def test_stopping_forgets_what_was_advertised(world: World) -> None:
    """When DKSM is turned off the table is emptied, and its pages are not merged later either."""
    first, second = world.process(), world.process()
    advertise(first)
    world.write("0")
    assert world.read("hashtable_entries") == 0
    world.write("1")
    advertise(second)
    assert world.counters() == (4, 0, 0, 4)
    advertise(first)  # unless they are advertised again
    assert world.counters() == (8, 4, 0, 4)


def test_merged_pages_stay_merged(world: World) -> None:
    """Turning DKSM off leaves merged pages merged."""
    first, second = world.process(), world.process()
    advertise(first, second)
    world.write("0")
    assert frames(first) == frames(second)
    second.write(0, b"mine")  # and they part as they would otherwise
    assert frames(first)[0] != frames(second)[0]


# --- the other files ------------------------------------------------------------------------------


def test_the_other_files_are_read_only(world: World) -> None:
    """The five other files are read-only."""
    for path in (world.mm / "dksm").iterdir():
        if path.name != "run":
            assert path.stat().st_mode & 0o777 == 0o444
            with pytest.raises(PermissionError):
                path.write_text("0")


@differs("they become 0 when DKSM is stopped, so that a stopped DKSM shows zeros")
def test_counters_since_the_last_start(world: World) -> None:
    """The counters of pages scanned, merged and failed count since DKSM was last started."""
    advertise(world.process(), world.process())
    assert world.counters() == (8, 4, 0, 4)
    world.write("1")  # it runs already: no new start
    assert world.counters() == (8, 4, 0, 4)
    world.write("0")
    assert world.counters() == (0, 0, 0, 0)


@differs(
    "it counts those that came as far as a checksum: pages that are rejected before are only in "
    "`merging_failed`, and where a process has no page table yet, nothing is counted at all"
)
def test_pages_scanned(world: World) -> None:
    """`pages_scanned` counts the pages that were advertised."""
    process = world.machine.process("process")
    process.mmap(pages=1, fill="zero", at=1 << 30)
    absent = process.mmap(pages=7, at=(1 << 30) + PAGE)  # in the same 2 MiB: one page table
    far = process.mmap(pages=7, at=1 << 31)  # no page table
    advertise(absent, far)
    assert world.counters() == (0, 0, 7, 0)


@differs(
    "it counts attempts, and pages that are not even looked at: a page can fail several times in "
    "one call, while one that finds nothing to merge with has not failed"
)
def test_merging_failed(world: World) -> None:
    """`merging_failed` counts the pages that could not be merged."""
    owner, sharer = world.process(pages=1), world.process(pages=1)
    advertise(owner, sharer)
    failed = []
    for _ in range(3):
        advertise(sharer)  # a page that was merged by another process's page fails; see below
        failed.append(world.read("merging_failed"))
    assert failed == [1, 3, 6]


@differs(
    "it counts entries: a page that could not be merged gets one each time, and those of pages "
    "that changed or went away stay until they are looked up"
)
def test_hashtable_entries(world: World) -> None:
    """`hashtable_entries` counts the pages that are tracked."""
    region = world.process(pages=1)
    advertise(region)
    region.write(0, b"changed")
    advertise(region)
    assert world.read("hashtable_entries") == 2
    region.write(0, bytes(7))  # back to what it was: the old entry is good again
    advertise(world.process(pages=1))
    assert world.counters() == (3, 1, 0, 2)


def test_hashtable_size_limits_nothing(world: World) -> None:
    """`hashtable_size` is fixed, and no limit to the pages that can be tracked."""
    assert world.read("hashtable_size") == 4096
    advertise(world.process("seed:1", pages=20_000))
    assert world.read("hashtable_entries") == 20_000
    assert world.read("hashtable_size") == 4096


@differs(
    "only pages that are part of a huge page fail, however many of them are advertised: small "
    "regions, and what lies before and behind the aligned 2 MiB of a large one, are merged"
)
def test_huge_pages_must_be_off(world: World) -> None:
    """DKSM does not work unless transparent huge pages are turned off."""
    enabled = world.mm / "transparent_hugepage" / "enabled"
    world.write("always", "transparent_hugepage/enabled")
    assert enabled.read_text() == "[always] madvise never\n"
    small = world.process(pages=100)
    large = world.machine.process("large").mmap(pages=3 * HUGE, at=(1 << 30) + 100 * PAGE)
    large.fill("index:0")
    advertise(small, large)
    assert world.read("merging_failed") == 2 * HUGE
    assert world.read("pages_scanned") == 100 + HUGE
    world.write("never", "transparent_hugepage/enabled")
    advertise(large)  # what is huge stays huge
    assert world.read("merging_failed") >= 4 * HUGE
    advertise(world.process(pages=3 * HUGE))
    assert world.read("pages_scanned") >= 100 + 4 * HUGE


# --- how it works ---------------------------------------------------------------------------------


def test_candidates_are_compared_bit_by_bit(world: World) -> None:
    """Pages that the table suggests are compared bit by bit."""
    collision = [world.process(fill, pages=1) for fill in ("const:56775", "const:78957")]
    checksums = {
        page.partition("/")[2] for region in collision for page in region.contents() if page
    }
    assert len(checksums) == 1
    advertise(*collision)
    assert world.counters() == (2, 0, 0, 2)
    assert frames(collision[0]) != frames(collision[1])


@differs(
    "the kernel derives the entry to change from the page, not from the address that was "
    "advertised: a page that has been merged with another process's fails when advertised again, "
    "once for each equal page in the table"
)
def test_the_entry_of_the_caller_is_changed(world: World) -> None:
    """A page is merged by pointing the caller's page-table entry to the page advertised before."""
    owner, sharer = world.process(), world.process()
    advertise(owner, sharer)
    assert frames(owner) == frames(sharer)
    advertise(sharer)
    assert world.counters() == (12, 4, 4, 8)
    advertise(owner)  # its pages are where they were born
    assert world.read("merging_failed") == 4


def test_the_memory_of_the_caller_is_freed(world: World) -> None:
    """The memory that the caller's page had is freed where possible."""
    owner, sharer = world.process(pages=100), world.process(pages=100)
    advertise(owner, sharer)
    assert [sum(m.rss_kb for m in r.process.smaps()) for r in (owner, sharer)] == [400, 400]
    assert [sum(m.pss_kb for m in r.process.smaps()) for r in (owner, sharer)] == [200, 200]


@differs(
    "a page whose merge failed is added as well, though it may be there already; and a page that "
    "was rejected before it was looked at is not added"
)
def test_pages_that_are_not_merged_are_tracked(world: World) -> None:
    """A page that cannot be merged is added to the table, for later ones to be merged with."""
    first, second = world.process(), world.process()
    advertise(first)
    assert world.read("hashtable_entries") == 4
    advertise(second, second)
    assert world.read("hashtable_entries") == 8
    rejected = world.process("index:100")
    rejected.mprotect("none")
    advertise(rejected)
    assert world.counters() == (12, 4, 8, 8)


# --- the page of the docs -------------------------------------------------------------------------


def test_the_docs_list_the_differences() -> None:
    text = (REPOSITORY / "docs" / "dksm.md").read_text()
    section = text.partition("\n## Where the kernel differs from its document\n")[2]
    table = section.partition("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", table, re.MULTILINE)
    assert rows[2:] == DIFFERENCES
