"""The recorded calls that look: stat, readdir, read, lseek, poll."""

import os
import re
import select

from tests.mount import calls
from tests.mount.calls import call, libc, lstat, opened
from tests.mount.recorded.run_file import FILES, Calls, open_flags, set_run


def stat_calls(_: list[str]) -> Calls:
    for name in (".", *FILES):
        yield f'lstat("{name}")', 0, lstat(name)
    yield 'lstat(".. (the mm directory)")', 0, lstat("..")
    one, other = os.lstat("run"), os.lstat("pages_scanned")
    compared = calls.succeeded(
        inode_differs=one.st_ino != other.st_ino, same_device=one.st_dev == other.st_dev
    )
    yield "compare inodes of run and pages_scanned", 0, compared
    for name in ("nonexistent", "run/x"):
        yield f'lstat("{name}")', 0, lstat(name)
    yield "readlink(run)", 0, call(os.readlink, "run")
    yield "statfs(.)", 0, calls.statfs(".")


def readdir_calls(_: list[str]) -> Calls:
    for size in (8192, 64, 30, 10):
        with opened(".") as directory:
            more, number = True, 0
            while more:
                found = calls.getdents(directory, size)
                yield f"getdents64(dirfd, {size}) #{number}", 0, found
                more, number = found["ret"] > 0, number + 1
    with opened(".") as directory:
        yield "read(dirfd)", 0, call(os.read, directory, 10)
        yield "write(dirfd)", 0, call(os.write, directory, b"x")
        yield "lseek(dirfd, 0, SEEK_END)", 0, call(os.lseek, directory, 0, os.SEEK_END)
        yield "lseek(dirfd, 0, SEEK_SET)", 0, call(os.lseek, directory, 0, os.SEEK_SET)
        yield "lseek(dirfd, 2, SEEK_SET)", 0, call(os.lseek, directory, 2, os.SEEK_SET)
        yield "getdents64 after lseek 2", 0, calls.getdents(directory, 8192)
        yield "fsync(dirfd)", 0, call(os.fsync, directory)
        last = 0x7FFFFFFF
        yield "lseek(dirfd, 0x7fffffff, SEEK_SET)", 0, call(os.lseek, directory, last, 0)
        yield "getdents64 after lseek 0x7fffffff", 0, calls.getdents(directory, 8192)
        yield "lseek(dirfd, -1, SEEK_SET)", 0, call(os.lseek, directory, -1, os.SEEK_SET)


def read_calls(recorded: list[str]) -> Calls:
    for name in FILES:
        with opened(name) as file:
            yield f"open({name}, O_RDONLY); read(fd, 4096)", 0, calls.read(file, 4096)
            yield f"read(fd, 4096) again on {name}", 0, calls.read(file, 4096)
    pattern = r"open\((\w+)\); pread\(fd, len=(\d+), offset=(-?\d+)\)"
    for text in recorded:
        if match := re.fullmatch(pattern, text):
            with opened(match[1]) as file:
                yield text, 0, calls.pread(file, int(match[2]), int(match[3]))
    with opened("hashtable_size") as file:
        for number in range(7):
            yield f"hashtable_size: read(fd, 1) #{number}", 0, calls.read(file, 1)
    with opened("hashtable_size") as file:
        buffers = [bytearray(2), bytearray(3)]
        outcome = call(os.readv, file, buffers)
        outcome["data"] = b"".join(buffers)[: outcome["ret"]].decode()
        yield "hashtable_size: readv(fd, [2,3])", 0, outcome
    with opened("run") as file:
        yield "run: read into a bad address", 0, libc("read", file, calls.BAD_ADDRESS, 10)
    with opened("run", os.O_WRONLY) as file:
        yield "run opened O_WRONLY: read", 0, calls.read(file, 10)
        yield "run opened O_WRONLY: pread", 0, calls.pread(file, 10, 0)
    with opened("run") as file:
        yield "run opened O_RDONLY: write", 0, call(os.write, file, b"1")


def read_after_change_calls(_: list[str]) -> Calls:
    set_run(0)
    with opened("run") as file:
        yield "fd: read -> (run is 0)", 0, calls.read(file, 10)
        set_run(1)
        text = "run set to 1 through another descriptor; fd: read at end"
        yield text, 0, calls.read(file, 10)
        yield "fd: pread(10, 0)", 0, calls.pread(file, 10, 0)
        set_run(0)
        yield "run set to 0; fd: pread(10, 1)", 0, calls.pread(file, 10, 1)
        yield "fd: pread(10, 0)", 0, calls.pread(file, 10, 0)
        set_run(1)
        os.lseek(file, 0, os.SEEK_SET)
        yield "run set to 1; fd: lseek 0, read", 0, calls.read(file, 10)
    set_run(0)
    with opened("run") as file:
        yield "new fd (run is 0): read 1 byte", 0, calls.read(file, 1)
        set_run(1)
        text = "run set to 1; fd: read 10 (continuing at offset 1)"
        yield text, 0, calls.read(file, 10)
    set_run(0)
    with opened("run") as file:
        set_run(1)
        text = "opened while run is 0, set to 1 before the first read: read"
        yield text, 0, calls.read(file, 10)
    set_run(0)


def lseek_calls(recorded: list[str]) -> Calls:
    whences = {"SEEK_SET": 0, "SEEK_CUR": 1, "SEEK_END": 2, "SEEK_DATA": 3, "SEEK_HOLE": 4}
    pattern = r"run \((\w+), one descriptor\): lseek\((-?\d+), (\w+)\)"
    for mode in ("O_RDONLY", "O_WRONLY"):
        with opened("run", open_flags(mode)) as file:
            for text in recorded:
                match = re.fullmatch(pattern, text)
                if match and match[1] == mode:
                    whence = whences.get(match[3], 99)
                    yield text, 0, call(os.lseek, file, int(match[2]), whence)
    for offset in (1, 5000):
        with opened("run") as file:
            os.lseek(file, offset, os.SEEK_SET)
            yield f"run: lseek {offset}; read 10", 0, calls.read(file, 10)


def poll_calls(_: list[str]) -> Calls:
    everything = select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLERR
    set_run(0)
    with opened("run") as file:
        text = "run: poll(IN|OUT|PRI|ERR) before the first read"
        yield text, 0, calls.poll(file, everything)
        yield "run: poll(IN) before the first read", 0, calls.poll(file, select.POLLIN)
        os.read(file, 10)
        yield "run: poll after a read", 0, calls.poll(file, everything)
        set_run(1)
        text = "run: poll after run was changed through another descriptor"
        yield text, 0, calls.poll(file, everything)
        os.pread(file, 10, 0)
        yield "run: poll after reading again", 0, calls.poll(file, everything)
        yield "run: poll(PRI) after reading again", 0, calls.poll(file, select.POLLPRI)
        with select.epoll() as epoll:
            yield "epoll_ctl(ADD, run)", 0, call(epoll.register, file, select.EPOLLIN)
            found = epoll.poll(0)
            outcome = calls.succeeded(len(found), events=found[0][1] if found else 0)
            yield "epoll_wait", 0, outcome
    with opened("run", os.O_WRONLY) as file:
        yield "run O_WRONLY: poll", 0, calls.poll(file, everything)
    with opened(".") as directory:
        yield "directory: poll", 0, calls.poll(directory, everything)
    set_run(0)
