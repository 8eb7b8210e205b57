"""The recorded calls that sysfs refuses, and those that the kernel answers for it."""

# ruff: noqa: PTH109, PTH208
# (the system calls themselves are what is tried here)

import fcntl
import os
import stat
import struct
import tempfile
from functools import partial

from tests.mount import calls
from tests.mount.calls import Outcome, call, libc, lstat, opened
from tests.mount.execution import execve
from tests.mount.recorded.run_file import Calls


def modify_directory_calls(_: list[str]) -> Calls:
    with tempfile.TemporaryDirectory() as elsewhere:
        outside = f"{elsewhere}/outside"
        yield "mkdir(x)", 0, call(os.mkdir, "x")
        yield "mkdir(run)", 0, call(os.mkdir, "run")
        yield "mknod(x, S_IFREG)", 0, call(os.mknod, "x", stat.S_IFREG | 0o644)
        yield "mknod(x, S_IFIFO)", 0, call(os.mknod, "x", stat.S_IFIFO | 0o644)
        yield "mknod(run, S_IFREG)", 0, call(os.mknod, "run", stat.S_IFREG | 0o644)
        yield 'symlink("run", x)', 0, call(os.symlink, "run", "x")
        yield 'symlink("run", run)', 0, call(os.symlink, "run", "run")
        yield "link(run, x)", 0, call(os.link, "run", "x")
        yield "link(run, pages_scanned)", 0, call(os.link, "run", "pages_scanned")
        yield "link(run, outside)", 0, call(os.link, "run", outside)
        yield "rename(run, x)", 0, call(os.rename, "run", "x")
        yield "rename(run, run)", 0, call(os.rename, "run", "run")
        yield "rename(run, pages_scanned)", 0, call(os.rename, "run", "pages_scanned")
        yield "rename(nonexistent, x)", 0, call(os.rename, "nonexistent", "x")
        yield "rename(run, outside)", 0, call(os.rename, "run", outside)
        with opened(outside, os.O_CREAT | os.O_WRONLY):
            yield "rename(outside, x)", 0, call(os.rename, outside, "x")
    renameat2 = partial(libc, "syscall", calls.SYS_RENAMEAT2, calls.AT_FDCWD, b"run")
    outcome = renameat2(calls.AT_FDCWD, b"x", calls.RENAME_NOREPLACE)
    yield "renameat2(run, x, RENAME_NOREPLACE)", 0, outcome
    outcome = renameat2(calls.AT_FDCWD, b"pages_scanned", calls.RENAME_EXCHANGE)
    yield "renameat2(run, pages_scanned, RENAME_EXCHANGE)", 0, outcome
    for name in ("run", "pages_scanned", "nonexistent", "."):
        yield f"unlink({name})", 0, call(os.unlink, name)
    here = os.getcwd()
    yield "rmdir(. by its path)", 0, call(os.rmdir, here)
    yield "rmdir(run)", 0, call(os.rmdir, "run")
    yield "rmdir(nonexistent)", 0, call(os.rmdir, "nonexistent")
    yield 'rmdir("./.")', 0, call(os.rmdir, "./.")
    yield "rename(. by its path, sibling)", 0, call(os.rename, here, f"{here}-sibling")


def mmap_calls(_: list[str]) -> Calls:
    with opened("run", os.O_RDWR) as file:
        yield "mmap(run, PROT_READ, MAP_SHARED)", 0, calls.mmap(file, 1, 1)
        yield "mmap(run, PROT_READ, MAP_PRIVATE)", 0, calls.mmap(file, 1, 2)
        yield "mmap(run, PROT_READ|PROT_WRITE, MAP_SHARED)", 0, calls.mmap(file, 3, 1)


def ioctl_calls(_: list[str]) -> Calls:
    requests = {
        "TCGETS": 0x5401,
        "FIONREAD": 0x541B,
        "FS_IOC_GETFLAGS": 0x80086601,
        "FIGETBSZ": 2,
        "FIBMAP": 1,
        "0x1234": 0x1234,
    }
    with opened("run") as file:
        for name, request in requests.items():
            yield f"ioctl(run, {name})", 0, calls.ioctl(file, request)
    with opened(".") as directory:
        for name in ("FS_IOC_GETFLAGS", "0x1234"):
            yield f"ioctl(., {name})", 0, calls.ioctl(directory, requests[name])


