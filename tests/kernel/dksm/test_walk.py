"""The walk over several mappings."""

from dksmfs.kernel.dksm.walk import Stretch, Walk
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.units import PAGE_SIZE
from tests.kernel.conftest import AT

LOW = AT // PAGE_SIZE


def _walk(machine: Machine, pid: int) -> Walk:
    """Over mappings of 10, 20 and 30 pages that follow each other."""
    at = AT
    for pages, prot in ((10, "rw"), (20, "rwx"), (30, "rw")):
        machine.mmap(pid, pages * PAGE_SIZE, address=at, prot=prot)
        machine.write(pid, at, b"x")
        at += pages * PAGE_SIZE
    walk = Walk(machine.address_space(pid))
    for vma in machine.address_space(pid).vmas:
        walk.add(vma, vma.start, vma.end)
    return walk


def _limits(stretches: list[Stretch]) -> list[tuple[int, int]]:
    return [(stretch.low - LOW, stretch.high - LOW) for stretch in stretches]


def test_pages_are_taken_across_mappings(machine: Machine, pid: int) -> None:
    walk = _walk(machine, pid)
    assert walk.pages == 60
    assert _limits(walk.next(5)) == [(0, 5)]
    assert _limits(walk.next(10)) == [(0, 10)]
    assert _limits(walk.next(40)) == [(0, 10), (10, 30), (30, 40)]
    assert _limits(walk.next(100)) == [(0, 10), (10, 30), (30, 60)]


def test_pages_are_left_behind_across_mappings(machine: Machine, pid: int) -> None:
    walk = _walk(machine, pid)
    walk.go_on(15)
    assert (walk.pages, _limits([walk.first])) == (45, [(15, 30)])
    walk.go_on(15)
    assert (walk.pages, _limits(walk.next(100))) == (30, [(30, 60)])
    walk.go_on(30)
    assert (walk.pages, walk.next(1)) == (0, [])
