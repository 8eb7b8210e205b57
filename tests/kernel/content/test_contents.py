"""Contents, many pages at once, against what is true of each page by itself."""

import gc
import mmap
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from dksmfs.kernel.content.comparison import equal_pages
from dksmfs.kernel.content.content import Content
from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.content.formulas import hashes_by_first_word, hashes_by_last_words
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.content.xxh64 import hash_rows
from dksmfs.kernel.pausing import finished
from dksmfs.kernel.units import PAGE_SIZE

MASK = (1 << 64) - 1
TAIL = b"tail"
DESCRIBED = ("zero", "const:7", "index:0xfffffffffffffff0", "pattern:5", "seed:9")

words = st.integers(0, MASK)
word_lists = st.lists(words, min_size=1, max_size=20)
descriptions = st.one_of(
    st.just("zero"),
    st.builds("{}:{}".format, st.sampled_from(["const", "index", "pattern", "seed"]), words),
)


def splitmix64(state: int) -> Iterator[int]:
    while True:
        state = state + 0x9E3779B97F4A7C15 & MASK
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        yield z ^ z >> 31


def little(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)


def page_of(text: str, index: int) -> bytes:
    """Page `index` of a described content, by its definition."""
    kind, _, number = text.partition(":")
    value = int(number or "0", 0)
    if kind == "pattern":
        outputs = splitmix64(value + index & MASK)
        return little(*(next(outputs) for _ in range(512)))
    if kind == "seed":
        return bytes(4080) + little(value, index)
    first = value + index & MASK if kind == "index" else value
    return little(first) + bytes(4088)


def page_hash(page: bytes) -> int:
    return xxh64_intdigest(page)


def arrays(*lists: list[int]) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    return [np.array(numbers, np.int64) for numbers in lists]


# --- described pages ------------------------------------------------------------------------------


@given(descriptions, st.lists(st.integers(0, (1 << 32) - 1), max_size=5))
def test_described_pages_are_as_defined(text: str, indices: list[int]) -> None:
    content = parse_content(text)
    pages = [page_of(text, index) for index in indices]
    assert [row.tobytes() for row in content.rows(np.array(indices, np.int64))] == pages
    hashes = list(map(page_hash, pages))
    assert content.hashes(np.array(indices, np.int64)).tolist() == hashes
    assert content.computed_hashes(np.array(indices, np.int64)).tolist() == hashes


@pytest.mark.parametrize("text", DESCRIBED)
@pytest.mark.parametrize("count", [1, 64, 65, 127, 128, 1023, 1024, 1025, 8193])
def test_however_many_are_hashed_at_once(text: str, count: int) -> None:
    content = parse_content(text)
    hashes = content.computed_hashes(np.arange(count))
    assert len(hashes) == count
    some = [*range(0, count, 251), count - 1]
    assert hashes[some].tolist() == [page_hash(page_of(text, index)) for index in some]


@pytest.mark.parametrize("text", DESCRIBED)
def test_pages_in_any_order(text: str) -> None:
    content = parse_content(text)
    order = np.random.default_rng(1).permutation(1500)
    assert (content.computed_hashes(order) == content.hashes(np.arange(1500))[order]).all()
    assert content.rows(order[:200])[199].tobytes() == page_of(text, int(order[199]))


@given(word_lists)
def test_pages_of_one_word(firsts: list[int]) -> None:
    hashes = hashes_by_first_word(np.array(firsts, np.uint64))
    assert hashes.tolist() == [page_hash(little(word) + bytes(4088)) for word in firsts]


@given(words, word_lists)
def test_pages_that_end_with_two_words(before_last: int, lasts: list[int]) -> None:
    hashes = hashes_by_last_words(before_last, np.array(lasts, np.uint64))
    pages = [bytes(4080) + little(before_last, word) for word in lasts]
    assert hashes.tolist() == list(map(page_hash, pages))


# --- stored pages ---------------------------------------------------------------------------------


def stored_bytes(pages: int) -> bytes:
    return np.random.default_rng(2).integers(0, 256, pages * PAGE_SIZE, np.uint8).tobytes()


@pytest.fixture(scope="module", params=[0, 1, 3], ids="offset {}".format)
def stored(request: pytest.FixtureRequest) -> tuple[StoredContent, bytes]:
    """2100 pages and a partial one, at an offset from where words are aligned; and the bytes."""
    data = stored_bytes(2100) + TAIL
    return StoredContent(memoryview(bytes(request.param) + data)[request.param :]), data


SELECTIONS: tuple[list[int], ...] = (
    [],
    [0],
    [2100],
    list(range(1, 40)),
    list(range(1024)),
    list(range(3, 2101)),
    list(range(0, 2100, 3)),
    [5, 4, 3, 2100, 4, 4],
    [7, 9, 8, 10],
)


