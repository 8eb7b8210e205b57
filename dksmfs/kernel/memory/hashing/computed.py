"""Hashes that are computed without the page.

Exact, as the formula is XXH64 itself, without the steps that are the same for all pages of a kind.
"""

import numpy as np

from dksmfs.kernel.memory.hashing.hashes import HashShortcut, Question, without
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import Selection, at, part


class Computed(HashShortcut):
    """For described pages that are mostly zeros."""

    def find(self, question: Question, left: Selection) -> Work[Selection]:
        contents, found = self.hashes.contents, np.zeros(len(left), np.bool_)
        for number, chosen, indices in contents.by_content(question.frames(left)):
            if contents[number].quick:
                question.answer(part(left, chosen), contents[number].computed_hashes(indices))
                found[at(chosen)] = True
                yield
        return without(left, found)
