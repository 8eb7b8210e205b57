"""The table of page descriptors against a list of them."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from dksmfs.kernel.dksm.table import NO_SLOT, Hashtable
from dksmfs.kernel.memory.version import Version
from tests.kernel.conftest import programs_profile

GOLDEN_RATIO_32 = 0x61C88647
INVERSE = pow(GOLDEN_RATIO_32, -1, 1 << 32)


def checksum_of(key: int) -> int:
    """The checksum whose hash_32() with 32 bits is `key`."""
    return key * INVERSE % (1 << 32)


# Few checksums, most of which share a bucket, or share one until there are more buckets; and those
# whose keys differ in the highest bit only.
KEYS = (*range(4), 1 << 31, 1 << 31 | 1, 1 << 19, 1 << 18, 1 << 17, 0xFFFFFFFF, 0x7FFFFFFF)
CHECKSUMS = tuple(map(checksum_of, KEYS))

checksums = st.sampled_from(CHECKSUMS)
pfns = st.integers(1, 4)


def together(batch: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same descriptors; those with one checksum follow each other."""
    order = [checksum for checksum, _ in batch]
    return sorted(batch, key=lambda one: order.index(one[0]))


batches = st.lists(st.tuples(checksums, pfns), max_size=12).map(together)

Walk = list[tuple[int, int]]  # frame and count, newest first


class Chains:
    """What the table does, said simply."""

    def __init__(self) -> None:
        self.chains: dict[int, Walk] = {}
        self.size = 0

    def add(self, checksum: int, pfn: int) -> bool:
        self.size += 1
        chain = self.chains.setdefault(checksum, [])
        if chain and chain[0][0] == pfn:
            chain[0] = (pfn, chain[0][1] + 1)
            return False
        chain.insert(0, (pfn, 1))
        return True

    def chain(self, checksum: int) -> Walk:
        return self.chains.get(checksum, [])

    def remove(self, checksum: int, nth: int) -> None:
        """Drop the descriptor that is the `nth` in its chain."""
        self.size -= self.chains[checksum].pop(nth)[1]


def added(table: Hashtable, batch: list[tuple[int, int]]) -> list[bool]:
    new = table.add(
        np.array([checksum for checksum, _ in batch], np.uint32),
        np.array([pfn for _, pfn in batch], np.int64),
    )
    assert new.dtype == np.bool_
    return list(map(bool, new))


def walk(table: Hashtable, checksums: tuple[int, ...]) -> list[Walk]:
    """The chains of checksums, found for all at once, whether they are few or many."""
    few = _walk(table, checksums)
    with patch("dksmfs.kernel.dksm.table._FEW_CHAINS", 0):
        many = _walk(table, checksums)
    with patch("dksmfs.kernel.dksm.table._SCANNED_SLOTS", 1 << 40):
        assert _walk(table, checksums) == few == many
    return few


