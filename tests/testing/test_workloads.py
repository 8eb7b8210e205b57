"""The ready-made workloads do what their descriptions say, each time."""

from pathlib import Path

import pytest

from dksmfs.testing import Dksm, workloads


def values(dksm: Dksm) -> dict[str, int]:
    return {path.name: int(path.read_text()) for path in Path(dksm.path).iterdir()}


def test_identical_virtual_machines(dksm: Dksm) -> None:
    started = workloads.identical_virtual_machines(dksm, 8, pages=1024, merged=0.6)
    assert [process.name for process in started] == [f"vm-{n}" for n in range(1, 9)]
    assert values(dksm) == {
        "run": 1,
        "pages_scanned": 8192,
        "pages_merged": 4914,
        "merging_failed": 0,
        "hashtable_entries": 8192 - 4914,
        "hashtable_size": 4096,
    }
    with pytest.raises(ValueError, match=r"of 8 virtual machines 0\.875 can be merged"):
        workloads.identical_virtual_machines(dksm, 8, merged=0.9)


def test_forked_workers(dksm: Dksm) -> None:
    server, *workers = workloads.forked_workers(dksm, 4, pages=100, written=0.25)
    assert (server.name, len(workers)) == ("server", 4)
    shared = [region.pagemap() for worker in workers for region in worker.regions]
    own = server.regions[0].pagemap()
    assert all(pages[25:] == own[25:] for pages in shared)
    assert all(set(pages[:25]).isdisjoint(own) for pages in shared)


def test_unique_memory(dksm: Dksm) -> None:
    workloads.unique_memory(dksm, 3, pages=50)
    assert values(dksm)["pages_merged"] == 0
    assert values(dksm)["hashtable_entries"] == 150


def test_zero_pages(dksm: Dksm) -> None:
    workloads.zero_pages(dksm, 3, pages=50)
    assert values(dksm)["pages_merged"] == 149


def test_a_fleet_that_churns_the_same_way_each_time(dksm: Dksm) -> None:
    def life() -> list[tuple[list[str], dict[str, int]]]:
        dksm.reset()
        fleets = workloads.churning_fleet(dksm, 4, pages=20, generations=10)
        return [([process.name for process in fleet], values(dksm)) for fleet in fleets]

    first = life()
    assert len(first) == 10
    assert first[-1][0] == ["vm-11", "vm-12", "vm-13", "vm-14"]
    assert first == life()
