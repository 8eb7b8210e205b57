"""The recorded calls that write into ``run``, in every way there is."""

import os
import re
import tempfile
from functools import partial

from tests.mount import calls
from tests.mount.calls import Outcome, call, libc, opened
from tests.mount.recorded.run_file import Calls, run_value, set_run, with_run, written

_FORMS = 51  # so many forms are tried from run=0, then the same from run=1; then the long ones
_FROM_ONE = ("4096 x '0'", "8192 x '0'")  # long forms that are tried from run=1


def c_literal(text: str) -> bytes:
    """Return the bytes of C string literals standing side by side."""
    pieces = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
    return b"".join(
        re.sub(r"\\0", r"\\x00", piece).encode().decode("unicode_escape").encode("latin-1")
        for piece in pieces
    )


def repeated(text: str) -> bytes:
    """Return the bytes of a form such as ``4095 x '0' then '1'``."""
    buffer = b""
    names = {"NUL": b"\0", "space": b" ", "newline": b"\n", "'\\n'": b"\n"}
    for piece in re.split(r" then |, ", text):
        count, _, what = piece.rpartition(" x ")
        buffer += names.get(what, what.strip("'").encode()) * int(count or 1)
    return buffer


def write_calls(recorded: list[str]) -> Calls:
    for number, text in enumerate(recorded[:-1]):
        match = re.fullmatch(r"open\(run, O_WRONLY\); write\(fd, (.*), (\d+)\)", text)
        assert match
        form = match[1]
        buffer = c_literal(form) if form.startswith('"') else repeated(form)
        assert len(buffer) == int(match[2]), text
        before = number // _FORMS if number < 2 * _FORMS else int(form.startswith(_FROM_ONE))
        yield text, 0, write_from(before, buffer)
    with opened("run", os.O_WRONLY) as file:
        yield "run: write from a bad address", 0, libc("write", file, calls.BAD_ADDRESS, 1)


def write_from(before: int, buffer: bytes) -> Outcome:
    set_run(before)
    with opened("run", os.O_WRONLY) as file:
        outcome = call(os.write, file, buffer)
        after = run_value()
        position = os.lseek(file, 0, os.SEEK_CUR)
    return {
        **outcome,
        "run_before": str(before),
        "run_after": after,
        "file_position_after": position,
        "close": 0,
    }


def write_position_calls(_: list[str]) -> Calls:
    set_run(0)
    with opened("run", os.O_WRONLY) as file:
        yield 'run=0: pwrite("1", offset 1)', 0, with_run(call(os.pwrite, file, b"1", 1))
        yield 'pwrite("0", offset 4096)', 0, with_run(call(os.pwrite, file, b"0", 4096))
        yield 'pwrite("1", offset 2^40)', 0, with_run(call(os.pwrite, file, b"1", 2**40))
        yield 'pwrite("0", offset -1)', 0, with_run(call(os.pwrite, file, b"0", -1))
    with opened("run", os.O_WRONLY) as file:
        for number, value in enumerate((b"1", b"0", b"1"), 1):
            yield f'same fd: write("{value.decode()}") #{number}', 0, written(file, value)
        position = partial(call, os.lseek, file, 0, os.SEEK_CUR)
        yield "same fd: lseek(0, SEEK_CUR)", 0, with_run(position())
        yield 'same fd: write("x")', 0, written(file, b"x")
        yield "same fd: lseek(0, SEEK_CUR)", 0, with_run(position())
    set_run(0)
    yield from writev_calls()
    set_run(0)
    with opened("run", os.O_RDWR) as file:
        yield 'O_RDWR fd: write("1")', 0, written(file, b"1")
        yield "same O_RDWR fd: read 10 (position 1)", 0, calls.read(file, 10)
        yield "same O_RDWR fd: pread 10 at 0", 0, calls.pread(file, 10, 0)
        yield 'same O_RDWR fd: write("0")', 0, written(file, b"0")
        yield "same O_RDWR fd: pread 10 at 0", 0, calls.pread(file, 10, 0)
    with opened("run", os.O_WRONLY | os.O_APPEND) as file:
        yield 'O_APPEND fd: write("1")', 0, written(file, b"1")
        outcome = with_run(call(os.lseek, file, 0, os.SEEK_CUR))
        yield "O_APPEND fd: lseek(0, SEEK_CUR)", 0, outcome
    set_run(0)
    with opened("run", os.O_WRONLY | os.O_TRUNC) as file:
        yield "after open(O_WRONLY|O_TRUNC) with run=0", 0, with_run(calls.succeeded())
        yield 'O_TRUNC fd: write("1")', 0, written(file, b"1")
    with opened("run", os.O_WRONLY | os.O_TRUNC):
        yield "after open(O_WRONLY|O_TRUNC) with run=1", 0, with_run(calls.succeeded())
    yield "after close", 0, with_run(calls.succeeded())
    set_run(0)


