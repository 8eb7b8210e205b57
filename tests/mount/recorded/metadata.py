"""The recorded calls about opening, permissions, modes, owners, times and extended attributes."""

# ruff: noqa: PTH101, PTH109, PTH116
# (the system calls themselves are what is tried here)

import os
import re

from tests.mount import calls
from tests.mount.calls import call, libc, lstat, opened, try_open, user
from tests.mount.recorded.run_file import FILES, Calls, open_flags, run_value, set_run, written

_ACCESSES = {"R_OK": os.R_OK, "W_OK": os.W_OK, "X_OK": os.X_OK}


def open_calls(recorded: list[str]) -> Calls:
    names = {"name of 256 'a'": "a" * 256, "name of 255 'a'": "a" * 255}
    for text in recorded[: recorded.index("open(name of 255 'a', O_WRONLY|O_CREAT)") + 1]:
        match = re.fullmatch(r"open\((.*), (.*)\)", text)
        assert match
        outcome = try_open(names.get(match[1], match[1]), open_flags(match[2]))
        yield text, 0, outcome
    for name in FILES:
        for mode in ("O_WRONLY", "O_RDWR"):
            yield f"open({name}, {mode})", 0, try_open(name, open_flags(mode))
            if name == "run":
                with opened(name, open_flags(mode)) as file:
                    yield 'run: write("5")', 0, written(file, b"5")


def permissions_calls(_: list[str]) -> Calls:
    for uid in (0, 1000):
        with user(uid):
            for name in FILES:
                for mode in ("O_RDONLY", "O_WRONLY", "O_RDWR"):
                    yield f"open({name}, {mode})", uid, try_open(name, open_flags(mode))
                for word, mode_bits in _ACCESSES.items():
                    yield f"access({name}, {word})", uid, calls.access(name, mode_bits)
            for word, mode_bits in _ACCESSES.items():
                yield f"access(., {word})", uid, calls.access(".", mode_bits)
    with user(1000):
        yield "chmod(run, 0666)", 1000, call(os.chmod, "run", 0o666)
        yield "chown(run, 1000, 1000)", 1000, call(os.chown, "run", 1000, 1000)
        yield "utimensat(run, now)", 1000, call(os.utime, "run")
        yield "truncate(run, 0)", 1000, call(os.truncate, "run", 0)
        yield "truncate(pages_scanned, 0)", 1000, call(os.truncate, "pages_scanned", 0)
        yield "unlink(run)", 1000, call(os.unlink, "run")
        yield "mkdir(x)", 1000, call(os.mkdir, "x")
        outcome = try_open("new", os.O_WRONLY | os.O_CREAT)
        yield "open(new, O_WRONLY|O_CREAT)", 1000, outcome
        yield "rename(run, x)", 1000, call(os.rename, "run", "x")
        yield "setxattr(run, user.a)", 1000, call(os.setxattr, "run", "user.a", b"b")
        yield "rmdir(.)", 1000, call(os.rmdir, os.getcwd())


def attributes_calls(_: list[str]) -> Calls:
    yield 'lstat("run")', 0, lstat("run")
    for mode in ("0600", "0777", "04755", "0000"):
        yield f"chmod(run, {mode})", 0, call(os.chmod, "run", int(mode, 8))
        yield 'lstat("run")', 0, lstat("run")
    yield "open(run (mode 0), O_RDWR as root)", 0, try_open("run", os.O_RDWR)
    yield "chmod(run, 0444)", 0, call(os.chmod, "run", 0o444)
    yield "open(run (mode 0444), O_RDWR as root)", 0, try_open("run", os.O_RDWR)
    yield "chmod(run, 0644)", 0, call(os.chmod, "run", 0o644)
    yield "chmod(pages_scanned, 0666)", 0, call(os.chmod, "pages_scanned", 0o666)
    yield 'lstat("pages_scanned")', 0, lstat("pages_scanned")
    text = "open(pages_scanned (mode 0666), O_WRONLY)"
    yield text, 0, try_open("pages_scanned", os.O_WRONLY)
    with opened("pages_scanned", os.O_WRONLY) as file:
        yield 'write(pages_scanned, "1")', 0, call(os.write, file, b"1")
    yield "chmod(pages_scanned, 0444)", 0, call(os.chmod, "pages_scanned", 0o444)
    yield from owner_calls()
    for name in ("run", "."):
        outcome = call(os.utime, name, (1000, 2000))
        yield f"utimensat({name}, atime=1000, mtime=2000)", 0, outcome
        found = os.stat(name)
        outcome = calls.succeeded(atime=int(found.st_atime), mtime=int(found.st_mtime))
        yield f"stat({name}) times", 0, outcome
    yield from times_calls()
    yield from truncate_calls()


