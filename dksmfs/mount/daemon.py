"""The daemon: one machine, with a mount for the kernel and a socket for the clients.

This is the only module that knows both doors. Everything happens in one thread and one nursery,
which ends on SIGTERM, SIGINT, SIGHUP, or when somebody unmounts the file system; whatever it made
goes with it, however it ends.
"""

import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pyfuse3
import trio

from dksmfs import __version__
from dksmfs.control.attendant import attending, epoll_of_trio
from dksmfs.control.events import Bell
from dksmfs.control.messages import Hello
from dksmfs.control.server import serve_control
from dksmfs.errors import DksmfsError
from dksmfs.instances import DKSM_BELOW_SYS, Instance, claimed
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.sysfs.attribute import Attribute, Directory
from dksmfs.kernel.sysfs.tables import dksm_tree, sys_tree
from dksmfs.mount.leftovers import detach, remove_directories
from dksmfs.mount.listening import listening
from dksmfs.mount.loop import Attend, answer_requests, fuse_descriptors
from dksmfs.mount.memory import settle_memory
from dksmfs.mount.mounted_files import MountedFiles
from dksmfs.mount.operations import MOUNT_OPTIONS, SysfsOperations
from dksmfs.scenario.record import SessionRecorder

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a daemon, also where its parent ignored or blocked them."""

Store = Callable[[Attribute, bytes], int]
"""Stores into an attribute what was written, and returns how many bytes were taken."""


def run_daemon(
    instance: Instance, thp: str, ready: Callable[[Instance], None], owner: int | None = None
) -> None:
    """Serve ``instance`` until it is told to end; call ``ready`` once its files can be read.

    ``owner`` is a pidfd: with that process the daemon ends too.
    """
    trio.run(_serve, instance, thp, ready, owner)


async def _serve(
    wanted: Instance, thp: str, ready: Callable[[Instance], None], owner: int | None
) -> None:
    machine = Machine(thp=thp)
    tree = sys_tree(machine) if wanted.root == "sys" else dksm_tree(machine)
    attributes = tree.find(DKSM_BELOW_SYS) if wanted.root == "sys" else tree
    assert isinstance(attributes, Directory)
    exclusive = trio.Semaphore(1, max_value=1)  # a lock that no task owns
    recorder = SessionRecorder(machine)
    with ExitStack() as held:
        # The handlers come first: a signal during the start must not skip what comes after it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        signals = held.enter_context(trio.open_signal_receiver(*ENDING))
        instance = held.enter_context(claimed(wanted))
        listener = held.enter_context(listening(instance.socket))
        held.enter_context(_directory(instance))
        bell = Bell()

        def store(attribute: Attribute, data: bytes) -> int:
            taken = recorder.store(attribute, data)
            bell.ring()
            return taken

        run = attributes.child("run")
        assert isinstance(run, Attribute)
        operations = SysfsOperations(tree, exclusive, store)
        files = MountedFiles(operations, partial(_restart, run, store, exclusive), bell.ring)
        fuse = held.enter_context(mounted(operations, instance.mountpoint))
        attendant = held.enter_context(attending(await epoll_of_trio()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_on_signal, signals, nursery.cancel_scope)
            if owner is not None:
                nursery.start_soon(_end_with_owner, owner, nursery.cancel_scope)
            nursery.start_soon(
                _end_on_unmount,
                fuse,
                operations,
                partial(attendant.attend, hasty=True),
                nursery.cancel_scope,
            )
            nursery.start_soon(
                serve_control,
                machine,
                attributes,
                trio.SocketListener(trio.socket.from_stdlib_socket(listener)),
                exclusive,
                Hello(__version__, instance.mountpoint, instance.pid),
                attendant,
                recorder,
                files,
                bell,
            )
            settle_memory()
            ready(instance)


async def _restart(run: Attribute, store: Store, exclusive: trio.Semaphore) -> None:
    """Stop DKSM and start it again, if it runs, as somebody might who writes to its file."""
    async with exclusive:
        if run.read() != b"0\n":
            store(run, b"0\n")
            store(run, b"1\n")


async def _end_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


async def _end_with_owner(owner: int, scope: trio.CancelScope) -> None:
    await trio.lowlevel.wait_readable(owner)  # pidfd_open(2): once the process has ended
    scope.cancel()


async def _end_on_unmount(
    fuse: int, operations: SysfsOperations, attend: Attend, scope: trio.CancelScope
) -> None:
    await answer_requests(fuse, operations, attend)
    scope.cancel()


@contextmanager
def _directory(instance: Instance) -> Iterator[None]:
    """Have the mount point's directory for the length of a block."""
    try:
        for directory in reversed(instance.created):
            _make_directory(directory)
        yield
    finally:
        remove_directories(instance.created)


def _make_directory(directory: str) -> None:
    try:
        Path(directory).mkdir(exist_ok=True)
    except OSError as error:
        raise DksmfsError(f"cannot make the directory {directory}: {error.strerror}") from error


@contextmanager
def mounted(operations: pyfuse3.Operations, mountpoint: str) -> Iterator[int]:
    """Have ``operations`` mounted at ``mountpoint`` for the length of a block.

    The value is the descriptor on which the kernel's requests come.
    """
    others = fuse_descriptors()
    options = set(pyfuse3.default_options) | MOUNT_OPTIONS
    if os.geteuid() == 0:
        options.add("allow_other")  # as in sysfs, every user may look
    with tempfile.TemporaryFile() as said:
        try:
            with _standard_error_in(said.fileno()):
                pyfuse3.init(operations, mountpoint, options)
        except RuntimeError as error:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else str(error)
            raise DksmfsError(f"cannot mount at {mountpoint}: {reason}") from error
    try:
        [fuse] = fuse_descriptors() - others
        yield fuse
    finally:
        pyfuse3.close(unmount=True)
        detach(mountpoint)


@contextmanager
def _standard_error_in(descriptor: int) -> Iterator[None]:
    """Send what C code and ``fusermount3`` print on standard error to ``descriptor``."""
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
