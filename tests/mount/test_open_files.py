"""Reads of an open attribute: when the text is made, and when it goes on."""

import select
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from dksmfs.kernel.sysfs.attribute import Attribute
from dksmfs.mount.open_files import OpenFile


def counting() -> OpenFile:
    """A file that shows another text each time it is asked: "aaaa", "bbbb", ..."""
    turns = count()
    return OpenFile(Attribute("a", 0o444, lambda: chr(ord("a") + next(turns) % 26) * 4))


def test_read_that_goes_on_continues_the_text() -> None:
    file = counting()
    assert [file.read(at, 1) for at in range(6)] == [b"a", b"a", b"a", b"a", b"", b""]


def test_read_at_the_start_makes_the_text_again() -> None:
    file = counting()
    assert file.read(0, 2) == b"aa"
    assert file.read(0, 2) == b"bb"
    assert file.read(2, 9) == b"bb"


def test_read_elsewhere_makes_the_text_again_and_skips() -> None:
    file = counting()
    assert file.read(0, 1) == b"a"
    assert file.read(3, 9) == b"b"
    assert file.read(100, 9) == b""
    assert file.read(1, 9) == b"ddd"


def test_file_counts_as_changed_until_its_text_was_made() -> None:
    file = counting()
    assert file.poll() & select.POLLPRI
    assert file.poll() & select.POLLERR
    file.read(50, 1)
    assert not file.poll() & (select.POLLPRI | select.POLLERR)
    assert file.poll() & select.POLLIN
    assert file.poll() & select.POLLOUT


@given(st.lists(st.integers(1, 5), max_size=9))
def test_reader_in_pieces_never_sees_a_torn_text(sizes: list[int]) -> None:
    file, text = counting(), b""
    for size in sizes:
        text += file.read(len(text), size)
    assert text == b"aaaa"[: sum(sizes)]
