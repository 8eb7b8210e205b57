"""The madvise calls of real programs, and what the engine makes of them."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine
from tests.host.running import run_python

pytestmark = pytest.mark.mounted

SCRIPT = """
"$0" "$@" || exit
cd /sys/kernel/mm/dksm
cat pages_scanned pages_merged merging_failed hashtable_entries
"""


def counters(dksmfs: CommandLine, thp: str, program: Path, *arguments: str) -> list[int]:
    options = ("run", "--on", "--thp", thp, "--")
    said = dksmfs.succeed(*options, "sh", "-c", SCRIPT, program, *arguments)
    return [int(line) for line in said.split()]


@pytest.mark.parametrize(
    ("thp", "processes", "pages", "fill", "expected"),
    [
        ("never", 1, 100, "different", [100, 0, 0, 100]),
        ("never", 1, 100, "same", [100, 99, 0, 1]),
        ("never", 4, 100, "different", [400, 300, 0, 100]),
        ("never", 4, 600, "same", [2400, 2399, 0, 1]),
        ("never", 40, 50, "different", [2000, 1950, 0, 50]),
        ("always", 4, 600, "different", [1888, 1288, 512, 600]),
        ("always", 4, 1024, "different", [1536, 1022, 2560, 514]),
        ("always", 2, 5000, "same", [1296, 1295, 8704, 1]),
    ],
)
def test_children_that_overlap(
    dksmfs: CommandLine,
    advertise: Path,
    thp: str,
    processes: int,
    pages: int,
    fill: str,
    expected: list[int],
) -> None:
    """The counters that the real kernel gives when all children live at the same time."""
    arguments = (str(processes), str(pages), fill, "together")
    assert counters(dksmfs, thp, advertise, *arguments) == expected


@pytest.mark.parametrize("fill", ["same", "different"])
def test_children_that_come_and_go(dksmfs: CommandLine, advertise: Path, fill: str) -> None:
    scanned, merged, failed, entries = counters(dksmfs, "never", advertise, "8", "200", fill)
    assert (scanned, failed) == (1600, 0)
    assert entries == (1 if fill == "same" else 200)
    lowest, highest = (1592, 1599) if fill == "same" else (0, 1400)
    assert lowest <= merged <= highest


def test_errors_are_those_of_the_kernel(dksmfs: CommandLine) -> None:
    program = """
a = area(4)
start = address(a)
for call in [(start + 1, 4096), (start, 0), (start, 2**64 - 1), (start, 1), (start, 4 * 4096)]:
    print(json.dumps([madvise(*call, advice) for advice in (12, 13)]))
libc.munmap(ctypes.c_size_t(start + 4096), ctypes.c_size_t(4096))
before = counters()
print(json.dumps([madvise(start, 4 * 4096), counters()[0] - before[0]]))
print(json.dumps(libc.prctl(67, 1, 0, 0, 0)))
os._exit(0)
"""
    said = run_python(dksmfs, program)
    assert said[:5] == [["EINVAL"] * 2, [0, 0], ["EINVAL"] * 2, [0, 0], [0, 0]]
    assert said[5] == ["ENOMEM", 3]
    assert said[6] == -1


def test_while_stopped_nothing_is_remembered(dksmfs: CommandLine) -> None:
    program = """
def switch(value):
    with open("/sys/kernel/mm/dksm/run", "w") as file:
        file.write(value)
a = area(5)
switch("0")
print(json.dumps([madvise(address(a), 5 * 4096), madvise(address(a) + 1, 4096), counters()]))
switch("1")
print(json.dumps([madvise(address(a), 5 * 4096), counters()]))
"""
    assert run_python(dksmfs, program) == [[0, "EINVAL", [0, 0, 0, 0]], [0, [5, 0, 0, 5]]]


def test_only_present_anonymous_pages_count(dksmfs: CommandLine) -> None:
    program = """
