"""What may stand between programs and the files: injected faults, and the log of accesses.

`SysfsOperations` goes through here only while there is a fault or a log, so that both cost nothing
as long as nobody asks for them.
"""

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio
from pyfuse3 import FileHandleT, RequestContext

from dksmfs.injection import DIRECTORY, MAX_FAULTS, Fault, Kind, Operation
from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.sysfs.attribute import Attribute
from dksmfs.mount.access_log import NOBODY, AccessLog, Who, is_killed
from dksmfs.mount.inodes import Inode
from dksmfs.mount.open_files import OpenFile

_INODE_BITS = 32
INODE_MASK = (1 << _INODE_BITS) - 1
"""A handle of an open directory is its inode, and above that a number while there is a log."""

_KILLED_CHECK_S = 0.05


@dataclass(slots=True, eq=False)
class _Injected:
    """A fault, how often its file was used since, and how often it happened."""

    fault: Fault
    frozen: bytes = b""
    uses: int = 0
    happened: int = 0
    cleared: trio.Event = field(default_factory=trio.Event)

    @property
    def spent(self) -> bool:
        return self.happened == self.fault.times

    def happens(self) -> bool:
        """Count a use of the file; tell whether the fault happens at this one."""
        self.uses += 1
        if self.uses % self.fault.every:
            return False
        self.happened += 1
        return True

    @property
    def shown(self) -> bytes:
        """What the file reads as, for the kinds that say so."""
        return self.frozen if self.fault.kind == "frozen" else self.fault.text.encode("latin-1")


