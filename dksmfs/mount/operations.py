"""The file system calls that reach the mount, answered as sysfs answers them.

Most of sysfs's manners are one of three kinds. Permissions are checked by the kernel itself
(``default_permissions``), but sysfs looks at the mode bits of an attribute even when root opens it,
which is done here. Contents are never cached (``direct_io``); the kernel may keep the attributes of
a file, and is told to forget them when more changes than it asked for. And whatever sysfs does not
have, the kernel refuses with an errno that depends on the call (``fs/namei.c``).
"""

# ruff: noqa: ARG002 (the signatures are those of pyfuse3.Operations)

import errno
import functools
import itertools
import os
import stat
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, ParamSpec, TypeVar, cast

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    PollHandle,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.sysfs.attribute import Attribute, Directory
from dksmfs.mount.inodes import LAST_OFFSET, Inode, inode_table
from dksmfs.mount.interference import INODE_MASK, Interference
from dksmfs.mount.open_files import OpenFile

MOUNT_OPTIONS: set[str] = {"fsname=dksmfs", "subtype=dksmfs", "nosuid", "nodev", "noexec"}
"""Beside ``pyfuse3.default_options``: the flags with which systems mount sysfs, and our name."""

ForgetAttributes = Callable[[Iterable[InodeT]], None]
"""Makes the kernel ask again for the attributes of these inodes."""

_READS, _WRITES = 1, 2

P = ParamSpec("P")
T = TypeVar("T")


def reply_of(error: OSError) -> FUSEError:
    """Return the FUSE reply for an error: here, and only here, one becomes the other."""
    return FUSEError(error.errno or errno.EIO)


