"""Hashes that were found before.

Exact, as a frame whose content is stable holds other bytes only after it got another content, and
then its hash is forgotten.
"""

from dksmfs.kernel.memory.hashing.hashes import HashShortcut, Question, without
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import Selection


class Known(HashShortcut):
    """For frames that were examined since they got their content."""

    def find(self, question: Question, left: Selection) -> Work[Selection]:
        yield from ()
        return without(left, question.kept.known(question.frames(left)))