def writev_calls() -> Calls:
    vectors = {
        'run=0: writev(["1","\\n"])': [b"1", b"\n"],
        'writev(["","0"])': [b"", b"0"],
        'writev(["0","1"])': [b"0", b"1"],
        'writev(["0","0"])': [b"0", b"0"],
        'writev(["1","x"])': [b"1", b"x"],
        "writev([])": [],
        "writev([4095 x '0', \"1\"])": [b"0" * 4095, b"1"],
        "writev([4096 x '0', \"1\"])": [b"0" * 4096, b"1"],
    }
    with opened("run", os.O_WRONLY) as file:
        for text, vector in vectors.items():
            yield text, 0, with_run(call(os.writev, file, vector))


def transfer_calls(_: list[str]) -> Calls:
    set_run(1)
    with tempfile.TemporaryFile() as outside, opened("run", os.O_RDWR) as file:
        other = outside.fileno()
        yield "sendfile(file <- run, 100)", 0, call(os.sendfile, other, file, 0, 100)
        yield "content of the file", 0, calls.pread(other, 100, 0)
        os.pwrite(other, b"0", 0)
        os.ftruncate(other, 1)
        outcome = with_run(call(os.sendfile, file, other, 0, 100))
        yield 'run=1: sendfile(run <- file "0", 100)', 0, outcome
    set_run(1)
    reader, writer = os.pipe()
    with opened("run", os.O_RDWR) as file:
        yield "splice(run -> pipe, 100)", 0, call(os.splice, file, writer, 100)
        yield "read from the pipe", 0, calls.read(reader, 100)
        os.write(writer, b"0")
        outcome = with_run(call(os.splice, reader, file, 100))
        yield 'run=1: splice(pipe "0" -> run, 100)', 0, outcome
    os.close(reader)
    os.close(writer)
    set_run(0)
    with tempfile.TemporaryFile() as outside, opened("run", os.O_RDWR) as file:
        other = outside.fileno()
        outcome = call(os.copy_file_range, file, other, 100)
        yield "copy_file_range(run -> file, 100)", 0, outcome
        os.pwrite(other, b"0", 0)
        os.lseek(other, 0, os.SEEK_SET)
        outcome = with_run(call(os.copy_file_range, other, file, 100))
        yield 'copy_file_range(file "0" -> run, 100)', 0, outcome


def inotify_calls(_: list[str]) -> Calls:
    watches: dict[str, int] = {}
    descriptor = libc("inotify_init1", os.O_NONBLOCK)["ret"]
    for name in ("run", "."):
        outcome = libc("inotify_add_watch", descriptor, name.encode(), 0xFFF)
        watches[name] = outcome["ret"]
        yield f"inotify_add_watch({name})", 0, {**outcome, "ret": min(outcome["ret"], 0)}
    set_run(1)
    with opened("run") as file:
        os.read(file, 10)
    with opened("run", os.O_WRONLY) as file:
        call(os.write, file, b"x")
    events = calls.inotify_events(descriptor)
    os.close(descriptor)
    for name, who in (("run", "run"), (".", "the directory")):
        text = f'events on {who}: write "1", read, write "x" (each open..close)'
        seen = [event for watch, event in events if watch == watches[name]]
        yield text, 0, calls.succeeded(events=seen)
    set_run(0)