def owner_calls() -> Calls:
    yield "chown(run, 1000, 1001)", 0, call(os.chown, "run", 1000, 1001)
    yield 'lstat("run")', 0, lstat("run")
    yield "chown(run, 0, 0)", 0, call(os.chown, "run", 0, 0)
    yield 'lstat("run")', 0, lstat("run")
    yield "chmod(., 0700)", 0, call(os.chmod, ".", 0o700)
    yield 'lstat(".")', 0, lstat(".")
    yield "chmod(., 0755)", 0, call(os.chmod, ".", 0o755)
    yield "chown(., 1000, 1000)", 0, call(os.chown, ".", 1000, 1000)
    yield 'lstat(".")', 0, lstat(".")
    yield "chown(., 0, 0)", 0, call(os.chown, ".", 0, 0)


def times_calls() -> Calls:
    before = os.stat("run")
    set_run(1)
    set_run(0)
    after = os.stat("run")
    changed = calls.succeeded(
        mtime_changed=before.st_mtime != after.st_mtime,
        ctime_changed=before.st_ctime != after.st_ctime,
    )
    yield "stat(run) after writes (mtime was 2000)", 0, changed
    run_value()
    changed = calls.succeeded(atime_changed=before.st_atime != os.stat("run").st_atime)
    yield "stat(run) after a read (atime was 1000)", 0, changed


def truncate_calls() -> Calls:
    for size in (0, 10, 5000, -1):
        yield f"truncate(run, {size})", 0, call(os.truncate, "run", size)
    yield 'lstat("run")', 0, lstat("run")
    yield "truncate(pages_scanned, 0)", 0, call(os.truncate, "pages_scanned", 0)
    yield "truncate(., 0)", 0, call(os.truncate, ".", 0)
    with opened("run", os.O_WRONLY) as file:
        for size in (0, 100):
            yield f"ftruncate(run O_WRONLY, {size})", 0, call(os.ftruncate, file, size)
    yield 'lstat("run")', 0, lstat("run")
    with opened("run") as file:
        yield "ftruncate(run O_RDONLY, 0)", 0, call(os.ftruncate, file, 0)


def xattr_calls(_: list[str]) -> Calls:
    names = (
        "user.a",
        "trusted.a",
        "security.a",
        "system.posix_acl_access",
        "system.a",
        "nonsense",
    )
    for name in names:
        yield f'setxattr(run, "{name}", "b")', 0, call(os.setxattr, "run", name, b"b")
        outcome = {"data": "", **call(os.getxattr, "run", name)}
        yield f'getxattr(run, "{name}")', 0, outcome
        yield "listxattr(run)", 0, libc("listxattr", b"run", None, 0)
        yield f'removexattr(run, "{name}")', 0, call(os.removexattr, "run", name)
    yield 'setxattr(., "user.a")', 0, call(os.setxattr, ".", "user.a", b"b")
    yield 'setxattr(., "trusted.a")', 0, call(os.setxattr, ".", "trusted.a", b"b")
    yield "listxattr(.)", 0, libc("listxattr", b".", None, 0)
    yield 'removexattr(., "trusted.a")', 0, call(os.removexattr, ".", "trusted.a")


def uid1000_after_chmod_calls(_: list[str]) -> Calls:
    os.chmod("run", 0o666)
    yield from writes_of_1000()
    os.chmod("run", 0o644)
    os.chown("run", 1000, 1000)
    yield from writes_of_1000()
    os.chown("run", 0, 0)


def writes_of_1000() -> Calls:
    with user(1000):
        for value in (b"1", b"0"):
            text = "open(run, O_WRONLY) (mode 0666 or owned by 1000)"
            yield text, 1000, try_open("run", os.O_WRONLY)
            with opened("run", os.O_WRONLY) as file:
                yield f'write(run, "{value.decode()}")', 1000, written(file, value)
