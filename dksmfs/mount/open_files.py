"""An open attribute, as far as its reader can tell.

sysfs reads through the kernel's ``seq_file``: the text is made at the first read, and a read that
goes on where the last one ended gets the rest of that text, so that a reader who takes one byte at
a time never sees half of one value and half of another. A read at any other offset, and every read
at offset 0, makes the text afresh.
"""

import select

from dksmfs.kernel.sysfs.attribute import Attribute

_READY = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
_CHANGED = select.POLLERR | select.POLLPRI
_NEVER_READ = -1


class OpenFile:
    """One open file description of an attribute."""

    __slots__ = ("_position", "_rest", "attribute")

    def __init__(self, attribute: Attribute) -> None:
        self.attribute = attribute
        self._position = _NEVER_READ
        self._rest = b""

    def is_fresh(self, offset: int) -> bool:
        """Whether a read at ``offset`` makes the text afresh."""
        return offset == 0 or offset != self._position

    def read(self, offset: int, size: int, text: bytes | None = None) -> bytes:
        """Return up to ``size`` bytes at ``offset`` (``seq_read_iter`` with ``single_start``).

        If the text is made afresh, it is ``text`` instead of what the attribute shows, if given.
        """
        data, rest = self._rest, b""
        if offset == 0 or offset != self._position:
            data = self.attribute.read() if text is None else text
            if offset:
                data = data[offset:]
        if len(data) > size:
            data, rest = data[:size], data[size:]
        self._rest = rest
        self._position = offset + len(data)
        return data

    def poll(self) -> int:
        """Return the events of ``poll(2)`` (``kernfs_generic_poll``).

        A file whose text was never made counts as changed; nothing in dksm ever calls
        ``sysfs_notify``, so once it was read it never does again.
        """
        return _READY | _CHANGED if self._position == _NEVER_READ else _READY
