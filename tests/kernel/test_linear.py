"""Columns of numbers that mostly count up by one, and free numbers, against plain lists."""

import itertools
from typing import Final

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dksmfs.kernel.memory.columns import LinearColumn
from dksmfs.kernel.memory.vacancies import Vacancies
from dksmfs.kernel.selection import compact, numbers
from dksmfs.kernel.units import Numbers

LENGTH: Final = 2048

ranges = st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)).map(
    lambda ends: range(min(ends), max(ends))
)
scattered = st.lists(st.integers(0, LENGTH - 1), unique=True, max_size=40).map(np.array)
values = st.integers(0, 1 << 62)


@given(st.lists(st.tuples(ranges | scattered, values, st.booleans()), max_size=12), ranges)
def test_a_column_is_a_list(writes: list[tuple[range | Numbers, int, bool]], asked: range) -> None:
    column, plain = LinearColumn(), [0] * LENGTH
    for block in range(0, LENGTH, 512):
        plain[block : block + 512] = range(512)
    column.grow(LENGTH)
    for members, first, linear in writes:
        count = len(members)
        new = range(first, first + count) if linear else first - np.arange(count) * 3
        column.set(members.astype(np.int64) if isinstance(members, np.ndarray) else members, new)
        for member, value in zip(numbers(members).tolist(), numbers(new).tolist(), strict=True):
            plain[int(member)] = value
    assert column.get(asked).tolist() == plain[asked.start : asked.stop]
    assert column.get(np.arange(LENGTH)).tolist() == plain
    first_of_line = column.first_of_line(asked)
    if first_of_line is not None:
        line = range(first_of_line, first_of_line + len(asked))
        assert plain[asked.start : asked.stop] == list(line)


@given(ranges, values, ranges)
def test_a_line_is_known_as_one(members: range, first: int, part: range) -> None:
    column = LinearColumn()
    column.grow(LENGTH)
    column.set(members, range(first, first + len(members)))
    inside = range(max(members.start, part.start), min(members.stop, part.stop))
    if len(inside):
        assert column.first_of_line(inside) == first + inside.start - members.start


@given(st.lists(st.integers(0, 50), max_size=20))
def test_compact_selections_have_the_same_members(members: list[int]) -> None:
    selection = compact(np.array(members, np.int64))
    assert numbers(selection).tolist() == members
    adjacent = all(high - low == 1 for low, high in itertools.pairwise(members))
    assert isinstance(selection, range) == (adjacent and bool(members))


@given(st.data())
def test_vacancies_give_back_what_they_got(data: st.DataObject) -> None:
    vacant, free = Vacancies(), set[int]()
    for _ in range(data.draw(st.integers(0, 12))):
        others = sorted(set(range(64)) - free)
        if data.draw(st.booleans()) and others:
            given_back = data.draw(st.lists(st.sampled_from(others), unique=True))
            vacant.add(np.array(given_back, np.int64))
            free |= set(given_back)
        else:
            taken = numbers(vacant.take(data.draw(st.integers(0, len(free))))).tolist()
            assert len(set(taken)) == len(taken)
            assert set(taken) <= free
            free -= set(taken)
        assert len(vacant) == len(free)
        assert sorted(vacant.all()) == sorted(free)