def _walk(table: Hashtable, checksums: tuple[int, ...]) -> list[Walk]:
    walks: list[Walk] = [[] for _ in checksums]
    every = np.zeros(len(checksums), np.int64)
    slots, which = table.chains(np.array(checksums, np.uint32), every)
    rows = zip(
        which.tolist(), table.pfns(slots).tolist(), table.counts(slots).tolist(), strict=True
    )
    for one, pfn, count in rows:
        walks[one].append((pfn, count))
    assert (np.diff(which) >= 0).all()
    assert (np.diff(slots)[np.diff(which) == 0] < 0).all(), "an older slot has a lower number"
    if len(slots):
        oldest = np.full(len(checksums), slots[len(slots) // 2])
        newer = slots >= oldest[0]
        some, of = table.chains(np.array(checksums, np.uint32), oldest)
        assert (some.tolist(), of.tolist()) == (slots[newer].tolist(), which[newer].tolist())
    return walks


class Tables(RuleBasedStateMachine):
    """The table and the list, and what is done to both."""

    def __init__(self) -> None:
        super().__init__()
        self.now = Version()
        self.table = Hashtable(self.now)
        self.model = Chains()
        self.version = self.now.number
        self.highest = 4

    @initialize(room=st.integers(0, 40))
    def nearly_full(self, room: int) -> None:
        """Little room is left, so that the table soon is laid out anew."""
        self.add_many(len(self.table._pfn) - room, 1)

    @rule(batch=batches)
    def add(self, batch: list[tuple[int, int]]) -> None:
        assert added(self.table, batch) == [self.model.add(*one) for one in batch]
        self.changes()

    @rule(batch=batches)
    def add_sorted(self, batch: list[tuple[int, int]]) -> None:
        self.add(sorted(batch, key=lambda one: one[0]))

    @rule(checksum=checksums, pfn=pfns)
    def add_one(self, checksum: int, pfn: int) -> None:
        self.add([(checksum, pfn)])

    @rule(count=st.sampled_from([1, 30, 5000]), step=st.sampled_from([1, 1 << 10]))
    def add_many(self, count: int, step: int) -> None:
        """Fresh frames; descriptors that nothing else is done to."""
        pfns = range(self.highest + 1, self.highest + 1 + count)
        self.highest += count
        self.add([((pfn * step + 7) % (1 << 32), pfn) for pfn in pfns])

    @rule(checksum=checksums, which=st.integers(0, 9))
    def remove(self, checksum: int, which: int) -> None:
        chain = self.table.chain(checksum)
        if chain:
            self.table.remove(np.array([chain[which % len(chain)][0]]))
            self.model.remove(checksum, which % len(chain))
            self.changes()

    @rule(share=st.sampled_from([1, 2, 50]))
    def remove_many(self, share: int) -> None:
        """Drop one of `share` of the chains, whole."""
        for checksum in list(self.model.chains)[::share]:
            for slot, _, _ in self.table.chain(checksum):
                self.table.remove(np.array([slot]))
                self.model.remove(checksum, 0)
        self.version = self.now.number

    def changes(self) -> None:
        assert self.now.number > self.version
        self.version = self.now.number

    @invariant()
    def as_many(self) -> None:
        assert len(self.table) == self.model.size

    @invariant()
    def chains(self) -> None:
        expected = [self.model.chain(checksum) for checksum in CHECKSUMS]
        assert walk(self.table, CHECKSUMS) == expected
        chains = [self.table.chain(checksum) for checksum in CHECKSUMS]
        assert [[(pfn, count) for _, pfn, count in chain] for chain in chains] == expected
        newest = [chain[0][0] if chain else NO_SLOT for chain in chains]
        assert self.table.newest(np.array(CHECKSUMS, np.uint32)).tolist() == newest

    @invariant()
    def buckets(self) -> None:
        assert len(self.table._heads) <= max(4096, 2 * len(self.table._pfn))
        assert len(self.table._heads) >= self.table._live

    def teardown(self) -> None:
        frames = []
        for checksum, chain in self.model.chains.items():
            assert [(pfn, count) for _, pfn, count in self.table.chain(checksum)] == chain
            frames += [pfn for pfn, _ in chain]
        assert sorted(self.table.frames().tolist()) == sorted(frames)


def test_random_programs() -> None:
    run_state_machine_as_test(
        Tables, settings=settings(programs_profile(), max_examples=60, stateful_step_count=20)
    )


@given(st.lists(st.tuples(checksums, pfns), max_size=200).map(together))
def test_one_call_is_as_many(batch: list[tuple[int, int]]) -> None:
    at_once, apart = Hashtable(Version()), Hashtable(Version())
    assert added(at_once, batch) == [added(apart, [one])[0] for one in batch]
    assert walk(at_once, CHECKSUMS) == walk(apart, CHECKSUMS)
    assert len(at_once) == len(batch)


def test_an_empty_table() -> None:
    table = Hashtable(Version())
    nothing = np.empty(0, np.uint32)
    assert not len(table)
    assert table.newest(np.array([0, 1, 0xFFFFFFFF], np.uint32)).tolist() == [NO_SLOT] * 3
    assert table.chain(0) == []
    assert table.add(nothing, np.empty(0, np.int64)).tolist() == []
    assert table.newest(nothing).tolist() == []
    assert [found.tolist() for found in table.chains(nothing, np.empty(0, np.int64))] == [[], []]
    assert table.frames().tolist() == []


def test_a_slot_is_removed_with_all_its_repetitions() -> None:
    table = Hashtable(Version())
    assert added(table, [(5, 1), (5, 1), (5, 2), (5, 2), (5, 2), (6, 2)]) == [
        *(True, False, True, False, False, True),
    ]
    (newer, _, count), (older, _, _) = table.chain(5)
    assert count == 3
    table.remove(np.array([newer]))
    assert len(table) == 3
    assert table.chain(5) == [(older, 1, 2)]
    assert added(table, [(5, 1)]) == [False]
    with pytest.raises(AssertionError, match="twice"):
        table.remove(np.array([newer]))


@pytest.mark.parametrize("order", ["ascending", "shuffled"])
def test_a_large_table(order: str) -> None:
    """A quarter of a million descriptors and as many repetitions, with removals in between."""
    random = np.random.default_rng(1)
    table = Hashtable(Version())
    kept: dict[int, int] = {}  # frames by checksum
    for first in range(1, 1 << 18, 1 << 14):
        checksums = np.unique(random.integers(0, 1 << 32, 1 << 14, np.uint32))
        if order == "shuffled":
            random.shuffle(checksums)
        pfns = np.arange(first, first + len(checksums))
        fresh = [checksum not in kept for checksum in checksums.tolist()]
        checksums, pfns = checksums[fresh], pfns[fresh]
        assert table.add(checksums, pfns).all()
        assert not table.add(checksums, pfns).any()
        for slot in table.newest(checksums[::3]).tolist():
            table.remove(np.array([slot]))
        left = np.arange(len(checksums)) % 3 != 0
        kept |= dict(zip(checksums[left].tolist(), pfns[left].tolist(), strict=True))
    every = np.array(list(kept), np.uint32)
    slots = table.newest(every)
    assert table.pfns(slots).tolist() == list(kept.values())
    assert (table.counts(slots) == 2).all()
    assert (table.chains(every, np.zeros(len(every), np.int64))[0] == slots).all()
    assert len(table) == 2 * len(kept)
    assert len(kept) <= len(table._heads) < 4 * len(kept)


def test_many_frames_of_one_checksum() -> None:
    table = Hashtable(Version())
    count = 100_000
    assert table.add(np.full(count, 5, np.uint32), np.arange(1, count + 1)).all()
    assert table.add(np.array([5], np.uint32), np.array([1])).all()
    assert [pfn for _, pfn, _ in table.chain(5)] == [1, *range(count, 0, -1)]
    slots, which = table.chains(np.array([6, 5], np.uint32), np.zeros(2, np.int64))
    assert table.pfns(slots).tolist() == [1, *range(count, 0, -1)]
    assert (which == 1).all()
    assert table.chain(6) == []


@pytest.mark.parametrize("first", [[(5, 9)], [(4, 8), (5, 9)]], ids=["one", "many"])
def test_what_was_added_alone_or_with_others_is_repeated_later(
    first: list[tuple[int, int]],
) -> None:
    table = Hashtable(Version())
    added(table, first)
    assert added(table, [(5, 9), (6, 9)]) == [False, True]
    assert [(pfn, count) for _, pfn, count in table.chain(5)] == [(9, 2)]


def test_a_table_that_is_laid_out_anew_keeps_its_length_and_may_be_left_alone() -> None:
    table = Hashtable(Version())
    checksums = np.arange(300_000, dtype=np.uint32)
    table.add(checksums, checksums.astype(np.int64) + 1)
    room = len(table._pfn) - table._used
    laying_out = table.reserve(room + 1)
    next(laying_out)
    assert len(table) == 300_000
    laying_out.close()
    assert table.pfns(table.newest(checksums)).tolist() == list(range(1, 300_001))
