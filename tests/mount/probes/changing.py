"""What sysfs does not do: making and moving files, mapping them; and its locks and ioctls."""

# ruff: noqa: PTH109
# (the system calls themselves are what is tried here)

import fcntl
import mmap
import os
import stat
import struct
import tempfile
from itertools import product

from tests.mount import calls
from tests.mount.calls import Outcome, call, libc, opened, try_open, user
from tests.mount.probes.subject import Probes, Subject


def directory_changes(subject: Subject) -> Probes:
    """Nothing can be made, moved or removed; which errno says so depends on the call."""
    for uid in (0, 1000):
        with user(uid), tempfile.TemporaryDirectory() as elsewhere:
            outside = f"{elsewhere}/outside"
            with opened(outside, os.O_CREAT | os.O_WRONLY):
                pass
            for text, outcome in changes(subject, outside):
                yield f"uid {uid}: {text}", outcome


def changes(subject: Subject, outside: str) -> Probes:
    here = os.getcwd()
    for name in [*subject.files, "x", ".", "..", "x/", "missing/x", "a" * 256, "é"]:
        yield f"mkdir({name})", call(os.mkdir, name)
        for kind in ("S_IFREG", "S_IFIFO", "S_IFSOCK", "S_IFCHR", "S_IFBLK", "S_IFDIR"):
            outcome = call(os.mknod, name, getattr(stat, kind) | 0o644, os.makedev(1, 3))
            yield f"mknod({name}, {kind})", outcome
        yield f"symlink(to {name})", call(os.symlink, "target", name)
        yield f"unlink({name})", call(os.unlink, name)
        yield f"rmdir({name})", call(os.rmdir, name)
        yield f"readlink({name})", call(os.readlink, name)
        for source in [*subject.files, ".", "missing", outside]:
            label = "outside" if source == outside else source
            yield f"link({label}, {name})", call(os.link, source, name)
            yield f"rename({label}, {name})", call(os.rename, source, name)
            for flags in (1, 2, 4, 3, 8):
                outcome = libc(
                    "syscall",
                    calls.SYS_RENAMEAT2,
                    calls.AT_FDCWD,
                    source.encode(),
                    calls.AT_FDCWD,
                    os.fsencode(name),
                    flags,
                )
                yield f"renameat2({label}, {name}, {flags})", outcome
    for name in subject.files:
        yield f"link({name}, outside)", call(os.link, name, f"{outside}-2")
        yield f"rename({name}, outside)", call(os.rename, name, f"{outside}-2")
    yield "rmdir(itself)", call(os.rmdir, here)
    yield "rmdir(./.)", call(os.rmdir, "./.")
    yield "rename(itself)", call(os.rename, here, f"{here}-sibling")
    yield "mkdir(itself)", call(os.mkdir, here)


def mappings(subject: Subject) -> Probes:
    for name in [*subject.files, "."]:
        for flag in (os.O_RDONLY, os.O_RDWR):
            if try_open(name, flag)["errno"]:
                continue
            with opened(name, flag) as file:
                for protection, kind in product((0, 1, 2, 3, 4, 7), (1, 2, 3)):
                    outcome = calls.mmap(file, protection, kind)
                    yield f"mmap({name} {flag}, {protection}, {kind})", outcome
                yield f"mmap.mmap({name} {flag})", python_map(file)


def python_map(file: int) -> Outcome:
    try:
        mmap.mmap(file, 0, access=mmap.ACCESS_READ).close()
    except OSError as error:
        return calls.failed(error.errno)
    except ValueError as error:
        return calls.succeeded(error=str(error))
    return calls.succeeded()


def ioctls(subject: Subject) -> Probes:
    requests = {
        "TCGETS": 0x5401,
        "FIONREAD": 0x541B,
        "FIONBIO": 0x5421,
        "FIOASYNC": 0x5452,
        "FIOQSIZE": 0x5460,
        "FIGETBSZ": 2,
        "FIBMAP": 1,
        "FS_IOC_GETFLAGS": 0x80086601,
        "FS_IOC_SETFLAGS": 0x40086602,
        "FS_IOC_GETVERSION": 0x80087601,
        "FS_IOC_FSGETXATTR": 0x801C581F,
        "FS_IOC_FIEMAP": 0xC020660B,
        "FICLONE": 0x40049409,
        "BLKGETSIZE64": 0x80081272,
        "0x1234": 0x1234,
    }
    for name in [*subject.files, "."]:
        with opened(name) as file:
            for text, request in requests.items():
                buffer = bytearray(256)
                try:
                    outcome = calls.succeeded(fcntl.ioctl(file, request, buffer))
                except OSError as error:
                    outcome = calls.failed(error.errno)
                outcome["value"] = bytes(buffer[:8]).hex()
                yield f"ioctl({name}, {text})", outcome


def locks(subject: Subject) -> Probes:
    kinds = {
        kind: struct.pack("hhqqi4x", getattr(fcntl, kind), 0, 0, 0, 0)
        for kind in ("F_WRLCK", "F_RDLCK", "F_UNLCK")
    }
    commands = ("F_SETLK", "F_OFD_SETLK", "F_GETLK", "F_OFD_GETLK")
    flocks = (fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN)
    modes = (os.O_RDONLY, os.O_RDWR)
    for name, first, second in product([*subject.files, "."], modes, modes):
        if try_open(name, first)["errno"] or try_open(name, second)["errno"]:
            continue
        with opened(name, first) as one, opened(name, second) as two:
            where = f"{name} {first}/{second}"
            for command, kind in product(commands, kinds):
                for number, file in enumerate((one, two)):
                    outcome = call(fcntl.fcntl, file, getattr(fcntl, command), kinds[kind])
                    outcome.pop("data", None)
                    yield f"{where}: {command} {kind} on {number}", outcome
            for a, b in product(flocks, flocks):
                yield f"{where}: flock {a}", call(fcntl.flock, one, a | fcntl.LOCK_NB)
                yield f"{where}: flock {a} {b}", call(fcntl.flock, two, b | fcntl.LOCK_NB)
    yield from leases_and_flags(subject)


def leases_and_flags(subject: Subject) -> Probes:
    for name, flag in product([*subject.files, "."], (os.O_RDONLY, os.O_WRONLY)):
        if try_open(name, flag)["errno"]:
            continue
        with opened(name, flag) as file:
            for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK):
                outcome = call(fcntl.fcntl, file, fcntl.F_SETLEASE, kind)
                yield f"{name} {flag}: lease {kind}", outcome
                outcome = call(fcntl.fcntl, file, fcntl.F_GETLEASE)
                yield f"{name} {flag}: lease {kind}: which", outcome
            yield f"{name} {flag}: flags", call(fcntl.fcntl, file, fcntl.F_GETFL)
            for word in ("O_APPEND", "O_NONBLOCK", "O_ASYNC", "O_NOATIME", "O_DIRECT"):
                outcome = call(fcntl.fcntl, file, fcntl.F_SETFL, getattr(os, word))
                yield f"{name} {flag}: F_SETFL {word}", outcome
                outcome = call(fcntl.fcntl, file, fcntl.F_GETFL)
                yield f"{name} {flag}: flags with {word}", outcome
