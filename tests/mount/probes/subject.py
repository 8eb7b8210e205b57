"""What the probes are made on, and the few things that most of them do."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from tests.mount.calls import Outcome, opened

Probes = Iterator[tuple[str, Outcome]]


@dataclass(frozen=True, slots=True)
class Subject:
    """What to call: a 0644 file, two texts that it takes, and a 0444 file (or "")."""

    writable: str
    readonly: str
    one: str
    other: str

    @property
    def files(self) -> list[str]:
        return [name for name in (self.writable, self.readonly) if name]


def store(subject: Subject, text: str) -> None:
    with opened(subject.writable, os.O_WRONLY) as file:
        os.write(file, text.encode())


def content(name: str) -> str:
    with opened(name) as file:
        return os.read(file, 8192).decode()


def with_content(subject: Subject, outcome: Outcome) -> Outcome:
    return {**outcome, "content": content(subject.writable)}


def without_times(outcome: Outcome) -> Outcome:
    return {key: value for key, value in outcome.items() if key != "times_equal"}


def written_forms(subject: Subject) -> list[bytes]:
    one = subject.one.encode()
    word_forms = [
        b"%s", b"%s\n", b"%s\n\n", b" %s", b"%s ", b"\t%s", b"+%s", b"-%s", b"++%s", b"0%s",
        b"000000000000000000%s", b"0x%s", b"%s.0", b"%se0", b"%s_0", b"%s\0", b"%s\n\0",
        b"%s\0\n", b"%s\0garbage", b"\0%s", b"\n%s", b"%s\r\n", b"%s\r", b"%sa", b"a%s", b"%s,",
        b"%s %s", b"%s\n%s", b"%s\x0b", b"\xa0%s", b"%s\xff",
    ]  # fmt: skip
    fixed = [
        b"", b"\n", b"\0", b" ", b"+", b"-", b"-0", b"-1", b"+-1", b"99999999999999999999",
        b"18446744073709551616", b"18446744073709551615", b"18446744073709551617",
        b"9223372036854775808", b"4294967296", b"4294967297", b"true", b"y", b"x", b"on",
        b"\xd9\xa1", b"\xef\xbc\x91", b"0" * 4000, b"never ever", b"[never]", b"NEVER",
    ]  # fmt: skip
    padded = [
        one.rjust(4096, b"0"), one.rjust(4095, b"0") + b"\n", one.rjust(4097, b"0"),
        b"0" * 4096 + one, one + b"\0" * 4095, one + b"\0" * 4096, one + b" " * 4095,
        one + b"\n" * 4095, b"x" * 4096, b"x" * 4097, b"x" * 100000, one.ljust(70000, b"\0"),
        one.ljust(3 * 2**20, b"\0"),
    ]  # fmt: skip
    return [form.replace(b"%s", one) for form in word_forms] + fixed + padded
