"""sysfs: attributes with a show and a store, gathered in directories.

An attribute is a named text that is made when it is read (*show*) and interpreted when it is
written (*store*). A tree of them is a table that never changes; what it shows does.

This module knows the rules that every attribute of the kernel obeys: a store gets at most one page,
an attribute without a store answers EIO, names are listed in the order of their hash, numbers and
words are parsed as ``lib/kstrtox.c`` and ``lib/string_helpers.c`` do. Modes are declared here and
enforced by the mount, which is the one that knows who is asking.
"""

import errno
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from dksmfs.kernel.errors import kernel_error

ATTRIBUTE_SIZE = 4096
"""The size that ``stat`` gives for every attribute, and the most that one store takes (bytes)."""

_LAST_HASH = 0x7FFFFFFF
_UNSIGNED_INT_MAX = 0xFFFFFFFF
_UNSIGNED_NUMBER = re.compile(rb"\+?([0-9]+)\n?")


@dataclass(frozen=True, slots=True)
class Attribute:
    """A file of sysfs: its name, its mode, and the two functions behind it.

    ``show`` returns the whole text. ``store`` gets what was written, and raises ``OSError`` with
    the kernel's errno if it refuses; an attribute whose ``store`` is None cannot be written.
    """

    name: str
    mode: int
    show: Callable[[], str]
    store: Callable[[bytes], None] | None = None

    def read(self) -> bytes:
        """Return the text as it is now (``sysfs_kf_seq_show``: one byte less than a page)."""
        text = self.show().encode()
        return text if len(text) < ATTRIBUTE_SIZE else text[: ATTRIBUTE_SIZE - 1]

    def write(self, buffer: bytes) -> int:
        """Store the buffer of one ``write(2)``; return how many bytes of it were taken.

        That is all of it or a page (``kernfs_fop_write_iter``); an empty buffer is not stored
        (``sysfs_kf_write``). OSError EIO without a store (``kobj_attr_store``).
        """
        if not buffer:
            return 0
        if self.store is None:
            raise kernel_error(errno.EIO, f"{self.name} has no store")
        taken = buffer[:ATTRIBUTE_SIZE]
        self.store(taken)
        return len(taken)


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of sysfs: an attribute group, or a place for other directories."""

    name: str
    children: Mapping[str, "Node"]
    mode: int = 0o755

    @classmethod
    def of(cls, name: str, nodes: Sequence["Node"]) -> "Directory":
        """Make a directory of these nodes."""
        children = {node.name: node for node in sorted(nodes, key=_sort_key)}
        assert len(children) == len(nodes), f"two nodes of one name in {name!r}"
        return cls(name, MappingProxyType(children))

    def __iter__(self) -> Iterator["Node"]:
        """Walk over the nodes in the order in which the kernel lists them."""
        return iter(self.children.values())

    def find(self, path: str) -> "Node":
        """Return the node at this path below the directory; OSError ENOENT or ENOTDIR."""
        node: Node = self
        for name in path.split("/"):
            if isinstance(node, Attribute):
                raise kernel_error(errno.ENOTDIR, f"{node.name} is an attribute")
            if name not in ("", "."):
                node = node.child(name)
        return node

    def child(self, name: str) -> "Node":
        """Return the node of this name; OSError ENOENT if there is none."""
        if name not in self.children:
            raise kernel_error(errno.ENOENT, f"{self.name} has no {name}")
        return self.children[name]


Node = Attribute | Directory


def name_hash(name: str) -> int:
    """Return where a name stands in its directory, which is also its offset for ``getdents``.

    ``kernfs_name_hash`` on a 64-bit kernel. 0, 1 and INT_MAX are those of ".", ".." and the end.
    """
    value = 0
    for byte in name.encode(errors="surrogateescape"):
        value = (value + (byte << 4) + (byte >> 4)) * 11 & 0xFFFFFFFFFFFFFFFF
    value = (value * 0x61C8864680B583EB & 0xFFFFFFFFFFFFFFFF) >> 32 & _LAST_HASH
    if value < 2:
        value += 2
    return min(value, _LAST_HASH - 1)


def _sort_key(node: Node) -> tuple[int, bytes]:
    """``kernfs_sd_compare``: by hash, then by name."""
    return name_hash(node.name), node.name.encode(errors="surrogateescape")


def c_string(buffer: bytes) -> bytes:
    """Return what C sees of a stored buffer: everything up to the first NUL."""
    return buffer.partition(b"\0")[0]


def kstrtouint(buffer: bytes) -> int:
    """Parse a decimal ``unsigned int``; OSError EINVAL or ERANGE.

    ``kstrtouint(s, 10, &value)``: an optional plus sign, digits, an optional newline. No blanks.
    """
    number = _UNSIGNED_NUMBER.fullmatch(c_string(buffer))
    if number is None:
        raise kernel_error(errno.EINVAL, "not a decimal number")
    value = int(number[1])
    if value > _UNSIGNED_INT_MAX:
        raise kernel_error(errno.ERANGE, "larger than an unsigned int")
    return value


def sysfs_streq(buffer: bytes, word: str) -> bool:
    """Compare a stored buffer with a word, which a newline may follow (``sysfs_streq``)."""
    return c_string(buffer).removesuffix(b"\n") == word.encode()


def show_choice(words: Sequence[str], chosen: str) -> str:
    """Return the words of a choice, the chosen one in brackets: ``[always] madvise never``."""
    shown = (f"[{word}]" if word == chosen else word for word in words)
    return " ".join(shown) + "\n"


def store_choice(words: Sequence[str], buffer: bytes) -> str:
    """Return which of the words was stored; OSError EINVAL if none of them."""
    for word in words:
        if sysfs_streq(buffer, word):
            return word
    raise kernel_error(errno.EINVAL, f"none of {', '.join(words)}")
