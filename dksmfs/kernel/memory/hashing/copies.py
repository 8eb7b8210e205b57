"""Pages in a row that are copies of pages in a row.

Exact, as each is compared with the page that it is taken for, and takes over its hash only if all
bytes are equal.
"""

from typing import Final

import numpy as np

from dksmfs.kernel.content.xxh64 import checksums_of
from dksmfs.kernel.memory.hashing.hashes import HashShortcut, Question, without
from dksmfs.kernel.pausing import Work
from dksmfs.kernel.selection import Selection, numbers, part
from dksmfs.kernel.units import Mask, Numbers, Pfns

_FIRST_PAGES: Final = 64  # that are hashed, and tell where the others are expected
_ROWS: Final = 4  # of copies that are looked for in one go
_FEWEST_COPIES: Final = 3 / 4  # of the pages of a row, for which comparing takes less than hashing


class Copies(HashShortcut):
    """For stored pages: if the page descriptors of most of the first ones lead to frames at one
    distance, the frames at that distance from the others are likely to hold their bytes."""

    first_pages = _FIRST_PAGES

    def find(self, question: Question, left: Selection) -> Work[Selection]:
        places = np.flatnonzero(self.hashes.contents.stored(question.frames(left)))
        if len(places) < 2 * self.first_pages:
            return left
        found, rows, at = np.zeros(len(left), np.bool_), 0, 0
        while at < len(places) and rows < _ROWS:
            first = places[at : at + self.first_pages]
            yield from self.hashes.hash_each(question, part(left, first))
            found[first] = True
            at += len(first)
            distance = self._distance(numbers(question.frames(part(left, first))))
            if not distance:
                break
            ahead = numbers(part(left, places[at:]))
            followed = yield from self._follow(question, ahead, distance)
            found[places[at : at + len(followed)]] = followed
            at += len(followed)
            rows += 1
        return without(left, found)

    def _follow(self, question: Question, positions: Numbers, distance: int) -> Work[Mask]:
        """Compare pages with the frames at a distance, more and more at once, until some
        differ; tells of each page that was compared whether it is a copy."""
        equal: list[Mask] = []
        at, count = 0, self.first_pages
        while at < len(positions):
            some = positions[at : at + count]
            pfns = numbers(question.frames(some))
            same = self.hashes.kept.known_frames(pfns - distance)
            same[same] = yield from self.hashes.contents.compare(pfns[same], pfns[same] - distance)
            question.has_twins(some[same], pfns[same] - distance)
            equal.append(same)
            at, count = at + count, 2 * count
            if np.count_nonzero(same) < _FEWEST_COPIES * len(same):
                break
        return np.concatenate([np.empty(0, np.bool_), *equal])

    def _distance(self, pfns: Pfns) -> int:
        """How far behind most frames that have just been hashed those are that the newest
        descriptors with their checksums name; 0 if too few are."""
        checksums = checksums_of(self.hashes.kept.hashes(pfns), self.hashes.checksum_bits)
        named = self.hashes.newest(checksums)
        behind = (pfns - named)[named > 0]
        if not len(behind):
            return 0
        usual = int(np.sort(behind)[len(behind) // 2])
        copies = np.count_nonzero(behind == usual)
        return usual if copies >= _FEWEST_COPIES * len(pfns) else 0
