"""The inodes of a mounted tree: mode, owner, times and extended attributes of each node.

The tree itself never changes; what ``chmod``, ``chown``, ``touch`` and ``setfattr`` change is kept
here for as long as the mount lives, as sysfs keeps it for as long as the machine runs
(``struct kernfs_iattrs``).
"""

import errno
import os
import stat
import struct
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property

import pyfuse3
from pyfuse3 import EntryAttributes, InodeT

from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.sysfs.attribute import ATTRIBUTE_SIZE, Attribute, Directory, Node, name_hash

LAST_OFFSET = 0x7FFFFFFF
"""Both the offset behind the last entry of a directory and the largest file offset of sysfs
(``MAX_NON_LFS``)."""

_KEPT_S = 1 << 31
"""How long the kernel may keep a file's attributes (seconds): until it is told to forget them.

Not while somebody has it open with ``O_TRUNC``: some time after our reply to that open the kernel
takes the size for 0 (``handle_truncate``), without forgetting it. And not those of a directory: who
must not wait in sysfs (``RESOLVE_CACHED``) gets no further than there, as its permission wants a
lock (``kernfs_iop_permission``).
"""

_ENTRY_OUT = struct.Struct("=Q16xQ8x88s")  # fuse_entry_out (linux/fuse.h): nodeid, attr_valid, attr
_ATTR_OUT = struct.Struct("=Q8x88s")  # fuse_attr_out: attr_valid, attr
_ATTR = struct.Struct("=QQQqqqIIIIIIIIII")  # fuse_attr

_SETTABLE = (b"trusted.", b"security.")
_READABLE = (*_SETTABLE, b"user.")


class Inode:
    """A node of the tree with the metadata that its users can change."""

    def __init__(self, node: Node, number: InodeT, parent: "Inode | None", now_ns: int) -> None:
        self.node = node
        self.parent = parent or self
        self.children: dict[bytes, Inode] = {}
        self.xattrs: dict[bytes, bytes] = {}
        self.attributes = _attributes(node, number, now_ns)
        self.number = number
        self._is_kept = False
        self._truncating = 0

    @cached_property
    def entry_out(self) -> bytes:
        """``fuse_entry_out``: that this name is this inode is to be asked again each time, but the
        kernel may keep the attributes."""
        return _ENTRY_OUT.pack(self.number, self._kept_s, _attr(self.attributes))

    @cached_property
    def attr_out(self) -> bytes:
        """``fuse_attr_out``: the attributes, which the kernel may keep."""
        return _ATTR_OUT.pack(self._kept_s, _attr(self.attributes))

    def entries(self, offset: int) -> Iterator[tuple[bytes, "Inode", int]]:
        """Walk over a directory from an offset on: name, inode, and the next entry's offset.

        The offset of an entry is the hash of its name (``kernfs_fop_readdir``). Behind the last of
        them the kernel still finds the last one (``kernfs_dir_pos``), until the end itself.
        """
        found = [(b".", self), (b"..", self.parent), *self.children.items()]
        offsets = [0, 1, *(name_hash(os.fsdecode(name)) for name in self.children)]
        first = bisect_left(offsets, offset)
        if self.children and offset < LAST_OFFSET:
            first = min(first, len(found) - 1)
        following = [*offsets[1:], LAST_OFFSET]
        for (name, inode), next_offset in zip(found[first:], following[first:], strict=True):
            yield name, inode, next_offset

    def keep(self, now_ns: int) -> None:
        """Be about to change: from the first change on sysfs keeps the times it gives the node
        now (``kernfs_iattrs``)."""
        self._forget_told()
        if not self._is_kept:
            self._is_kept = True
            self.attributes.st_atime_ns = now_ns
            self.touch(now_ns)

    def touch(self, now_ns: int) -> None:
        """Be modified now, as by an open with ``O_TRUNC`` or an ``ftruncate``."""
        self.attributes.st_mtime_ns = now_ns
        self.attributes.st_ctime_ns = now_ns

    def begin_truncating(self) -> None:
        """Be open with ``O_TRUNC`` once more."""
        self._truncating += 1
        self._forget_told()

    def end_truncating(self) -> None:
        """Be open with ``O_TRUNC`` once less."""
        self._truncating -= 1
        self._forget_told()

    @property
    def _kept_s(self) -> int:
        return _KEPT_S if isinstance(self.node, Attribute) and not self._truncating else 0

    def _forget_told(self) -> None:
        for told in ("entry_out", "attr_out"):
            vars(self).pop(told, None)

    def set_xattr(self, name: bytes, value: bytes) -> None:
        """Set an extended attribute; OSError EOPNOTSUPP for the kinds that sysfs does not keep."""
        _check_xattr_name(name, _SETTABLE)
        self.xattrs[name] = value

    def get_xattr(self, name: bytes) -> bytes:
        """Return an extended attribute; OSError ENODATA or EOPNOTSUPP."""
        _check_xattr_name(name, _READABLE)
        if name not in self.xattrs:
            raise kernel_error(errno.ENODATA, "no such extended attribute")
        return self.xattrs[name]

    def remove_xattr(self, name: bytes) -> None:
        """Remove an extended attribute; OSError ENODATA or EOPNOTSUPP."""
        _check_xattr_name(name, _SETTABLE)
        if self.xattrs.pop(name, None) is None:
            raise kernel_error(errno.ENODATA, "no such extended attribute")


