"""The reference model, part 3: DKSM itself. See `model` for what this is for."""

import errno
from dataclasses import dataclass

from xxhash import xxh64_intdigest

from tests.kernel.model_memory import AREA, Frame, Huge, Mapping, Mm, Pte

BUCKETS = 4096


@dataclass(eq=False)
class Descriptor:
    """A tracked page. It holds no reference: the frame may have been freed, or have changed."""

    checksum: int
    frame: Frame


def bucket_of(checksum: int) -> int:
    return ((checksum * 0x61C88647) & 0xFFFFFFFF) >> 20  # hash_32(checksum, 12)


class ModelDksm:
    """The merge engine and its six files."""

    def __init__(self, checksum_bits: int) -> None:
        self._mask = (1 << checksum_bits) - 1
        self.hashtable_size = BUCKETS
        self._purge()
        self.run = 0

    def _purge(self) -> None:
        self.chains: dict[int, list[Descriptor]] = {}  # by bucket, the newest first
        self.pages_scanned = 0
        self.pages_merged = 0
        self.merging_failed = 0
        self.hashtable_entries = 0

    def set_run(self, value: int) -> None:
        if value not in (0, 1):
            raise OSError(errno.EINVAL, "run is 0 or 1")
        if self.run == 1 and value == 0:
            self._purge()
        self.run = value

    def checksum(self, frame: Frame) -> int:
        return xxh64_intdigest(frame.data()) & 0xFFFFFFFF & self._mask

    def advertise(self, mm: Mm, mapping: Mapping, start: int, end: int) -> None:
        """MADV_MERGEABLE on a range of one mapping."""
        if self.run == 0 or mapping.kind == "hugetlb":
            return
        for number in range(start // AREA, (end - 1) // AREA + 1):
            if number not in mm.areas:
                continue  # no page table: nothing is counted
            mm.split_huge(number * AREA)
            table = mm.areas[number]
            assert not isinstance(table, Huge)
            for vpn in range(max(start, number * AREA), min(end, number * AREA + AREA)):
                self._advertise_page(mm, mapping, table.ptes.get(vpn))

    def _advertise_page(self, mm: Mm, mapping: Mapping, pte: Pte | None) -> None:
        if (
            pte is None
            or not mapping.prot
            or pte.frame.family is None
            or pte.frame.compound is not None
        ):
            self.merging_failed += 1
            return
        self.pages_scanned += 1
        checksum = self.checksum(pte.frame)
        chain = self.chains.setdefault(bucket_of(checksum), [])
        for descriptor in list(chain):
            if descriptor.checksum != checksum:
                continue
            if descriptor.frame.mapped == 0 or self.checksum(descriptor.frame) != checksum:
                chain.remove(descriptor)
                self.hashtable_entries -= 1
                continue
            if descriptor.frame.data() != pte.frame.data():
                continue
            if self._replace(mm, mapping, pte, descriptor.frame):
                self.pages_merged += 1
                return
            self.merging_failed += 1
        chain.insert(0, Descriptor(checksum, pte.frame))
        self.hashtable_entries += 1

    def _replace(self, mm: Mm, mapping: Mapping, at_hand: Pte, frame: Frame) -> bool:
        """Map `frame` where the page at hand is thought to be, which its own frame tells."""
        if mapping.anon_vma is None or at_hand.frame.family is not mapping.anon_vma.root:
            return False
        vpn = mapping.start + at_hand.frame.index - mapping.pgoff
        if not mapping.start <= vpn < mapping.end:
            return False
        there = mm.entry(vpn)
        if not isinstance(there, Pte) or not _same(there, at_hand):
            return False
        mm.clear_pte(vpn)
        mm.set_pte(vpn, Pte(frame))
        return True


def _same(one: Pte, other: Pte) -> bool:
    """pte_same: the entries are the same bit for bit."""
    return (one.frame, one.writable, one.accessed, one.dirty, one.soft_dirty) == (
        other.frame,
        other.writable,
        other.accessed,
        other.dirty,
        other.soft_dirty,
    )
