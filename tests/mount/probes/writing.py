"""Writing: every odd form of a text, by every call that can write, and sizes."""

# ruff: noqa: PTH101
# (the system calls themselves are what is tried here)

import os
import resource
import signal
import tempfile
from itertools import product

from tests.mount import calls
from tests.mount.calls import call, libc, lstat, opened, try_open, user
from tests.mount.probes.subject import (
    Probes,
    Subject,
    store,
    with_content,
    without_times,
    written_forms,
)


def writes(subject: Subject) -> Probes:
    """Everything that can be written, from another value and on a descriptor of its own."""
    for number, form in enumerate(written_forms(subject)):
        store(subject, subject.other)
        with opened(subject.writable, os.O_WRONLY) as file:
            outcome = with_content(subject, call(os.write, file, form))
            outcome["position"] = os.lseek(file, 0, os.SEEK_CUR)
            yield f"write #{number} ({len(form)} bytes, {form[:24]!r})", outcome
    one, other = subject.one.encode(), subject.other.encode()
    with opened(subject.writable, os.O_WRONLY) as file:
        for offset, value in product((0, 1, 4095, 4096, 2**31, 2**40, -1), (one, other, b"x")):
            outcome = with_content(subject, call(os.pwrite, file, value, offset))
            yield f"pwrite({value!r}, {offset})", outcome
        outcome = call(os.pwrite, file, one, 2**63 - 1)
        yield "pwrite at the last offset", with_content(subject, outcome)
        for value in (one, other, b"x", b"", one):
            outcome = with_content(subject, call(os.write, file, value))
            outcome["position"] = os.lseek(file, 0, os.SEEK_CUR)
            yield f"held: write({value!r})", outcome
        for offset in (0, 1, 5000):
            os.lseek(file, offset, os.SEEK_SET)
            outcome = with_content(subject, call(os.write, file, other))
            yield f"write at {offset}", outcome
        vectors = [
            [one, b"\n"], [b"", other], [one, b"x"], [], [b""], [one[:1], one[1:]],
            [b"0" * 4095, b"1", b"\n"], [b"x"] * 1024,
        ]  # fmt: skip
        for number, vector in enumerate(vectors):
            outcome = with_content(subject, call(os.writev, file, vector))
            yield f"writev #{number}", outcome
        for flags in (os.RWF_SYNC, os.RWF_DSYNC, os.RWF_HIPRI, os.RWF_NOWAIT):
            outcome = with_content(subject, call(os.pwritev, file, [one], 0, flags))
            yield f"pwritev2({flags})", outcome
        yield "write from a bad address", libc("write", file, calls.BAD_ADDRESS, 1)
    yield from writes_through_odd_descriptors(subject)
    store(subject, subject.one)


def writes_through_odd_descriptors(subject: Subject) -> Probes:
    one, other = subject.one.encode(), subject.other.encode()
    with opened(subject.writable, os.O_WRONLY | os.O_APPEND) as file:
        for number, value in enumerate((one, other, b"x")):
            outcome = with_content(subject, call(os.write, file, value))
            yield f"append #{number}", outcome
            yield f"append #{number}: position", call(os.lseek, file, 0, os.SEEK_CUR)
        outcome = with_content(subject, call(os.pwrite, file, one, 7))
        yield "append: pwrite", outcome
    with opened(subject.writable, os.O_RDWR) as file:
        yield "read-write: write", with_content(subject, call(os.write, file, other))
        yield "read-write: read on", calls.read(file, 10)
        yield "read-write: pread", calls.pread(file, 10, 0)
        yield "read-write: write again", with_content(subject, call(os.write, file, one))
        yield "read-write: read on again", calls.read(file, 10)
    with opened(subject.writable, os.O_WRONLY | os.O_TRUNC) as file:
        yield "truncated by open", with_content(subject, calls.succeeded())
        yield "truncated by open: write", with_content(subject, call(os.write, file, other))
        yield "write-only: read", calls.read(file, 10)
    with opened(subject.writable) as file:
        yield "read-only: write", call(os.write, file, one)
        yield "read-only: pwrite", call(os.pwrite, file, one, 0)