class Interference:
    """The faults and the log of one mount. ``restart`` stops DKSM and starts it again."""

    def __init__(self, root: Inode, restart: Callable[[], Awaitable[None]]) -> None:
        self._names = dict(_named(root))
        self._inodes = {id(inode.node): inode for inode in self._names}
        self._restart = restart
        self._faults: list[_Injected] = []
        self._users: dict[FileHandleT, Who] = {}
        self._short: dict[FileHandleT, int] = {}
        self._delaying: list[_Injected] = []
        self._walks = 0
        self.log: AccessLog | None = None

    @property
    def needed(self) -> bool:
        """Whether there is a fault or a log."""
        return bool(self._faults) or self.log is not None

    # What others ask for

    def faults(self) -> list[Fault]:
        """The faults that can still happen, in the order in which they came."""
        return [injected.fault for injected in self._faults]

    def add(self, fault: Fault) -> None:
        """Let something be wrong with a file; OSError ENOENT if there is no such file."""
        node = next((node for node, name in self._names.items() if name == fault.file), None)
        if node is None:
            raise kernel_error(errno.ENOENT, f"there is no file {fault.file!r} to interfere with")
        if fault.kind != "gone" and not isinstance(node.node, Attribute):
            raise kernel_error(errno.EISDIR, f"{fault.file} is a directory: it can only be gone")
        if len(self._faults) >= MAX_FAULTS:
            raise kernel_error(errno.ENOSPC, f"there are {MAX_FAULTS} faults already")
        frozen = node.node.read() if isinstance(node.node, Attribute) else b""
        if fault.kind in ("text", "frozen"):
            self.clear(fault.file, fault.kind)
        self._faults.append(_Injected(fault, frozen))

    def clear(self, file: str | None = None, kind: Kind | None = None) -> None:
        """Drop the faults of a file (None: of all) and of a kind (None: any)."""

        def is_meant(fault: Fault) -> bool:
            return file in (None, fault.file) and kind in (None, fault.kind)

        for injected in [*self._faults, *self._delaying]:
            if is_meant(injected.fault):
                injected.cleared.set()
        self._faults = [injected for injected in self._faults if not is_meant(injected.fault)]

    # What the operations hand over: looking

    def looked_up(
        self, parent: Inode, name: bytes, child: Inode | None, ctx: RequestContext
    ) -> Inode | None:
        """The node of a name, if it is there and not gone."""
        if child is not None and (self.is_gone(child) or self.is_gone(parent)):
            child = None
        if self.log is not None:
            if child is None:
                file = _below(self._names[parent], os.fsdecode(name))
                self.log.miss(ctx.pid, ctx.uid, parent.number, file)
            else:
                self.log.look(ctx.pid, ctx.uid, child.number, self._names[child], parent.number)
        return child

    def looked_at(self, inode: Inode, ctx: RequestContext) -> None:
        """A look at the attributes of a node, which whoever has it open may take of a gone one."""
        # Who comes by a path has looked up all of it but the root; the rest are fstat(2), lseek(2).
        if self.log is not None and inode.parent is inode and not self._lists(inode, ctx):
            self.log.look(ctx.pid, ctx.uid, inode.number, self._names[inode], None)

    def is_gone(self, inode: Inode) -> bool:
        """Whether a node, or a directory that it is in, is gone."""
        gone = {each.fault.file for each in self._faults if each.fault.kind == "gone"}
        while gone:
            if self._names[inode] in gone:
                return True
            if inode.parent is inode:
                break
            inode = inode.parent
        return False

    # Directories

    def opendir(self, inode: Inode, ctx: RequestContext) -> FileHandleT:
        """The handle of a directory that somebody opens."""
        if self.is_gone(inode):
            raise kernel_error(errno.ENOENT, "gone")
        if self.log is None:
            return FileHandleT(inode.number)
        self._walks = self._walks % ((1 << 30) - 1) + 1
        handle = FileHandleT(self._walks << _INODE_BITS | inode.number)
        self._users[handle] = self.log.use(ctx.pid, ctx.uid, inode.number)
        self.log.record(self._users[handle], "open", self._names[inode])
        return handle

    def readdir(self, handle: FileHandleT, inode: Inode, offset: int) -> None:
        """Somebody lists a directory from an offset on."""
        if self.log is not None:
            who = self._users.get(handle, NOBODY)
            self.log.record(who, "readdir", self._names[inode], offset=offset)

    # Files

    async def open(
        self, inode: Inode, ctx: RequestContext, carry_out: Callable[[], FileHandleT]
    ) -> FileHandleT:
        """Open a file."""
        file = self._names[inode]
        if self.log is None:
            who = Who(ctx.pid, "?", ctx.uid)
        else:
            who = self.log.use(ctx.pid, ctx.uid, inode.number)
        with self._logged(who, "open", file):
            if self.is_gone(inode):
                raise kernel_error(errno.ENOENT, "gone")
            await self._hinder(file, "open", who)
            handle = carry_out()
        self._users[handle] = who
        return handle

    async def read(self, handle: FileHandleT, opened: OpenFile, offset: int, size: int) -> bytes:
        """Read from an open file."""
        inode = self._inodes[id(opened.attribute)]
        file, who = self._names[inode], self._users.get(handle, NOBODY)
        with self._logged(who, "read", file, offset, size) as returns:
            self._check_active(inode)
            text, restarts = None, False
            if opened.is_fresh(offset):
                self._short.pop(handle, None)
                text, restarts = await self._reading(handle, file, who)
            data = opened.read(offset, min(size, self._short.get(handle, size)), text)
            returns(len(data))
            if restarts:
                await self._restart()
        return data

    async def write(
        self,
        handle: FileHandleT,
        opened: OpenFile,
        offset: int,
        buffer: bytes,
        carry_out: Callable[[FileHandleT, bytes], Awaitable[int]],
    ) -> int:
        """Write to an open file."""
        inode = self._inodes[id(opened.attribute)]
        file, who = self._names[inode], self._users.get(handle, NOBODY)
        with self._logged(who, "write", file, offset, len(buffer)) as returns:
            self._check_active(inode)
            await self._hinder(file, "write", who)
            taken = await carry_out(handle, buffer)
            returns(taken)
        return taken

    def released(self, handle: FileHandleT) -> None:
        """A file or a directory is closed for the last time."""
        self._users.pop(handle, None)
        self._short.pop(handle, None)

    # How faults happen

    def _check_active(self, inode: Inode) -> None:
        if self.is_gone(inode):
            raise kernel_error(errno.ENODEV, "the file has gone")  # kernfs_get_active

    async def _reading(self, handle: FileHandleT, file: str, who: Who) -> tuple[bytes | None, bool]:
        """What a reading of the file that begins is to show instead, if anything, and whether DKSM
        is restarted in its middle."""
        happening = await self._hinder(file, "read", who)
        for injected in happening:
            if injected.fault.kind == "short":
                self._short[handle] = injected.fault.size
        texts = [each.shown for each in happening if each.fault.kind in ("text", "frozen")]
        restarts = any(injected.fault.kind == "restart" for injected in happening)
        return (texts[-1] if texts else None), restarts

    async def _hinder(self, file: str, operation: Operation, who: Who) -> list[_Injected]:
        """Count a use of a file: wait and fail as the faults say; return those that happen."""
        happening = [
            injected
            for injected in self._faults
            if (injected.fault.file, injected.fault.operation) == (file, operation)
            and injected.fault.kind != "gone"
            and injected.happens()
        ]
        self._faults = [injected for injected in self._faults if not injected.spent]
        for injected in happening:
            if injected.fault.kind == "delay":
                await self._delay(injected, who)
        for injected in happening:
            if injected.fault.kind == "error":
                raise kernel_error(injected.fault.number, "an injected fault")
        return happening

    async def _delay(self, injected: _Injected, who: Who) -> None:
        """Wait until the time is over, or the fault is cleared, or who waits has been killed: the
        kernel lets nobody die who waits for an answer that we have begun."""
        self._delaying.append(injected)
        try:
            with trio.move_on_after(injected.fault.delay_s):
                while not injected.cleared.is_set():
                    with trio.move_on_after(_KILLED_CHECK_S):
                        await injected.cleared.wait()
                    if is_killed(who):
                        raise kernel_error(errno.EINTR, "killed meanwhile")
        finally:
            self._delaying.remove(injected)

    # The log

    @contextmanager
    def _logged(
        self, who: Who, operation: Operation, file: str, offset: int = 0, size: int = 0
    ) -> Iterator[Callable[[int], None]]:
        """Log what happens in a block: the result that it names, or the error that it raises."""
        results = [0]
        try:
            yield results.append
        except OSError as error:
            self._record(who, operation, file, offset, size, -1, _name_of(error))
            raise
        self._record(who, operation, file, offset, size, results[-1], None)

    def _record(
        self,
        who: Who,
        operation: Operation,
        file: str,
        offset: int,
        size: int,
        result: int,
        name: str | None,
    ) -> None:
        if self.log is not None:
            self.log.record(
                who, operation, file, offset=offset, size=size, result=result, errno=name
            )

    def _lists(self, inode: Inode, ctx: RequestContext) -> bool:
        """Whether who asks has the directory open."""
        return any(
            handle & INODE_MASK == inode.number and who.pid == ctx.pid
            for handle, who in self._users.items()
            if handle > INODE_MASK
        )


def _name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def _named(root: Inode) -> Iterator[tuple[Inode, str]]:
    """The name of each node below a root that is the dksm directory, or a whole fake /sys."""
    if root.node.name == "dksm":
        yield root, DIRECTORY
        for child in root.children.values():
            yield child, child.node.name
        return
    waiting = [(root, "/sys")]
    while waiting:
        inode, name = waiting.pop()
        if inode.node.name == "dksm":
            yield from _named(inode)
            continue
        yield inode, name
        waiting += [(child, f"{name}/{child.node.name}") for child in inode.children.values()]


def _below(directory: str, name: str) -> str:
    return name if directory == DIRECTORY else f"{directory}/{name}"
