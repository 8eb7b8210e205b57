"""Pages that are the same page of the same description as one whose hash is known.

Exact, as what a formula makes of a number is always the same.
"""

import numpy as np

from dksmfs.kernel.memory.hashing.hashes import FrameHashes, HashShortcut, Question, without
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import Selection, at, numbers, part
from dksmfs.kernel.units import Mask, Pfns


class SamePages(HashShortcut):
    """For described pages, if others of their description were examined in a row of frames."""

    def __init__(self, hashes: FrameHashes) -> None:
        super().__init__(hashes)
        self._first_frame: dict[int, int] = {}
        """For the number of a content, the frame of page 0, if all were in a row."""

    def find(self, question: Question, left: Selection) -> Work[Selection]:
        contents, found = self.hashes.contents, np.zeros(len(left), np.bool_)
        for number, chosen, indices in contents.by_content(question.frames(left)):
            if not contents[number].described:
                continue
            here, pages = numbers(part(left, chosen)), numbers(indices)
            pfns = numbers(question.frames(here))
            if number in self._first_frame:
                candidates = self._first_frame[number] + pages
                same = self._same(candidates, pfns)
                question.has_twins(here[same], candidates[same])
                found[at(chosen)] = same
            if not found[at(chosen)].all():
                self._first_frame[number] = int(pfns[0] - pages[0])
            yield
        return without(left, found)

    def _same(self, candidates: Pfns, pfns: Pfns) -> Mask:
        """Whether the candidates are frames with known hashes that hold the pages of `pfns`."""
        same = self.hashes.kept.known_frames(candidates)
        same[same] = self.hashes.contents.same_page(candidates[same], pfns[same])
        return same