def limited_writes(subject: Subject) -> Probes:
    """Writes under a limit of the size of files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for limit in (0, 1, 4096, 5000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        for offset in (0, 4096, 10000):
            with opened(subject.writable, os.O_WRONLY) as file:
                outcome = call(os.pwrite, file, subject.other.encode(), offset)
            yield f"file size limit {limit}: pwrite at {offset}", outcome
        outcome = call(os.truncate, subject.writable, 6000)
        yield f"file size limit {limit}: truncate", outcome
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)
    store(subject, subject.one)


def writes_of_others(subject: Subject) -> Probes:
    """There is no capability check: who may open may write. Read-only attributes answer EIO."""
    for mode, owner in ((0o666, 0), (0o644, 1000), (0o646, 0), (0o620, 1000)):
        os.chmod(subject.writable, mode)
        os.chown(subject.writable, owner, 0)
        with user(1000):
            outcome = try_open(subject.writable, os.O_WRONLY)
            yield f"mode {mode:o} of {owner}: open by 1000", outcome
            if outcome["errno"] is None:
                with opened(subject.writable, os.O_WRONLY) as file:
                    outcome = call(os.write, file, subject.one.encode())
                yield f"mode {mode:o} of {owner}: write by 1000", outcome
    os.chown(subject.writable, 0, 0)
    os.chmod(subject.writable, 0o644)
    if subject.readonly:
        os.chmod(subject.readonly, 0o666)
        with opened(subject.readonly, os.O_RDWR) as file:
            for value in (b"1", b"", b"x" * 5000):
                outcome = call(os.write, file, value)
                yield f"read-only made 0666: write of {len(value)}", outcome
            yield "read-only made 0666: read", calls.read(file, 10)
        os.chmod(subject.readonly, 0o444)


def sizes(subject: Subject) -> Probes:
    """Truncation is accepted and forgotten; space cannot be had."""
    for name in [*subject.files, ".", "missing"]:
        for size in (0, 1, 4096, 5000, -1, 2**31 - 1, 2**31, 2**40, 2**63 - 1):
            for uid in (0, 1000):
                with user(uid):
                    outcome = call(os.truncate, name, size)
                    yield f"uid {uid}: truncate({name}, {size})", outcome
        if name != "missing":
            yield f"lstat({name}) after it", without_times(lstat(name))
    for flag in (os.O_RDONLY, os.O_WRONLY):
        with opened(subject.writable, flag) as file:
            for size in (0, 1, 5000, -1, 2**31, 2**63 - 1):
                outcome = call(os.ftruncate, file, size)
                yield f"ftruncate({flag}, {size})", outcome
            for mode in (0, 1, 2, 3, 8, 16, 32, 64, 0x1000):
                outcome = libc("fallocate64", file, mode, *calls.longs(0, 4096))
                yield f"fallocate({flag}, {mode})", outcome
    for name in [*subject.files, "."]:
        with opened(name) as file:
            yield f"fsync({name})", call(os.fsync, file)
            yield f"fdatasync({name})", call(os.fdatasync, file)
            yield f"syncfs({name})", libc("syncfs", file)
            outcome = libc("sync_file_range", file, *calls.longs(0, 4096), 7)
            yield f"sync_file_range({name})", outcome
            yield f"readahead({name})", libc("readahead", file, *calls.longs(0, 4096))
            for advice in range(7):
                outcome = call(os.posix_fadvise, file, 0, 4096, advice)
                yield f"fadvise({name}, {advice})", outcome
    with opened(subject.writable) as file:
        yield "fstat", without_times(calls.fstat(file))


def transfers(subject: Subject) -> Probes:
    """sendfile, splice and copy_file_range in both directions."""
    one, other = subject.one.encode(), subject.other.encode()
    for name in subject.files:
        for offset, size in product((None, 0, 1, 100), (0, 1, 100, 70000)):
            with tempfile.TemporaryFile() as outside, opened(name) as file:
                target = outside.fileno()
                where = f"{name} at {offset}, {size}"
                yield f"sendfile({where})", call(os.sendfile, target, file, offset, size)
                yield f"sendfile({where}): content", calls.pread(target, 100, 0)
            reader, writer = os.pipe()
            with opened(name) as file:
                outcome = call(os.splice, file, writer, size, offset_src=offset)
                yield f"splice({where})", outcome
                os.close(writer)
                yield f"splice({where}): content", calls.read(reader, 100)
            os.close(reader)
            with tempfile.TemporaryFile() as outside, opened(name) as file:
                target = outside.fileno()
                outcome = call(os.copy_file_range, file, target, size, offset)
                yield f"copy_file_range({where})", outcome
    for value in (one, other, one + b"\n", b"x", b"", b"0" * 5000):
        store(subject, subject.other)
        with tempfile.TemporaryFile() as outside, opened(subject.writable, os.O_WRONLY) as file:
            source = outside.fileno()
            os.write(source, value)
            outcome = with_content(subject, call(os.sendfile, file, source, 0, 10000))
            yield f"sendfile into it ({value[:8]!r})", outcome
            outcome = call(os.copy_file_range, source, file, 10000, 0)
            yield f"copy_file_range into it ({value[:8]!r})", with_content(subject, outcome)
        reader, writer = os.pipe()
        os.write(writer, value)
        os.close(writer)
        with opened(subject.writable, os.O_WRONLY) as file:
            outcome = with_content(subject, call(os.splice, reader, file, 10000))
            yield f"splice into it ({value[:8]!r})", outcome
        os.close(reader)
    if subject.readonly:
        with opened(subject.readonly) as source, opened(subject.writable, os.O_WRONLY) as file:
            outcome = call(os.copy_file_range, source, file, 100)
            yield "copy_file_range within", with_content(subject, outcome)
    with opened(subject.writable, os.O_WRONLY | os.O_APPEND) as file:
        reader, writer = os.pipe()
        os.write(writer, one)
        yield "splice into an appending one", call(os.splice, reader, file, 100)
        os.close(reader)
        os.close(writer)
    store(subject, subject.one)
