"""Runs and page tables, against a plain dictionary of entries."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dksmfs.kernel.memory.entries import PageTable, Run
from dksmfs.kernel.memory.page_tables import PIECE_PAGES, PageTables
from dksmfs.kernel.selection import Selection, numbers
from dksmfs.kernel.units import HUGE_PAGES, Vpn

PAGES = 4 * HUGE_PAGES
NEAR = [0, 1, 7, 511, 512, 513, 600, 1023, 1024, 1030, 1500, 2047, 2048]

borders = (st.sampled_from(NEAR) | st.integers(0, PAGES)).map(Vpn)
ranges = st.tuples(borders, borders).map(lambda ends: (min(ends), max(ends)))
flags = st.sampled_from([1, 5, 31])
steps = st.sampled_from(["line", "one", "zigzag"])


def frames(kind: str, count: int) -> Selection:
    if kind == "line":
        return range(1000, 1000 + count)
    return np.full(count, 700) if kind == "one" else 1000 + np.arange(count) * 5 % 7


@given(st.data())
def test_page_tables_are_a_dictionary_of_entries(data: st.DataObject) -> None:
    tables, plain, areas = PageTables(), dict[int, tuple[int, int]](), set[int]()
    for _ in range(data.draw(st.integers(1, 10))):
        start, end = data.draw(ranges)
        action = data.draw(
            st.sampled_from(["store", "open", "drop", "bits", "join", "some", "clear", "move"])
        )
        covered = set(range(start // HUGE_PAGES, -(-end // HUGE_PAGES))) if start < end else set()
        if action == "store" and start < end:
            pfns = frames(data.draw(steps), end - start)
            bits = data.draw(flags)
            tables.store(start, pfns, bits)
            plain.update({start + i: (pfn, bits) for i, pfn in enumerate(numbers(pfns).tolist())})
            areas |= covered
        elif action == "some" and areas:
            chosen = [vpn for vpn in range(start, end, 3) if vpn // HUGE_PAGES in areas]
            tables.set_entries(np.array(chosen, np.int64), np.full(len(chosen), 900), 5)
            plain.update(dict.fromkeys(chosen, (900, 5)))
        elif action == "open":
            for area in covered:
                assert isinstance(tables.get(area), PageTable) == (area in areas)
        elif action == "drop":
            first, last = start // HUGE_PAGES, end // HUGE_PAGES
            tables.drop(first, last)
            areas -= set(range(first, last))
            plain = {vpn: entry for vpn, entry in plain.items() if vpn // HUGE_PAGES in areas}
        elif action == "clear":
            tables.clear(start, end)
            plain = {vpn: entry for vpn, entry in plain.items() if not start <= vpn < end}
        elif action == "move":
            first, last = Vpn(start // HUGE_PAGES * HUGE_PAGES), Vpn(end // HUGE_PAGES * HUGE_PAGES)
            tables.move(first, last, 2 * PAGES)
            assert not tables.look(first, last)
            tables.move(Vpn(first + 2 * PAGES), Vpn(last + 2 * PAGES), -2 * PAGES)
        elif action in ("bits", "join") and all(vpn in plain for vpn in range(start, end)):
            if action == "bits":
                tables.add_bits(start, end, 64)
                plain.update(
                    {vpn: (plain[vpn][0], plain[vpn][1] | 64) for vpn in range(start, end)}
                )
            elif start < end:
                tables.join(start, end)
        tables.check_invariants()
    start, end = data.draw(ranges)
    pfns, bits_there = tables.entries(start, end)
    expected = [plain.get(vpn, (0, 0)) for vpn in range(start, end)]
    assert list(zip(pfns.tolist(), bits_there.tolist(), strict=True)) == expected
    asked = np.array([-1, *range(0, PAGES, 37)])
    found = tables.entries_at(asked)
    assert found[0].tolist() == [plain.get(vpn, (0, 0))[0] for vpn in asked.tolist()]
    assert sum(part.resident for part in tables.look(start, end)) == sum(
        pfn >= HUGE_PAGES for pfn, _ in expected
    )
    assert {area for area in range(PAGES // HUGE_PAGES) if area in tables} == areas
    gaps = {vpn for low, high in tables.absent_areas(start, end) for vpn in range(low, high)}
    assert gaps == {vpn for vpn in range(start, end) if vpn // HUGE_PAGES not in areas}
    pieces = list(tables.pieces(start, end))
    assert [vpn for low, high in pieces for vpn in range(low, high) if vpn in plain] == [
        vpn for vpn in range(start, end) if vpn in plain
    ]
    assert all(low < high <= after for (low, high), (after, _) in pairwise([*pieces, (end, end)]))
    stretches = tables.stretches(start, end, 2 * HUGE_PAGES)
    assert all(0 < high - low <= 2 * HUGE_PAGES for low, high in stretches)
    assert {vpn for low, high in stretches for vpn in range(low, high)} == {
        vpn for vpn in range(start, end) if vpn // HUGE_PAGES in areas
    }


def test_pieces_of_a_long_run_end_where_areas_do() -> None:
    tables = PageTables()
    tables.store(Vpn(7), range(1000, 1_000_000), 31)
    pieces = list(tables.pieces(Vpn(0), Vpn(1 << 20)))
    assert pieces[0][0] == 7
    assert pieces[-1][1] == 7 + 999_000
    assert all(end == start and end % HUGE_PAGES == 0 for (_, end), (start, _) in pairwise(pieces))
    assert all(end - start <= PIECE_PAGES for start, end in pieces)


def test_a_region_of_any_size_is_one_run() -> None:
    tables = PageTables()
    tables.store(Vpn(7), range(1000, 1_000_000), 31)
    (run,) = tables.everything()
    assert isinstance(run, Run)
    assert (run.start, run.pages, run.step) == (7, 999_000, 1)


def test_what_joins_is_a_run_again() -> None:
    tables = PageTables()
    tables.store(Vpn(7), range(1000, 4000), 31)
    tables.get(1)
    assert len(tables.everything()) == 3
    tables.join(Vpn(7), Vpn(3007))
    (run,) = tables.everything()
    assert isinstance(run, Run)


@pytest.mark.parametrize("page", [6, 3007])
def test_what_shares_an_area_with_another_entry_does_not_join(page: int) -> None:
    tables = PageTables()
    tables.store(Vpn(7), range(1000, 4000), 31)
    for area in range(6):
        tables.get(area)
    tables.store(Vpn(page), np.array([900]), 5)
    tables.join(Vpn(7), Vpn(3007))
    assert not any(isinstance(part, Run) for part in tables.everything())
