"""The tree of attributes: what is read and stored, how it is found, in which order it is listed."""

import errno
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dksmfs.kernel.sysfs.attribute import (
    Attribute,
    Directory,
    kstrtouint,
    name_hash,
    show_choice,
    store_choice,
    sysfs_streq,
)


def fixed(name: str, text: str = "0\n") -> Attribute:
    return Attribute(name, 0o444, lambda: text)


def tree() -> Directory:
    return Directory.of("top", [Directory.of("inner", [fixed("file")]), fixed("other")])


@pytest.mark.parametrize(
    ("buffer", "value"),
    [
        (b"0", 0),
        (b"1\n", 1),
        (b"+1", 1),
        (b"007", 7),
        (b"4294967295", 4294967295),
        (b"1\0garbage", 1),
        (b"1\n\0", 1),
        (b"0" * 4095 + b"1", 1),
    ],
)
def test_number_is_parsed_as_kstrtouint_does(buffer: bytes, value: int) -> None:
    assert kstrtouint(buffer) == value


@pytest.mark.parametrize(
    "buffer",
    [
        b"",
        b"\n",
        b"\0" + b"1",
        b" 1",
        b"1 ",
        b"1\n\n",
        b"-0",
        b"++1",
        b"+",
        b"0x1",
        b"1_0",
        b"1\r\n",
        b"\xd9\xa1",
        b"\xef\xbc\x91",
    ],
)
def test_what_is_no_number_is_refused(buffer: bytes) -> None:
    with pytest.raises(OSError, match="EINVAL") as refused:
        kstrtouint(buffer)
    assert refused.value.errno == errno.EINVAL


@pytest.mark.parametrize("buffer", [b"4294967296", b"9" * 4096])
def test_number_beyond_an_unsigned_int_is_out_of_range(buffer: bytes) -> None:
    with pytest.raises(OSError, match="ERANGE") as refused:
        kstrtouint(buffer)
    assert refused.value.errno == errno.ERANGE


@given(st.integers(0, 2**32 - 1))
def test_every_unsigned_int_is_parsed(value: int) -> None:
    assert kstrtouint(f"{value}\n".encode()) == value


def test_word_may_have_one_newline_and_anything_after_a_nul() -> None:
    assert sysfs_streq(b"never", "never")
    assert sysfs_streq(b"never\n", "never")
    assert sysfs_streq(b"never\0x", "never")
    assert not sysfs_streq(b"never\n\n", "never")
    assert not sysfs_streq(b" never", "never")
    assert not sysfs_streq(b"NEVER", "never")


def test_choice_shows_the_chosen_word_in_brackets_and_takes_only_its_words() -> None:
    words = ("always", "never")
    assert show_choice(words, "never") == "always [never]\n"
    assert store_choice(words, b"always\n") == "always"
    with pytest.raises(OSError, match="none of always, never"):
        store_choice(words, b"[never]")


def test_read_gives_the_current_text() -> None:
    values = iter("12")
    attribute = Attribute("a", 0o444, lambda: next(values))
    assert attribute.read() == b"1"
    assert attribute.read() == b"2"


def test_read_gives_a_page_less_one_byte_at_most() -> None:
    assert len(fixed("a", "x" * 5000).read()) == 4095


def test_store_gets_at_most_a_page_and_the_count_says_so() -> None:
    stored: list[bytes] = []
    attribute = Attribute("a", 0o644, str, stored.append)
    assert attribute.write(b"x" * 4097) == 4096
    assert attribute.write(b"") == 0
    assert attribute.write(b"y") == 1
    assert stored == [b"x" * 4096, b"y"]


def test_attribute_without_a_store_answers_eio_except_to_nothing() -> None:
    assert fixed("a").write(b"") == 0
    with pytest.raises(OSError, match="EIO") as refused:
        fixed("a").write(b"1")
    assert refused.value.errno == errno.EIO


def test_paths_are_found_below_a_directory() -> None:
    top = tree()
    inner = top.find("inner")
    assert isinstance(inner, Directory)
    assert top.find("inner/file") is inner.find("file")
    assert top.find("") is top
    assert top.find("./inner/") is inner


@pytest.mark.parametrize(
    ("path", "number"),
    [("missing", errno.ENOENT), ("inner/missing", errno.ENOENT), ("other/x", errno.ENOTDIR)],
)
def test_paths_that_are_not_there_say_why(path: str, number: int) -> None:
    with pytest.raises(OSError, match="ENO") as refused:
        tree().find(path)
    assert refused.value.errno == number


def test_names_hash_as_the_recorded_offsets_of_a_real_directory_say() -> None:
    assert {
        name: name_hash(name)
        for name in ("hashtable_size", "merging_failed", "hashtable_entries", "run")
    } == {
        "hashtable_size": 461556845,
        "merging_failed": 1044227451,
        "hashtable_entries": 1539309241,
        "run": 1938875152,
    }


@given(st.lists(st.text(min_size=1, max_size=20), unique=True))
def test_directories_are_listed_by_hash_between_the_dots_and_the_end(names: list[str]) -> None:
    listed = [node.name for node in Directory.of("d", [fixed(name) for name in names])]
    assert sorted(listed) == sorted(names)
    hashes = [1, *map(name_hash, listed), 2**31 - 1]
    assert all(one <= other for one, other in pairwise(hashes))
    assert all(2 <= number < 2**31 - 1 for number in hashes[1:-1])
