"""Pages that are alike in a row, zeros above all.

Exact, as they are compared with themselves, shifted by a page: if there is no difference, all have
the bytes of the first one.
"""

import numpy as np

from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.memory.hashing.hashes import HashShortcut, Question, without
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import Selection, numbers, part
from dksmfs.kernel.units import ZERO_PFN, Mask, Numbers


class Repetitions(HashShortcut):
    """For stored pages; of those that a client may still write, for zeros only."""

    def find(self, question: Question, left: Selection) -> Work[Selection]:
        contents, found = self.hashes.contents, np.zeros(len(left), np.bool_)
        for number, chosen, indices in contents.by_content(question.frames(left)):
            content = contents[number]
            if isinstance(content, StoredContent):
                places, positions = numbers(chosen), numbers(part(left, chosen))
                answer = self._rows if content.stable else self._zeros
                found[places] = yield from answer(question, content, positions, indices)
        return without(left, found)

    def _rows(
        self, question: Question, content: StoredContent, positions: Numbers, indices: Selection
    ) -> Work[Mask]:
        """All pages of a row but the first are like the first."""
        earlier = yield from content.repetitions(indices)
        if earlier is None:
            return np.zeros(len(positions), np.bool_)
        repeats: Mask = earlier != np.arange(len(positions))
        question.is_alike(positions[repeats], positions[earlier[repeats]])
        return repeats

    def _zeros(
        self, question: Question, content: StoredContent, positions: Numbers, indices: Selection
    ) -> Work[Mask]:
        """A page of zeros has the kernel's zero page as a twin."""
        zeros = yield from content.runs_of_zeros(indices)
        found = np.zeros(len(positions), np.bool_)
        found[zeros] = True
        self.hashes.know_zero_page()
        question.has_twins(positions[zeros], np.full(len(zeros), ZERO_PFN))
        return found