def locks_calls(_: list[str]) -> Calls:
    lock = partial(call, fcntl.fcntl)
    with opened("run", os.O_RDWR) as one, opened("run", os.O_RDWR) as two:
        flock, now = fcntl.flock, fcntl.LOCK_NB
        yield "flock(fd1, LOCK_EX)", 0, call(flock, one, fcntl.LOCK_EX)
        yield "flock(fd2, LOCK_EX|LOCK_NB)", 0, call(flock, two, fcntl.LOCK_EX | now)
        yield "flock(fd1, LOCK_UN)", 0, call(flock, one, fcntl.LOCK_UN)
        yield "flock(fd2, LOCK_SH|LOCK_NB)", 0, call(flock, two, fcntl.LOCK_SH | now)
        yield "flock(fd1, LOCK_SH|LOCK_NB)", 0, call(flock, one, fcntl.LOCK_SH | now)
        kinds = {
            kind: struct.pack("hhqqi4x", getattr(fcntl, kind), 0, 0, 0, 0)
            for kind in ("F_WRLCK", "F_RDLCK", "F_UNLCK")
        }
        for kind in ("F_WRLCK", "F_RDLCK"):
            outcome = without_data(lock(one, fcntl.F_SETLK, kinds[kind]))
            yield f"fcntl(fd1, F_SETLK, {kind})", 0, outcome
        outcome = without_data(lock(two, fcntl.F_OFD_SETLK, kinds["F_WRLCK"]))
        yield "fcntl(fd2, F_OFD_SETLK, F_WRLCK)", 0, outcome
        outcome = without_data(lock(one, fcntl.F_SETLK, kinds["F_UNLCK"]))
        yield "fcntl(fd1, F_SETLK, F_UNLCK)", 0, outcome
        outcome = lock(one, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield "fcntl(fd1, F_SETLEASE, F_WRLCK)", 0, outcome
    with opened("run") as file:
        for kind in ("F_RDLCK", "F_UNLCK"):
            outcome = lock(file, fcntl.F_SETLEASE, getattr(fcntl, kind))
            yield f"fcntl(run O_RDONLY, F_SETLEASE, {kind})", 0, outcome
        flags = lock(file, fcntl.F_GETFL)
        outcome = calls.succeeded(flags=f"0{flags['ret']:o}")
        yield "fcntl(run O_RDONLY, F_GETFL)", 0, outcome
        outcome = lock(file, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)
        yield "fcntl(run, F_SETFL, O_APPEND|O_NONBLOCK)", 0, outcome
        outcome = lock(file, fcntl.F_SETFL, os.O_DIRECT)
        yield "fcntl(run, F_SETFL, O_DIRECT)", 0, outcome


def without_data(outcome: Outcome) -> Outcome:
    """Forget the struct that a successful lock returned."""
    return calls.succeeded() if outcome["errno"] is None else outcome


def space_and_sync_calls(_: list[str]) -> Calls:
    with opened("run", os.O_RDWR) as file:
        for name, mode in (("0", 0), ("KEEP_SIZE", 1), ("KEEP_SIZE|PUNCH_HOLE", 3)):
            outcome = libc("fallocate64", file, mode, *calls.longs(0, 4096))
            yield f"fallocate(run, {name}, 0, 4096)", 0, outcome
        yield "fsync(run)", 0, call(os.fsync, file)
        yield "fdatasync(run)", 0, call(os.fdatasync, file)
        yield "syncfs(run)", 0, libc("syncfs", file)
        outcome = libc("sync_file_range", file, *calls.longs(0, 4096), 2)
        yield "sync_file_range(run)", 0, outcome
        outcome = call(os.posix_fadvise, file, 0, 4096, os.POSIX_FADV_DONTNEED)
        yield "posix_fadvise(run, DONTNEED)", 0, outcome
        yield "readahead(run)", 0, libc("readahead", file, *calls.longs(0, 4096))


def misc_calls(_: list[str]) -> Calls:
    here = os.getcwd()
    yield "execve(run)", 0, execve("run")
    yield "chdir(run)", 0, call(os.chdir, "run")
    yield "chdir(.)", 0, call(os.chdir, ".")
    yield "chdir(/)", 0, call(os.chdir, "/")
    os.chdir(here)
    yield "name_to_handle_at(run)", 0, calls.name_to_handle_at("run")
    outcome = call(os.mknod, "dev", stat.S_IFCHR | 0o644, os.makedev(1, 3))
    yield "mknod(dev, S_IFCHR)", 0, outcome
    yield "names in /sys/kernel/mm", 0, calls.succeeded(names=[".", "..", *os.listdir("..")])
    yield 'lstat("run (at the end)")', 0, lstat("run")
    yield 'lstat(". (at the end)")', 0, lstat(".")