@pytest.mark.parametrize("indices", SELECTIONS, ids=lambda indices: f"{len(indices)} pages")
def test_stored_pages(stored: tuple[StoredContent, bytes], indices: list[int]) -> None:
    content, data = stored
    pages = [data[i * PAGE_SIZE : (i + 1) * PAGE_SIZE].ljust(PAGE_SIZE, b"\0") for i in indices]
    (chosen,) = arrays(indices)
    assert [row.tobytes() for row in content.rows(chosen)] == pages
    assert content.hashes(chosen).tolist() == list(map(page_hash, pages))


def test_checksums_of_rows() -> None:
    rows = np.frombuffer(stored_bytes(6), np.uint8).reshape(6, PAGE_SIZE)
    for some in (rows, rows[:0], rows[::2]):
        assert hash_rows(some).tolist() == [page_hash(row.tobytes()) for row in some]


class Rows(Content):
    """Pages that somebody keeps elsewhere."""

    def __init__(self, rows: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> None:
        self._rows = rows

    def rows(
        self, indices: np.ndarray[tuple[int], np.dtype[np.int64]]
    ) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        return self._rows[indices % len(self._rows)]


def test_other_contents_are_hashed_by_their_rows() -> None:
    rows = np.frombuffer(stored_bytes(7), np.uint8).reshape(7, PAGE_SIZE)
    expected = [page_hash(row.tobytes()) for row in rows]
    found = Rows(rows).hashes(np.arange(2500)).tolist()
    assert found == [expected[index % 7] for index in range(2500)]
    assert Rows(rows).stored_pages == 0


def test_a_content_that_is_gone_lets_memory_be_closed() -> None:
    with mmap.mmap(-1, 3 * PAGE_SIZE) as memory:
        content = StoredContent(memoryview(memory), stable=False)
        for indices in arrays([0, 1, 2], [2, 0]):
            content.hashes(indices)
            content.rows(indices)
        with pytest.raises(BufferError):
            memory.close()
        del content
        gc.collect()
        memory.close()


# --- comparing ------------------------------------------------------------------------------------

KINDS = 4
MEMORY = np.zeros((200, PAGE_SIZE), np.uint8)
MEMORY[:, -1] = np.random.default_rng(3).choice(KINDS, 100, p=[0.7, 0.1, 0.1, 0.1]).repeat(2)
MEMORY[120:, -1] = 0  # a long run of equal pages

pages = st.integers(0, len(MEMORY) - 1)
runs = st.tuples(pages, pages, st.integers(1, 150), st.integers(0, 1), st.integers(0, 1))


@given(st.lists(runs, max_size=8))
def test_equal_pages(asked: list[tuple[int, int, int, int, int]]) -> None:
    """Runs on both sides, one page on one side or both, the same pages twice, and single ones."""
    pairs = [
        ((left + at * left_step) % len(MEMORY), (right + at * right_step) % len(MEMORY))
        for left, right, count, left_step, right_step in asked
        for at in range(count)
    ]
    left, right = arrays([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    base = MEMORY.ctypes.data
    equal = finished(equal_pages(base + left * PAGE_SIZE, base + right * PAGE_SIZE))
    assert (equal == (MEMORY[left, -1] == MEMORY[right, -1])).all()
    assert len(equal) == len(pairs)


# --- repetitions ----------------------------------------------------------------------------------


def test_runs_of_equal_pages_are_found_whole() -> None:
    pages = np.zeros((200, 512), "<u8")
    pages[130:, 0] = 7
    repetitions = finished(StoredContent(pages.tobytes()).repetitions(np.arange(200)))
    assert repetitions is not None
    assert repetitions.tolist() == [*[0] * 64, *[64] * 64, *range(128, 200)]


def test_pages_of_a_run_that_differ_anywhere_are_no_repetitions() -> None:
    for page in (0, 1, 40, 63):
        pages = np.zeros((64, 512), "<u8")
        pages[page, 300] = 1
        assert finished(StoredContent(pages.tobytes()).repetitions(np.arange(64))) is None


def test_pages_that_are_not_adjacent_are_no_repetitions() -> None:
    zeros = StoredContent(bytes(128 * 4096))
    assert finished(zeros.repetitions(np.arange(0, 128, 2))) is None
    assert finished(zeros.repetitions(np.arange(63))) is None


def test_runs_of_zeros() -> None:
    memory = bytearray(300 * 4096)
    memory[100 * 4096 + 4095] = 1
    content = StoredContent(memory, stable=False)
    runs = finished(content.runs_of_zeros(np.arange(10, 300)))
    assert (runs + 10).tolist() == [*range(10, 74), *range(138, 266)]
    assert not len(finished(content.runs_of_zeros(np.arange(0, 300, 2))))
    assert not len(finished(content.runs_of_zeros(np.arange(63))))
