"""Opening: every flag, every odd name, and what is known of a file without opening it."""

# ruff: noqa: PTH109
# (the system calls themselves are what is tried here)

import os
from itertools import product

from tests.mount import calls
from tests.mount.calls import call, lstat, try_open, user
from tests.mount.execution import execve
from tests.mount.probes.subject import Probes, Subject, without_times


def opens(subject: Subject) -> Probes:
    """Every access mode with every flag, on every name, as two users."""
    modes = {"RDONLY": os.O_RDONLY, "WRONLY": os.O_WRONLY, "RDWR": os.O_RDWR, "3": 3}
    flags = {
        name: sum(getattr(os, f"O_{one}") for one in name.split("|") if one)
        for name in (
            "",
            "TRUNC",
            "APPEND",
            "CREAT",
            "CREAT|EXCL",
            "CREAT|TRUNC",
            "CREAT|DIRECTORY",
            "DIRECT",
            "DIRECT|TRUNC",
            "DIRECTORY",
            "NOFOLLOW",
            "NONBLOCK",
            "NOATIME",
            "SYNC",
            "DSYNC",
            "PATH",
            "ASYNC",
            "TRUNC|APPEND",
        )
    }
    flags["TMPFILE"] = os.O_TMPFILE
    names = [*subject.files, ".", "missing", "missing/", f"{subject.writable}/", "missing/x"]
    for uid in (0, 1000):
        with user(uid):
            for name, mode, flag in product(names, modes, flags):
                outcome = try_open(name, modes[mode] | flags[flag])
                yield f"uid {uid}: open({name}, {mode}|{flag})", outcome
    for length in (254, 255, 256, 300, 1000, 1024, 1025, 4095, 4096):
        for how in (os.O_RDONLY, os.O_WRONLY | os.O_CREAT):
            yield f"open(name of {length}, {how:#o})", try_open("a" * length, how)


def restricted_opens(subject: Subject) -> Probes:
    """``openat2`` with each restriction of how a path may be resolved."""
    words = ("NO_XDEV", "NO_MAGICLINKS", "NO_SYMLINKS", "BENEATH", "IN_ROOT", "CACHED")
    for name in [*subject.files, ".", "missing", "..", f"{os.getcwd()}/{subject.writable}"]:
        for bit, word in enumerate(words):
            outcome = calls.openat2(name, os.O_RDONLY, 1 << bit)
            yield f"openat2({name.rpartition('/')[2]}, {word})", outcome


def names(subject: Subject) -> Probes:
    """Names that do not quite fit."""
    odd = [
        subject.writable.upper(),
        subject.writable.capitalize(),
        subject.writable + " ",
        subject.writable + "\n",
        " " + subject.writable,
        "./" + subject.writable,
        "././" + subject.writable,
        subject.writable + "/.",
        subject.writable + "/..",
        subject.writable + "//",
        "\udcff\udcfe",
        subject.writable + "\udce9",
        "café",
        "...",
        ".hidden",
        "*",
        "",
    ]
    for name in odd:
        yield f"open({name!r})", try_open(name, os.O_RDONLY)
        yield f"lstat({name!r})", lstat(name)
        yield f"access({name!r})", calls.access(name, os.R_OK)


def descriptions(subject: Subject) -> Probes:
    for name in [*subject.files, "."]:
        yield f"lstat({name})", without_times(lstat(name))
        yield f"statfs({name})", calls.statfs(name)
        found = os.statvfs(name)
        yield (
            f"statvfs({name})",
            calls.succeeded(
                sizes=[
                    found.f_bsize,
                    found.f_frsize,
                    found.f_blocks,
                    found.f_files,
                    found.f_namemax,
                ],
                flags=found.f_flag,
            ),
        )
        yield f"access to the birth time of {name}", calls.statx_mask(name)
        for variable in ("PC_NAME_MAX", "PC_LINK_MAX", "PC_PATH_MAX", "PC_PIPE_BUF"):
            yield f"pathconf({name}, {variable})", call(os.pathconf, name, variable)
        yield f"chdir({name})", call(os.chdir, name)
        yield f"execve({name})", execve(name)
        yield f"name_to_handle_at({name})", calls.name_to_handle_at(name)
    one = {entry.name: entry.inode() for entry in os.scandir(".")}
    agreeing = all(os.lstat(name).st_ino == number for name, number in one.items())
    yield "inodes listed are those of lstat", calls.succeeded(agreeing=agreeing)
    yield "inodes differ", calls.succeeded(differing=len(set(one.values())) == len(one))
