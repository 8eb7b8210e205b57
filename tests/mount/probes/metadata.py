"""Modes, owners, times and extended attributes, and who is kept out by them."""

# ruff: noqa: PTH101, PTH116
# (the system calls themselves are what is tried here)

import os
import stat
import struct
import time
from collections.abc import Callable
from itertools import product

from tests.mount import calls
from tests.mount.calls import Outcome, call, libc, lstat, opened, try_open, user
from tests.mount.execution import execve
from tests.mount.probes.subject import Probes, Subject, content, store, without_times


def held_descriptors(subject: Subject) -> Probes:
    """A descriptor outlives the permission with which it was opened."""
    name = subject.writable
    with opened(name, os.O_RDWR) as file:
        for mode in (0o000, 0o444, 0o200, 0o644):
            os.chmod(name, mode)
            yield f"held while mode {mode:o}: pread", calls.pread(file, 10, 0)
            outcome = call(os.pwrite, file, subject.other.encode(), 0)
            yield f"held while mode {mode:o}: pwrite", outcome
            yield f"opened while mode {mode:o}", try_open(name, os.O_RDONLY)
            yield f"written while mode {mode:o}", try_open(name, os.O_WRONLY)
            yield f"both while mode {mode:o}", try_open(name, os.O_RDWR)
            yield f"mode 3 while mode {mode:o}", try_open(name, 3)
        with user(1000):
            yield "held across setuid: pread", calls.pread(file, 10, 0)
            outcome = call(os.pwrite, file, subject.one.encode(), 0)
            yield "held across setuid: pwrite", outcome
            yield "held across setuid: fchmod", call(os.fchmod, file, 0o600)
            yield "held across setuid: ftruncate", call(os.ftruncate, file, 0)
            yield "held across setuid: futimens", call(os.utime, file)
    store(subject, subject.one)


def modes_and_owners(subject: Subject) -> Probes:
    """chmod and chown persist and are enforced."""
    for name in [*subject.files, "."]:
        found = os.lstat(name)
        kept = stat.S_IMODE(found.st_mode)
        for mode in (0o600, 0o777, 0o4755, 0o2755, 0o1777, 0o000, 0o222, 0o111, 0o100644, kept):
            yield f"chmod({name}, {mode:o})", call(os.chmod, name, mode)
            yield f"lstat({name}) with {mode:o}", without_times(lstat(name))
            for uid in (0, 1000):
                with user(uid):
                    for flag in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                        outcome = try_open(name, flag)
                        yield f"uid {uid}: open({name} with {mode:o}, {flag})", outcome
                    for wanted in (os.R_OK, os.W_OK, os.X_OK, 7, os.F_OK):
                        outcome = calls.access(name, wanted)
                        yield f"uid {uid}: access({name} with {mode:o}, {wanted})", outcome
        owners = ((1000, 1001), (-1, 1000), (1000, -1), (-1, -1), (0, 0), (4294967294, 0), (0, 0))
        for owner in owners:
            os.chmod(name, kept | stat.S_ISUID | stat.S_ISGID)
            yield f"chown({name}, {owner})", call(os.chown, name, *owner)
            yield f"lstat({name}) of {owner}", without_times(lstat(name))
            with user(1000):
                yield f"chmod({name} of {owner}) by 1000", call(os.chmod, name, 0o664)
                yield f"chown({name} of {owner}) by 1000", call(os.chown, name, 1000, 1000)
                yield f"chown({name} of {owner}) away", call(os.chown, name, 0, 0)
                yield f"utime({name} of {owner}, now) by 1000", call(os.utime, name)
                outcome = call(os.utime, name, (1, 2))
                yield f"utime({name} of {owner}, 1, 2) by 1000", outcome
                outcome = try_open(name, os.O_WRONLY)
                yield f"open({name} of {owner}, WRONLY) by 1000", outcome
                outcome = try_open(name, os.O_NOATIME)
                yield f"open({name} of {owner}, NOATIME) by 1000", outcome
            yield f"lstat({name}) of {owner} afterwards", without_times(lstat(name))
        os.chown(name, found.st_uid, found.st_gid)
        os.chmod(name, kept)


CLOCK_REALTIME_COARSE = 5


def groups(subject: Subject) -> Probes:
    """The bits of the group count for who is in the group; sysfs is never executable."""
    os.chown(subject.writable, 0, 1000)
    for mode in (0o664, 0o460, 0o004, 0o777):
        os.chmod(subject.writable, mode)
        yield f"execve with {mode:o}", execve(subject.writable)
        with user(1000):
            for flag in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                outcome = try_open(subject.writable, flag)
                yield f"group of 1000, mode {mode:o}: open({flag})", outcome
            yield f"execve with {mode:o} by 1000", execve(subject.writable)
    os.chown(subject.writable, 0, 0)
    os.chmod(subject.writable, 0o644)


