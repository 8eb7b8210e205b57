"""Pages in a row that are copies of pages in a row.

Exact, as each is compared with the page that it is taken for, and takes over its hash only if all
bytes are equal.
"""

from typing import Final

import numpy as np

from dksmfs.kernel.content.hashes import checksums_of
from dksmfs.kernel.linear import Selection, numbers
from dksmfs.kernel.memory.frame_contents import Mask, Pfns
from dksmfs.kernel.memory.hashing.hashes import HashShortcut, Question, without
from dksmfs.kernel.pausing import Work

_FIRST_PAGES: Final = 64  # that are hashed, and tell where the others are expected


class Copies(HashShortcut):
    """For stored pages: if the page descriptors of the first ones lead to frames that all are at
    one distance, the frames at that distance from the others are likely to hold their bytes."""

    first_pages = _FIRST_PAGES

    def find(self, question: Question, left: Selection) -> Work[Selection]:
        stored = self.hashes.contents.stored(question.frames(left))
        positions = numbers(left)[stored]
        if len(positions) < 2 * self.first_pages:
            return left
        first, rest = positions[: self.first_pages], positions[self.first_pages :]
        yield from self.hashes.hash_each(question, first)
        found = np.isin(numbers(left), first)
        distance = self._distance(numbers(question.frames(first)))
        if distance:
            pfns = numbers(question.frames(rest))
            sources = pfns - distance
            equal = self._known(sources)
            equal[equal] = yield from self.hashes.contents.compare(pfns[equal], sources[equal])
            question.has_twins(rest[equal], sources[equal])
            found[np.isin(numbers(left), rest[equal])] = True
        return without(left, found)

    def _distance(self, pfns: Pfns) -> int:
        """How far behind frames that have just been hashed those are that the newest descriptors
        with their checksums name; 0 if that differs."""
        kept = self.hashes.kept
        checksums = checksums_of(kept.hash.values[pfns], self.hashes.checksum_bits)
        behind = pfns - self.hashes.newest(checksums)
        return int(behind[0]) if (behind == behind[0]).all() else 0

    def _known(self, pfns: Pfns) -> Mask:
        kept = self.hashes.kept
        known: Mask = (pfns > 0) & (pfns < len(kept.known))
        known[known] = kept.known.values[pfns[known]]
        return known
