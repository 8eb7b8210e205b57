"""Waiting for something to happen: poll, select, epoll and inotify."""

# ruff: noqa: PTH101, PTH208
# (the system calls themselves are what is tried here)

import os
import select
import threading
from collections.abc import Callable
from itertools import product

from tests.mount import calls
from tests.mount.calls import Outcome, call, libc, opened, try_open
from tests.mount.probes.subject import Probes, Subject, content, store


def polls(subject: Subject) -> Probes:
    masks = (select.POLLIN, select.POLLOUT, select.POLLPRI, select.POLLERR, 0, 0x3FF)
    for name, flag in product([*subject.files, "."], (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)):
        if try_open(name, flag)["errno"]:
            continue
        with opened(name, flag) as file:
            for mask in masks:
                yield f"{name} {flag}: poll({mask:#x}) first", calls.poll(file, mask)
            call(os.pread, file, 0, 0)
            yield f"{name} {flag}: poll after reading nothing", calls.poll(file, 0xF)
            call(os.pread, file, 10, 100)
            yield f"{name} {flag}: poll after reading past the end", calls.poll(file, 0xF)
            call(os.pread, file, 10, 0)
            for mask in masks:
                outcome = calls.poll(file, mask, 20)
                yield f"{name} {flag}: poll({mask:#x}) after a read", outcome
            store(subject, subject.other)
            yield f"{name} {flag}: poll after a change", calls.poll(file, 0xF)
            found = select.select([file], [file], [file], 0)
            outcome = calls.succeeded(ready=[len(each) for each in found])
            yield f"{name} {flag}: select", outcome
    yield from epolls(subject)
    store(subject, subject.one)


def epolls(subject: Subject) -> Probes:
    for name, edge in product([*subject.files, "."], (0, select.EPOLLET, select.EPOLLONESHOT)):
        with opened(name) as file, select.epoll() as epoll:
            mask = select.EPOLLIN | select.EPOLLPRI | edge
            outcome = call(epoll.register, file, mask)
            yield f"{name}: epoll register {edge:#x}", outcome
            if outcome["errno"]:
                continue
            for moment in ("first", "again"):
                found = [events for _, events in epoll.poll(0)]
                yield f"{name}: epoll {edge:#x} {moment}", calls.succeeded(events=found)
            os.read(file, 10)
            epoll.modify(file, mask)
            found = [events for _, events in epoll.poll(0)]
            yield f"{name}: epoll {edge:#x} after a read", calls.succeeded(events=found)
    with opened(subject.writable) as file:
        os.read(file, 10)
        waited: list[Outcome] = []
        thread = threading.Thread(
            target=lambda: waited.append(calls.poll(file, select.POLLPRI, 200))
        )
        thread.start()
        store(subject, subject.other)
        thread.join()
        yield "poll for POLLPRI while it changes", waited[0]


def events(subject: Subject) -> Probes:
    """What inotify tells of each act, on the file and on its directory."""

    def seen(act: Callable[[], object]) -> Outcome:
        descriptor = libc("inotify_init1", os.O_NONBLOCK)["ret"]
        watches = [
            libc("inotify_add_watch", descriptor, name.encode(), 0xFFF)["ret"]
            for name in (subject.writable, ".")
        ]
        act()
        found = calls.inotify_events(descriptor)
        os.close(descriptor)
        return calls.succeeded(
            events=[[event for watch, event in found if watch == one] for one in watches]
        )

    name = subject.writable
    acts: dict[str, Callable[[], object]] = {
        "read": lambda: content(name),
        "write": lambda: store(subject, subject.one),
        "refused write": lambda: call(store, subject, "x"),
        "empty write": lambda: store(subject, ""),
        "open with O_TRUNC": lambda: try_open(name, os.O_WRONLY | os.O_TRUNC),
        "truncate": lambda: os.truncate(name, 0),
        "chmod": lambda: os.chmod(name, 0o644),
        "chown": lambda: os.chown(name, 0, 0),
        "utime": lambda: os.utime(name, (1, 2)),
        "setxattr": lambda: os.setxattr(name, "trusted.t", b"1"),
        "removexattr": lambda: os.removexattr(name, "trusted.t"),
        "lstat": lambda: os.lstat(name),
        "listing": lambda: os.listdir("."),
        "refused creation": lambda: try_open("new", os.O_CREAT | os.O_WRONLY),
        "refused removal": lambda: call(os.unlink, name),
    }
    for text, act in acts.items():
        yield f"inotify of {text}", seen(act)