def _attr(a: EntryAttributes) -> bytes:
    times = [divmod(ns, 1_000_000_000) for ns in (a.st_atime_ns, a.st_mtime_ns, a.st_ctime_ns)]
    seconds, nanoseconds = zip(*times, strict=True)
    others = (a.st_mode, a.st_nlink, a.st_uid, a.st_gid, a.st_rdev, a.st_blksize)
    return _ATTR.pack(a.st_ino, a.st_size, a.st_blocks, *seconds, *nanoseconds, *others, 0)


def _check_xattr_name(name: bytes, kinds: tuple[bytes, ...]) -> None:
    """Refuse the names of other kinds, and a kind without a name (``xattr_resolve_name``)."""
    if name in _READABLE:
        raise kernel_error(errno.EINVAL, "an extended attribute without a name")
    if not name.startswith(kinds):
        raise kernel_error(errno.EOPNOTSUPP, "not a kind that sysfs keeps")


def inode_table(root: Directory, now_ns: int) -> dict[InodeT, Inode]:
    """Give every node of a tree an inode; the root's number is the one that FUSE demands."""
    table: dict[InodeT, Inode] = {}
    _add(table, root, None, now_ns)
    return table


def _add(table: dict[InodeT, Inode], node: Node, parent: Inode | None, now_ns: int) -> None:
    inode = Inode(node, InodeT(pyfuse3.ROOT_INODE + len(table)), parent, now_ns)
    table[inode.number] = inode
    if parent is not None:
        parent.children[os.fsencode(node.name)] = inode
    if isinstance(node, Directory):
        for child in node:
            _add(table, child, inode, now_ns)


def _attributes(node: Node, number: InodeT, now_ns: int) -> EntryAttributes:
    """Return what ``stat`` says of a node that nobody has changed.

    The owner is whoever serves the tree: root as in sysfs, or the user whose private tree it is.
    Of what it is told in this form (by pyfuse3) the kernel keeps nothing.
    """
    attributes = EntryAttributes()
    attributes.st_ino = number
    attributes.entry_timeout = attributes.attr_timeout = 0
    if isinstance(node, Attribute):
        kind, attributes.st_nlink, attributes.st_size = stat.S_IFREG, 1, ATTRIBUTE_SIZE
    else:
        directories = sum(isinstance(child, Directory) for child in node)
        kind, attributes.st_nlink, attributes.st_size = stat.S_IFDIR, 2 + directories, 0
    attributes.st_mode = pyfuse3.ModeT(kind | node.mode)
    attributes.st_uid, attributes.st_gid = os.geteuid(), os.getegid()
    attributes.st_blksize, attributes.st_blocks = 4096, 0
    attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = now_ns
    return attributes
