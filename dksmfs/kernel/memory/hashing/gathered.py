"""Pages that were written one by one, each of them a content of its own.

Exact, as they are hashed like any others, but their bytes are copied into one place before.
"""

from typing import Final

from dksmfs.kernel.content.xxh64 import hash_rows
from dksmfs.kernel.memory.hashing.hashes import HashShortcut, Question, without
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import Selection, compact, numbers, part

_PAGES_AT_ONCE: Final = 1024  # copied and hashed between pauses: 4 MiB


class Gathered(HashShortcut):
    """For contents of which only a few pages are asked for."""

    def find(self, question: Question, left: Selection) -> Work[Selection]:
        found = self.hashes.contents.scattered(question.frames(left))
        here = part(left, found)
        for start in range(0, len(here), _PAGES_AT_ONCE):
            some = here[start : start + _PAGES_AT_ONCE]
            pfns = numbers(question.frames(some))
            question.answer(some, hash_rows(self.hashes.contents.gathered(pfns)))
            yield
        return compact(without(left, found))
