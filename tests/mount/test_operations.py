"""The handlers, called directly: no mount, no kernel."""

import errno
import os
import stat
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast

import pyfuse3
import pytest
import trio
from pyfuse3 import (
    FileHandleT,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    RequestContext,
    XAttrNameT,
)

from dksmfs.kernel.machine import Machine
from dksmfs.kernel.sysfs.tables import dksm_tree
from dksmfs.mount.operations import SysfsOperations

T = TypeVar("T")

ROOT = pyfuse3.ROOT_INODE
NOBODY = cast("RequestContext", None)  # handlers that do not look at who asks


def machine_and_operations() -> tuple[Machine, SysfsOperations]:
    machine = Machine()
    return machine, SysfsOperations(dksm_tree(machine), trio.Lock())


def done(handler: Callable[..., Coroutine[Any, Any, T]], *arguments: object) -> T:
    """Run a handler to its end."""
    return trio.run(handler, *arguments)


def errno_of(handler: Callable[..., Awaitable[object]], *arguments: object) -> str:
    """Return the errno with which a handler refuses."""
    with pytest.raises(FUSEError) as refused:
        trio.run(handler, *arguments)
    return errno.errorcode[refused.value.errno]


def inode_of(operations: SysfsOperations, name: bytes) -> InodeT:
    return done(operations.lookup, ROOT, FileNameT(name), NOBODY).st_ino


def opened(operations: SysfsOperations, name: bytes, flags: int) -> FileHandleT:
    return done(operations.open, inode_of(operations, name), FlagT(flags), NOBODY).fh


def test_lookup_finds_attributes_and_nothing_else() -> None:
    _, operations = machine_and_operations()
    found = done(operations.lookup, ROOT, FileNameT(b"run"), NOBODY)
    assert (found.st_mode, found.st_size, found.st_nlink) == (stat.S_IFREG | 0o644, 4096, 1)
    assert (found.entry_timeout, found.attr_timeout) == (0, 0)
    assert errno_of(operations.lookup, ROOT, FileNameT(b"missing"), NOBODY) == "ENOENT"


def test_written_text_is_stored_and_read_back() -> None:
    machine, operations = machine_and_operations()
    handle = opened(operations, b"run", os.O_RDWR)
    assert done(operations.write, handle, 4000, b"1\n") == 2
    assert machine.dksm.run == 1
    assert done(operations.read, handle, 0, 4096) == b"1\n"
    assert errno_of(operations.write, handle, 0, b"2") == "EINVAL"
    done(operations.release, handle)


def test_open_is_direct_and_obeys_the_mode_bits_whoever_asks() -> None:
    _, operations = machine_and_operations()
    run, scanned = inode_of(operations, b"run"), inode_of(operations, b"pages_scanned")
    assert done(operations.open, run, FlagT(os.O_RDWR), NOBODY).direct_io
    assert errno_of(operations.open, scanned, FlagT(os.O_WRONLY), NOBODY) == "EACCES"
    assert errno_of(operations.open, scanned, FlagT(os.O_RDWR), NOBODY) == "EACCES"
    assert errno_of(operations.open, run, FlagT(os.O_RDONLY | os.O_DIRECT), NOBODY) == "EINVAL"
    done(operations.open, scanned, FlagT(3), NOBODY)  # neither reads nor writes


def test_store_waits_for_the_lock_and_show_does_not() -> None:
    machine = Machine()
    exclusive = trio.Lock()
    operations = SysfsOperations(dksm_tree(machine), exclusive)
    handle = opened(operations, b"run", os.O_RDWR)

    async def write_while_locked() -> None:
        async with trio.open_nursery() as nursery, exclusive:
            nursery.start_soon(operations.write, handle, 0, b"1")
            await trio.testing.wait_all_tasks_blocked()
            assert await operations.read(handle, 0, 9) == b"0\n"
        assert await operations.read(handle, 0, 9) == b"1\n"

    trio.run(write_while_locked)


def test_what_sysfs_does_not_have_is_refused_as_the_kernel_refuses_it() -> None:
    _, operations = machine_and_operations()
    name, other = FileNameT(b"x"), FileNameT(b"y")
    assert errno_of(operations.create, ROOT, name, 0o644, 0, NOBODY) == "EACCES"
    assert errno_of(operations.mkdir, ROOT, name, 0o755, NOBODY) == "EPERM"
    assert errno_of(operations.symlink, ROOT, name, other, NOBODY) == "EPERM"
    assert errno_of(operations.link, ROOT, ROOT, name, NOBODY) == "EPERM"
    assert errno_of(operations.unlink, ROOT, name, NOBODY) == "EPERM"
    assert errno_of(operations.rmdir, ROOT, name, NOBODY) == "EPERM"
    assert errno_of(operations.fsyncdir, FileHandleT(ROOT), False) == "EINVAL"
    regular, fifo = ModeT(stat.S_IFREG | 0o644), ModeT(stat.S_IFIFO | 0o644)
    assert errno_of(operations.mknod, ROOT, name, regular, 0, NOBODY) == "EACCES"
    assert errno_of(operations.mknod, ROOT, name, fifo, 0, NOBODY) == "EPERM"
    flags = pyfuse3.RENAME_EXCHANGE
    assert errno_of(operations.rename, ROOT, name, ROOT, other, FlagT(0), NOBODY) == "EPERM"
    assert errno_of(operations.rename, ROOT, name, ROOT, other, flags, NOBODY) == "EINVAL"


def test_extended_attributes_of_two_kinds_are_kept() -> None:
    _, operations = machine_and_operations()
    run = inode_of(operations, b"run")
    kept, user = XAttrNameT(b"trusted.a"), XAttrNameT(b"user.a")
    done(operations.setxattr, run, kept, b"1", NOBODY)
    assert done(operations.getxattr, run, kept, NOBODY) == b"1"
    assert errno_of(operations.setxattr, run, user, b"1", NOBODY) == "ENOTSUP"
    assert errno_of(operations.getxattr, run, user, NOBODY) == "ENODATA"
    assert errno_of(operations.setxattr, run, XAttrNameT(b"trusted."), b"1", NOBODY) == "EINVAL"
    done(operations.removexattr, run, kept, NOBODY)
    assert errno_of(operations.getxattr, run, kept, NOBODY) == "ENODATA"