def times(subject: Subject) -> Probes:
    """Which of the three times an act moves, and which it leaves."""

    def moved(act: Callable[[], object]) -> Outcome:
        before = os.stat(subject.writable)
        let_the_clock_tick()
        act()
        after = os.stat(subject.writable)
        fields = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")
        names = [name for name in fields if getattr(before, name) != getattr(after, name)]
        return calls.succeeded(moved=names)

    name = subject.writable
    os.utime(name, (1000, 2000))
    acts: dict[str, Callable[[], object]] = {
        "read": lambda: content(name),
        "write": lambda: store(subject, subject.one),
        "chmod": lambda: os.chmod(name, 0o644),
        "chown": lambda: os.chown(name, 0, 0),
        "truncate": lambda: os.truncate(name, 10),
        "open with O_TRUNC": lambda: try_open(name, os.O_WRONLY | os.O_TRUNC),
        "setxattr": lambda: os.setxattr(name, "trusted.t", b"1"),
        "removexattr": lambda: os.removexattr(name, "trusted.t"),
        "listxattr": lambda: os.listxattr(name),
        "utime of both": lambda: os.utime(name, (1000, 2000)),
        "utime, the same again": lambda: os.utime(name, (1000, 2000)),
        "utime now": lambda: os.utime(name),
    }
    for text, act in acts.items():
        yield f"times moved by {text}", moved(act)
    with opened(name, os.O_WRONLY) as file:
        yield "times moved by ftruncate", moved(lambda: os.ftruncate(file, 0))
        yield "times moved by fsync", moved(lambda: os.fsync(file))
    for when in ((0, 0), (1, 2), (2**31, 2**33), (-1, -1)):
        yield f"utime{when}", call(os.utime, name, when)
        found = os.stat(name)
        yield (
            f"times after utime{when}",
            calls.succeeded(times=[found.st_atime_ns, found.st_mtime_ns]),
        )
    yield "utime in ns", call(os.utime, name, ns=(1_000_000_001, 2_000_000_002))
    found = os.stat(name)
    yield "times in ns", calls.succeeded(times=[found.st_atime_ns, found.st_mtime_ns])
    with user(1000):
        yield "utime now by 1000", call(os.utime, name)
        yield "utime by 1000", call(os.utime, name, (1, 1))


def let_the_clock_tick() -> None:
    """Wait for the next tick of the clock by which the kernel stamps files."""
    before = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) == before:
        pass


def xattrs(subject: Subject) -> Probes:
    names = (
        "user.a", "trusted.a", "trusted.b", "security.a", "security.capability",
        "system.posix_acl_access", "system.posix_acl_default", "system.a", "nonsense", "user.",
        "trusted.", "", "trusted." + "n" * 247, "trusted." + "n" * 248,
    )  # fmt: skip
    acl = struct.pack("<IHHIHHIHHI", 2, 1, 6, 0xFFFFFFFF, 4, 4, 0xFFFFFFFF, 32, 4, 0xFFFFFFFF)
    for uid, name in product((0, 1000), [*subject.files, "."]):
        with user(uid):
            for key in names:
                where = f"uid {uid}: {name}: {key[:30]}({len(key)})"
                value = acl if key.startswith("system.posix") else b"value"
                yield f"{where}: set", call(os.setxattr, name, key, value)
                yield f"{where}: set empty", call(os.setxattr, name, key, b"")
                for flag in (os.XATTR_CREATE, os.XATTR_REPLACE):
                    outcome = call(os.setxattr, name, key, value, flag)
                    yield f"{where}: set {flag}", outcome
                yield f"{where}: get", call(os.getxattr, name, key)
                outcome = libc("getxattr", name.encode(), key.encode(), None, 0)
                yield f"{where}: size", outcome
                outcome = libc("getxattr", name.encode(), key.encode(), bytes(2), 2)
                yield f"{where}: get into 2 bytes", outcome
            yield f"uid {uid}: {name}: list", libc("listxattr", name.encode(), None, 0)
            yield f"uid {uid}: {name}: names", calls.succeeded(names=list_xattrs(name))
            for key in names:
                where = f"uid {uid}: {name}: {key[:30]}({len(key)})"
                yield f"{where}: remove", call(os.removexattr, name, key)
                yield f"{where}: remove again", call(os.removexattr, name, key)
                outcome = call(os.setxattr, name, key, b"v", os.XATTR_REPLACE)
                yield f"{where}: replace none", outcome
    name = subject.writable
    for size in (4096, 65536, 65537):
        outcome = call(os.setxattr, name, "trusted.big", b"v" * size)
        yield f"xattr of {size} bytes", outcome
    os.removexattr(name, "trusted.big")


def list_xattrs(name: str) -> list[str]:
    try:
        return os.listxattr(name)
    except OSError as error:
        return [str(error)]
