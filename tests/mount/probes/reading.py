"""Reading: sizes, offsets, positions, a value that changes meanwhile, and directories."""

import os
from itertools import product

from tests.mount import calls
from tests.mount.calls import call, libc, opened, try_open
from tests.mount.probes.subject import Probes, Subject, store


def reads(subject: Subject) -> Probes:
    """Reads of many sizes at many offsets, each on a new descriptor, then on a held one."""
    sizes, offsets = (0, 1, 2, 3, 4096, 65536), (0, 1, 2, 3, 5, 100, 4095, 4096, 8192)
    for name in subject.files:
        for size, offset in product(sizes, (*offsets, -1, 2**31, 2**40, 2**63 - 1)):
            with opened(name) as file:
                outcome = calls.pread(file, size, offset)
                yield f"{name}: pread({size}, {offset})", outcome
        with opened(name) as file:
            for size, offset in product(sizes, offsets):
                outcome = calls.pread(file, size, offset)
                yield f"{name} held: pread({size}, {offset})", outcome
                outcome = calls.read(file, size)
                yield f"{name} held: read({size}) after it", outcome
        for size in (1, 2, 3, 7):
            with opened(name) as file:
                for number in range(8):
                    yield f"{name}: read({size}) #{number}", calls.read(file, size)
        with opened(name) as file:
            buffers = [bytearray(1), bytearray(0), bytearray(2), bytearray(4096)]
            outcome = call(os.readv, file, buffers)
            outcome["data"] = [bytes(buffer).rstrip(b"\0").decode() for buffer in buffers]
            yield f"{name}: readv", outcome
            outcome = call(os.preadv, file, [bytearray(2)], 0, os.RWF_NOWAIT)
            yield f"{name}: preadv2(RWF_NOWAIT)", outcome
            outcome = call(os.preadv, file, [bytearray(2)], 0, os.RWF_HIPRI)
            yield f"{name}: preadv2(RWF_HIPRI)", outcome
            outcome = libc("read", file, calls.BAD_ADDRESS, 10)
            yield f"{name}: read into a bad address", outcome
            yield f"{name}: read after it", calls.read(file, 10)


def reads_of_a_changing_value(subject: Subject) -> Probes:
    """A reader takes the text in pieces while it changes."""
    for size in (1, 2):
        store(subject, subject.one)
        with opened(subject.writable) as file:
            for number in range(10):
                yield f"pieces of {size}, changing: read #{number}", calls.read(file, size)
                store(subject, subject.other if number % 2 else subject.one)
    for offset in (0, 1, 2, 50):
        store(subject, subject.one)
        with opened(subject.writable) as file:
            yield f"changed behind {offset}: read(1)", calls.read(file, 1)
            store(subject, subject.other)
            yield f"changed behind {offset}: pread", calls.pread(file, 10, offset)
            yield f"changed behind {offset}: read on", calls.read(file, 10)
            os.lseek(file, offset, os.SEEK_SET)
            yield f"changed behind {offset}: read from there", calls.read(file, 10)
            store(subject, subject.one)
            os.lseek(file, 0, os.SEEK_SET)
            yield f"changed behind {offset}: read from 0", calls.read(file, 10)
    with opened(subject.writable) as file:
        store(subject, subject.other)
        yield "changed between open and read", calls.read(file, 10)
    store(subject, subject.one)


def seeks(subject: Subject) -> Probes:
    offsets = (0, 1, 2, -1, 100, 4095, 4096, 4097, 5000, -4096, -4097, 2**31 - 1, 2**31, 2**63 - 1)
    for name, flag in product([*subject.files, "."], (os.O_RDONLY, os.O_WRONLY)):
        if try_open(name, flag)["errno"]:
            continue
        with opened(name, flag) as file:
            for whence, offset in product((0, 1, 2, 3, 4, 5, 99), offsets):
                outcome = call(os.lseek, file, offset, whence)
                yield f"{name} {flag}: lseek({offset}, {whence})", outcome
    for name in subject.files:
        for offset in (1, 2, 4096, 5000):
            with opened(name) as file:
                os.lseek(file, offset, os.SEEK_SET)
                yield f"{name}: read at {offset}", calls.read(file, 10)
                outcome = call(os.lseek, file, 0, os.SEEK_CUR)
                yield f"{name}: position after it", outcome
                os.lseek(file, 0, os.SEEK_SET)
                yield f"{name}: read at 0 after it", calls.read(file, 10)


def shared_positions(subject: Subject) -> Probes:
    """dup and fork share a position; another open does not."""
    with opened(subject.writable) as file:
        copy = os.dup(file)
        yield "dup: read(1)", calls.read(file, 1)
        yield "dup: read on through the copy", calls.read(copy, 1)
        child = os.fork()
        if child == 0:
            os.read(file, 1)
            os._exit(0)
        os.waitpid(child, 0)
        yield "fork: position after the child's read", call(os.lseek, file, 0, os.SEEK_CUR)
        yield "fork: read on", calls.read(copy, 10)
        os.close(copy)
        yield "dup: after closing the copy", calls.pread(file, 10, 0)
        again = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
        yield "opened again through /proc", calls.read(again, 10)
        os.close(again)


def listings(_: Subject) -> Probes:
    """Order, types and offsets; every size of buffer; every place to start from."""
    with opened(".") as directory:
        everything = calls.getdents(directory, 65536)
    yield "getdents64 of everything", everything
    for size in (10, 24, 30, 32, 40, 64, 100, 200):
        with opened(".") as directory:
            for number in range(100):
                found = calls.getdents(directory, size)
                yield f"getdents64({size}) #{number}", found
                if found["ret"] <= 0:
                    break
    offsets = {0, 1, 2, 3, 2**31 - 2, 2**31 - 1}
    for entry in everything["entries"]:
        offsets |= {entry["d_off"], entry["d_off"] - 1}
    with opened(".") as directory:
        for offset in sorted(offsets):
            os.lseek(directory, offset, os.SEEK_SET)
            outcome = calls.getdents(directory, 65536)
            yield f"getdents64 from {offset}", outcome
        for offset in (2**31, 2**40, -1):
            yield f"lseek(directory, {offset})", call(os.lseek, directory, offset, 0)
        os.lseek(directory, 0, os.SEEK_SET)
        yield "getdents64 after rewinding", calls.getdents(directory, 100)
        copy = os.dup(directory)
        yield "getdents64 through a copy", calls.getdents(copy, 100)
        os.close(copy)
        yield "read(directory)", calls.read(directory, 10)
        yield "pread(directory)", calls.pread(directory, 10, 0)
        yield "write(directory)", call(os.write, directory, b"x")
        yield (
            "getdents64 into a bad address",
            libc("syscall", calls.SYS_GETDENTS64, directory, calls.BAD_ADDRESS, 100),
        )
