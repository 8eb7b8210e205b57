"""The contents that frames refer to by number, and how many frames use each."""

from typing import Final

import numpy as np
import numpy.typing as npt

from dksmfs.kernel.content.content import Content
from dksmfs.kernel.content.described import ZeroContent
from dksmfs.kernel.memory.version import Version

ZERO_CONTENT: Final = 0
"""The number of the zero content, which is never dropped."""


class ContentTable:
    """A table of contents; one that no frame uses is forgotten, and its number used again."""

    def __init__(self, version: Version) -> None:
        zero = ZeroContent()
        self._contents: list[Content | None] = [zero]
        self._users = [1]  # frames that use each content; the zero page is the first
        self._numbers: dict[Content, int] = {zero: ZERO_CONTENT}
        self._vacant: list[int] = []
        self.uniform = np.array([True])
        """Whether all pages of a content are alike, by its number."""
        self.address = np.zeros(1, np.int64)
        self.stored_pages = np.zeros(1, np.int64)
        """Where whole pages of a content are stored, and how many, by its number."""
        self.stable = np.array([True])
        """Whether a content never changes, by its number."""
        self.kept = np.array([False])
        """Whether a content has bytes that are stored and never change, by its number."""
        self._version = version
        self.unstable = 0
        """How many contents may change unseen."""
        self.held_bytes = 0
        """What all of them take of our own memory."""

    def __getitem__(self, number: int) -> Content:
        content = self._contents[number]
        assert content is not None
        return content

    def number(self, content: Content) -> int:
        """The number of `content`, which is new or known."""
        number = self._numbers.get(content)
        if number is None:
            number = self._vacant.pop() if self._vacant else self._append()
            self._contents[number] = content
            self._numbers[content] = number
            self.uniform[number] = content.uniform
            self.address[number], self.stored_pages[number] = content.address, content.stored_pages
            self.stable[number] = content.stable
            self.kept[number] = content.stable and not content.described
            self.held_bytes += content.held_bytes
            self.unstable += not content.stable
        return number

    def known_number(self, content: Content) -> int:
        """The number of `content`; -1 if no frame uses it."""
        return self._numbers.get(content, -1)

    def _append(self) -> int:
        self._contents.append(None)
        self._users.append(0)
        if len(self._users) > len(self.uniform):
            for name in ("uniform", "address", "stored_pages", "stable", "kept"):
                column = getattr(self, name)
                setattr(self, name, np.resize(column, 2 * len(column)))
        return len(self._contents) - 1

    def add_users(self, number: int, count: int) -> None:
        """`count` frames more use a content."""
        self._users[number] += count

    def drop_users(self, number: int, count: int) -> None:
        """`count` frames less use a content."""
        self._users[number] -= count
        if not self._users[number]:
            self.held_bytes -= self[number].held_bytes
            self.unstable -= not self[number].stable
            del self._numbers[self[number]]
            self._contents[number] = None
            self._vacant.append(number)
            self._version.change()  # the number may get another meaning

    def check_invariants(self, used: npt.NDArray[np.int64]) -> None:
        """Assert that `used`, the number of each frame's content, is what was counted."""
        users = np.bincount(used, minlength=len(self._users))
        users[ZERO_CONTENT] += 1
        assert users.tolist() == self._users, "contents have other users than counted"