def answered(handler: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let a handler raise OSError."""

    @functools.wraps(handler)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(*args, **kwargs)
        except OSError as error:
            raise reply_of(error) from error

    return answer


def _refused(number: int) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return a handler that refuses every request with this errno."""

    @answered
    async def refuse(*_request: object) -> None:
        raise kernel_error(number, "sysfs has no such call")

    return refuse


class SysfsOperations(pyfuse3.Operations):
    """A tree of attributes as a file system.

    Stores take ``exclusive``, the lock of everything that changes the machine; shows never do.
    They go through ``store``, so that somebody can look on. With an ``interference``, programs
    see what that leaves of the tree.
    """

    supports_dot_lookup = False  # sysfs gives out no file handles (name_to_handle_at)

    def __init__(
        self,
        root: Directory,
        exclusive: AbstractAsyncContextManager[Any],
        store: Callable[[Attribute, bytes], int] = Attribute.write,
    ) -> None:
        super().__init__()
        self._tree = root
        self._exclusive = exclusive
        self._store = store
        self.inodes = inode_table(root, time.time_ns())
        self.files: dict[FileHandleT, OpenFile] = {}
        self._truncating: dict[FileHandleT, Inode] = {}
        self._forget_attributes: ForgetAttributes = _nobody_keeps_any
        self._handles = cast("Iterator[FileHandleT]", itertools.count(1))
        self.interference: Interference | None = None

    @property
    def root(self) -> Inode:
        """The inode of the mount point."""
        return self.inodes[InodeT(pyfuse3.ROOT_INODE)]

    @contextmanager
    def telling(self, forget_attributes: ForgetAttributes) -> Iterator[None]:
        """For the length of a block, somebody who keeps attributes is told to forget them."""
        self._forget_attributes = forget_attributes
        try:
            yield
        finally:
            self._forget_attributes = _nobody_keeps_any

    def renew(self) -> None:
        """Forget what users changed of the nodes, as a machine does that starts again."""
        self.inodes = inode_table(self._tree, time.time_ns())
        self._forget_attributes(self.inodes)

    # What needs no waiting. Errors are OSErrors.

    def find(self, parent: InodeT, name: bytes) -> Inode:
        """The inode of this name in a directory."""
        child = self.inodes[parent].children.get(name)
        if child is None:
            raise kernel_error(errno.ENOENT, f"no {name!r} here")
        return child

    def open_file(self, opened: Inode, flags: int) -> FileHandleT:
        """Open an attribute."""
        assert isinstance(opened.node, Attribute)
        _check_mode_bits(opened.attributes.st_mode, flags)
        if flags & os.O_DIRECT:
            raise kernel_error(errno.EINVAL, "sysfs has no O_DIRECT")
        handle = next(self._handles)
        if flags & os.O_TRUNC:
            now_ns = time.time_ns()
            self._keep(opened, now_ns)
            opened.touch(now_ns)
            opened.begin_truncating()
            self._truncating[handle] = opened
        self.files[handle] = OpenFile(opened.node)
        return handle

    def close_file(self, handle: FileHandleT) -> None:
        """Forget an open file."""
        del self.files[handle]
        if handle in self._truncating:
            self._truncating.pop(handle).end_truncating()

    def _keep(self, changed: Inode, now_ns: int) -> None:
        """Be about to change an inode in more than what the kernel knows of."""
        changed.keep(now_ns)
        self._forget_attributes([changed.number])

    # Finding and describing

    @answered
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        if self.interference is not None:
            parent = self.inodes[parent_inode]
            child = self.interference.looked_up(parent, name, parent.children.get(name), ctx)
            if child is None:
                raise kernel_error(errno.ENOENT, f"no {name!r} here")
            return child.attributes
        return self.find(parent_inode, name).attributes

    @answered
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        if self.interference is not None:
            self.interference.looked_at(self.inodes[inode], ctx)
        return self.inodes[inode].attributes

    @answered
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        if fields.update_size and attr.st_size > LAST_OFFSET:
            raise kernel_error(errno.EFBIG, "larger than any file of sysfs")
        changed = self.inodes[inode]
        now_ns = time.time_ns()
        self._keep(changed, now_ns)
        if fields.update_size and fh is not None:
            changed.touch(now_ns)
        _copy_attributes(changed.attributes, attr, fields, now_ns)
        return changed.attributes

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        data = StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_namemax = 255
        return data

    # Directories

    @answered
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        if self.interference is not None:
            return self.interference.opendir(self.inodes[inode], ctx)
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        directory = self.inodes[InodeT(fh & INODE_MASK)]
        if self.interference is not None:
            self.interference.readdir(fh, directory, start_id)
        for name, inode, following in directory.entries(start_id):
            if self.interference is not None and self.interference.is_gone(inode):
                continue
            if not pyfuse3.readdir_reply(token, FileNameT(name), inode.attributes, following):
                break

    async def releasedir(self, fh: FileHandleT) -> None:
        if self.interference is not None and fh > INODE_MASK:  # or it may be a file's handle, too
            self.interference.released(fh)

    # Attributes

    @answered
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        opened = self.inodes[inode]
        if self.interference is None:
            handle = self.open_file(opened, flags)
        else:
            handle = await self.interference.open(
                opened, ctx, lambda: self.open_file(opened, flags)
            )
        return FileInfo(fh=handle, direct_io=True)

    @answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        if self.interference is not None:
            return await self.interference.read(fh, self.files[fh], off, size)
        return self.files[fh].read(off, size)

    @answered
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        if self.interference is not None:
            return await self.interference.write(fh, self.files[fh], off, buf, self._write)
        return await self._write(fh, buf)

    async def _write(self, fh: FileHandleT, buf: bytes) -> int:
        async with self._exclusive:
            return self._store(self.files[fh].attribute, buf)

    async def poll(
        self,
        inode: InodeT,
        fh: FileHandleT,
        poll_handle: PollHandle | None,
        ctx: RequestContext,
    ) -> int:
        # Nothing is ever notified, as in dksm, so the handle is not kept.
        return self.files[fh].poll()

    async def release(self, fh: FileHandleT) -> None:
        if self.interference is not None:
            self.interference.released(fh)
        self.close_file(fh)

    # flush and fsync stay unimplemented: the kernel then answers 0 itself, without asking again.

    # Extended attributes

    @answered
    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        changed = self.inodes[inode]
        self._keep(changed, time.time_ns())
        changed.set_xattr(name, value)

    @answered
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        return self.inodes[inode].get_xattr(name)

    @answered
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        # simple_xattr_list: the last name first, and the trusted ones for CAP_SYS_ADMIN only
        names = sorted(self.inodes[inode].xattrs, reverse=True)
        return [XAttrNameT(n) for n in names if ctx.uid == 0 or not n.startswith(b"trusted.")]

    @answered
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        self.inodes[inode].remove_xattr(name)

    # What sysfs does not have. The kernel has checked names and permissions before it asks.

    create = _refused(errno.EACCES)
    mkdir = symlink = link = unlink = rmdir = _refused(errno.EPERM)
    fsyncdir = _refused(errno.EINVAL)

    @answered
    async def mknod(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        rdev: int,
        ctx: RequestContext,
    ) -> EntryAttributes:
        number = errno.EACCES if stat.S_ISREG(mode) else errno.EPERM
        raise kernel_error(number, "sysfs makes no nodes for its users")

    @answered
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        number = errno.EINVAL if flags else errno.EPERM  # kernfs_iop_rename
        raise kernel_error(number, "sysfs renames nothing for its users")


def _nobody_keeps_any(_inodes: Iterable[InodeT]) -> None:
    """Tell nobody to forget attributes: nobody was told any."""


def _check_mode_bits(mode: int, flags: int) -> None:
    """Refuse what no mode bit allows to anybody, even to root (``kernfs_fop_open``).

    The access mode 3 neither reads nor writes (``OPEN_FMODE``).
    """
    wanted = (flags + 1) & os.O_ACCMODE
    if (wanted & _WRITES and not mode & 0o222) or (wanted & _READS and not mode & 0o444):
        raise kernel_error(errno.EACCES, "no mode bit allows it to anybody")


def _copy_attributes(
    kept: EntryAttributes, wanted: EntryAttributes, fields: SetattrFields, now_ns: int
) -> None:
    """Take over what chmod, chown and utimensat ask for (``setattr_copy``).

    A size is accepted and forgotten. Everything else sets the time of change.
    """
    if fields.update_mode:
        kept.st_mode = ModeT(stat.S_IFMT(kept.st_mode) | stat.S_IMODE(wanted.st_mode))
    if fields.update_uid:
        kept.st_uid = wanted.st_uid
    if fields.update_gid:
        kept.st_gid = wanted.st_gid
    if fields.update_atime:
        kept.st_atime_ns = wanted.st_atime_ns
    if fields.update_mtime:
        kept.st_mtime_ns = wanted.st_mtime_ns
    if not fields.update_size:
        kept.st_ctime_ns = now_ns
