"""The table of page descriptors, against plain lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dksmfs.kernel.hashtable import NO_SLOT, Hashtable

# The second is in the first one's bucket (of 4096), the last two are elsewhere.
CHECKSUMS = [7, 7 + (1 << 31), 8, 0xFFFFFFFF]

descriptors = st.lists(st.tuples(st.sampled_from(CHECKSUMS), st.integers(512, 515)), max_size=8)


@given(st.lists(descriptors | st.integers(0, 100), max_size=10))
def test_chains_are_lists_that_grow_at_the_head(
    actions: list[list[tuple[int, int]] | int],
) -> None:
    table, plain = Hashtable(), dict[int, list[int]]()
    for action in actions:
        version = table.version
        if isinstance(action, list):
            batch = sorted(action, key=lambda one: one[0])
            slots_before = len(table.frames())
            new = table.add(
                np.array([checksum for checksum, _ in batch], np.uint32),
                np.array([pfn for _, pfn in batch], np.int64),
            )
            assert len(table.frames()) == slots_before + np.count_nonzero(new)
            for checksum, pfn in batch:
                plain.setdefault(checksum, []).insert(0, pfn)
        else:
            chain = table.chain(CHECKSUMS[action % 4])
            if not chain:
                continue
            before = sum(count for _, _, count in chain[: action % len(chain)])
            slot, _, count = chain[action % len(chain)]
            table.remove(slot)
            del plain[CHECKSUMS[action % 4]][before : before + count]
        assert table.version > version
        check(table, plain)


def check(table: Hashtable, plain: dict[int, list[int]]) -> None:
    assert len(table) == sum(map(len, plain.values()))
    for checksum in CHECKSUMS:
        chain = [pfn for _, pfn, count in table.chain(checksum) for _ in range(count)]
        assert chain == plain.get(checksum, [])
    slots = table.newest(np.array(CHECKSUMS, np.uint32))
    chains: list[list[int]] = [[] for _ in CHECKSUMS]
    while (slots != NO_SLOT).any():
        there = np.flatnonzero(slots != NO_SLOT)
        pfns, counts = table.pfns(slots[there]).tolist(), table.counts(slots[there]).tolist()
        for at, pfn, count in zip(there.tolist(), pfns, counts, strict=True):
            chains[at] += [pfn] * count
        slots[there] = table.older(slots[there])
    assert chains == [plain.get(checksum, []) for checksum in CHECKSUMS]


def test_a_table_that_grows_keeps_its_chains() -> None:
    table = Hashtable()
    checksums = np.arange(50_000, dtype=np.uint32) * np.uint32(3)
    for part in np.array_split(checksums, 7):
        table.add(part, part.astype(np.int64) + 512)
    table.add(checksums[:10], np.full(10, 700))
    table.add(checksums[:10], np.full(10, 700))
    slots = table.newest(checksums[:11])
    assert table.pfns(slots).tolist() == [*[700] * 10, 512 + 30]
    assert table.counts(slots).tolist() == [*[2] * 10, 1]
    assert table.pfns(table.older(slots[:10])).tolist() == [512 + 3 * i for i in range(10)]
    assert len(table) == 50_020