a = mmap.mmap(-1, 8 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
a[0:4] = b"page"           # written
a[4096 * 2]                # read: the zero page
file = mmap.mmap(os.open(sys.executable, os.O_RDONLY), 4 * 4096, flags=mmap.MAP_PRIVATE,
                 prot=mmap.PROT_READ | mmap.PROT_WRITE)
file[0]
file[4096:4100] = b"copy"  # anonymous from now on
for one, pages in ((a, 8), (file, 4)):
    before = counters()
    assert madvise(address(one), pages * 4096) == 0
    print(json.dumps([now - old for now, old in zip(counters(), before)]))
"""
    assert run_python(dksmfs, program) == [[1, 0, 7, 1], [1, 0, 3, 1]]


# Life and death


def test_advertising_again_merges_a_page_with_itself(dksmfs: CommandLine) -> None:
    program = """
a = area(10)
for _ in range(2):
    madvise(address(a), 10 * 4096)
    print(json.dumps(counters()))
"""
    assert run_python(dksmfs, program) == [[10, 0, 0, 10], [20, 10, 0, 10]]


def test_a_page_that_its_owner_changed_is_found_changed(dksmfs: CommandLine) -> None:
    program = """
a, b = area(10), area(10)
madvise(address(a), 10 * 4096)
a[0:4] = b"diff"
madvise(address(b), 10 * 4096)
print(json.dumps(counters()))
"""
    assert run_python(dksmfs, program) == [[20, 9, 0, 10]]


@pytest.mark.parametrize(
    "way", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.execvp('true', ['true'])"]
)
def test_pages_of_what_has_ended_are_free(dksmfs: CommandLine, way: str) -> None:
    program = f"""
child = os.fork()
if child == 0:
    a = area(10)
    madvise(address(a), 10 * 4096)
    {way}
os.waitpid(child, 0)
print(json.dumps(counters()))
b = area(10)
madvise(address(b), 10 * 4096)
print(json.dumps(counters()))
"""
    assert run_python(dksmfs, program) == [[10, 0, 0, 10], [20, 0, 0, 10]]


def test_a_parent_inherits_nothing_of_its_child(dksmfs: CommandLine) -> None:
    """Its pages may come to lie in frames that the child has just given back."""
    program = """
child = os.fork()
if child == 0:
    a = area(2000)
    madvise(address(a), 2000 * 4096)
    os._exit(0)
os.waitpid(child, 0)
b = area(2000)
madvise(address(b), 2000 * 4096)
print(json.dumps(counters()))
"""
    assert run_python(dksmfs, program) == [[4000, 0, 0, 2000]]


def test_unmapped_pages_are_free(dksmfs: CommandLine) -> None:
    program = """
a = area(10)
madvise(address(a), 10 * 4096)
libc.munmap(ctypes.c_size_t(address(a)), ctypes.c_size_t(10 * 4096))
in_child(lambda: advertise(area(10)))
print(json.dumps(counters()))
os._exit(0)
"""
    assert run_python(dksmfs, program) == [[20, 0, 0, 10]]


@pytest.mark.skipif(os.geteuid() != 0, reason="frames are shown to root only")
def test_a_region_that_was_mapped_again_has_new_pages(dksmfs: CommandLine) -> None:
    program = """
libc.mmap.restype = ctypes.c_size_t
libc.mmap.argtypes = [ctypes.c_size_t] * 2 + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_size_t] * 2
for _ in range(2):
    start = libc.mmap(0x600000000000, 100 * 4096, 3, 0x32, -1, 0)
    for i in range(100):
        ctypes.memmove(start + i * 4096, b"page %2d" % i, 7)
    madvise(start, 100 * 4096)
    libc.munmap(start, 100 * 4096)
print(json.dumps(counters()))
"""
    ((scanned, merged, failed, entries),) = run_python(dksmfs, program)
    assert (scanned, failed, entries) == (200, 0, 100)
    assert merged < 50  # some may come back to their frames, as on the real kernel


def test_shared_frames_outlive_their_owner(dksmfs: CommandLine) -> None:
    program = """
tell, go = os.pipe(), os.pipe()
a = area(10)
owner = os.fork()
if owner == 0:
    os.close(go[1])
    b = area(10, lambda i: b"other %d" % i)
    madvise(address(b), 10 * 4096)
    os.write(tell[1], b".")
    os.read(go[0], 1)
    os._exit(0)
os.read(tell[0], 1)
b = area(10, lambda i: b"other %d" % i)
madvise(address(b), 10 * 4096)      # merged with those of the owner
os.close(go[1])
os.waitpid(owner, 0)
in_child(lambda: advertise(area(10, lambda i: b"other %d" % i)))
print(json.dumps(counters()))
"""
    assert run_python(dksmfs, program) == [[30, 20, 0, 10]]


def test_a_fork_shares_frames(dksmfs: CommandLine) -> None:
    program = """
a = area(10)
madvise(address(a), 10 * 4096)
in_child(lambda: madvise(address(a), 10 * 4096))    # each merges with itself: the same family
print(json.dumps(counters()))
"""
    assert run_python(dksmfs, program) == [[20, 10, 0, 10]]


def test_a_forked_child_keeps_the_frames(dksmfs: CommandLine) -> None:
    """A daemon that forks, and whose parent exits, goes on holding what was tracked."""
    program = """
tell, go = os.pipe(), os.pipe()
parent = os.fork()
if parent == 0:
    a = area(10, lambda i: b"kept %d" % i)
    madvise(address(a), 10 * 4096)
    if os.fork() == 0:
        os.close(go[1])
        os.read(go[0], 1)
    os._exit(0)
os.waitpid(parent, 0)
b = area(10, lambda i: b"kept %d" % i)
madvise(address(b), 10 * 4096)
os.close(go[1])
print(json.dumps(counters()))
"""
    assert run_python(dksmfs, program) == [[20, 10, 0, 10]]


# The report


def test_report(dksmfs: CommandLine, advertise: Path) -> None:
    done = dksmfs(
        "run", "--on", "--thp", "never", "--report", "--", advertise, "3", "10", "same", "together"
    )
    assert done.returncode == 0
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].split()[:3] == ["pid", "program", "calls"]
    assert ["total", "3", "30", "30", "29", "0", "116"] in [line.split() for line in lines]
    assert "memory was not merged" in done.stderr


def test_report_as_json(dksmfs: CommandLine, advertise: Path) -> None:
    place = dksmfs.directory / "report.json"
    dksmfs.succeed(
        *("run", "--on", "--thp", "never", "--json", "-o", place, "--"),
        *(advertise, "2", "10", "different", "together"),
    )
    report = json.loads(place.read_text())
    rows = report["processes"]
    assert [row["name"] for row in rows] == ["advertise", "advertise"]
    assert [row["merged"] for row in rows] == [0, 10]
    assert report["totals"] == {
        "calls": 2,
        "pages": 20,
        "scanned": 20,
        "merged": 10,
        "failed": 0,
        "saved": 10,
        "saved_bytes": 40960,
    }
    assert report["stats"]["pages_scanned"] == 20
    assert report["supervisor_seconds"] > 0


def test_report_of_a_program_that_advertised_nothing(dksmfs: CommandLine) -> None:
    done = dksmfs("run", "--report", "--", "true")
    assert done.stderr == "no program advertised memory with madvise(MADV_MERGEABLE)\n"
