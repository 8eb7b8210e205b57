"""The list of mappings: where there is room for one more."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dksmfs.kernel.memory.vma import Kind, Prot, Vma, VmaList
from dksmfs.kernel.units import Pgoff, Vpn
from tests.kernel.conftest import programs_profile

LIMIT = 2000

steps = st.lists(
    st.tuples(
        st.sampled_from(["ask", "map", "map", "unmap"]),
        st.sampled_from([1, 1, 2, 3, 5, 8, 30, 64]),
        st.integers(0, 1 << 16),
    ),
    max_size=80,
)


def highest_gap(mappings: list[Vma], pages: int) -> int | None:
    """By looking at every page below the limit, from above."""
    mapped = {vpn for vma in mappings for vpn in range(vma.start, vma.end)}
    free = 0
    for vpn in range(LIMIT - 1, -1, -1):
        free = 0 if vpn in mapped else free + 1
        if free == pages:
            return vpn if vpn else None
    return None


@settings(programs_profile(), max_examples=60)
@given(steps)
def test_the_highest_gap_is_found_whatever_was_asked_before(
    program: list[tuple[str, int, int]],
) -> None:
    vmas = VmaList(lambda _: None)
    for what, pages, which in program:
        mappings = list(vmas)
        if what == "unmap" and mappings:
            first = which % len(mappings)
            vmas.remove(mappings[first], mappings[min(first + pages % 3, len(mappings) - 1)])
            continue
        start = vmas.gap_below(Vpn(LIMIT), pages)
        assert start == highest_gap(mappings, pages)
        if what == "map" and start is not None:
            vmas.insert(_mapping(start, pages, Prot(which % 8)))
        elif what == "map" or which % 4 == 0:  # MAP_FIXED, also above the limit
            fixed = Vpn(which % (LIMIT + 100))
            if not vmas.overlapping(fixed, Vpn(fixed + pages)):
                vmas.insert(_mapping(fixed, pages, Prot.READ))
        vmas.check_invariants()


def _mapping(start: Vpn, pages: int, prot: Prot) -> Vma:
    return Vma(start, Vpn(start + pages), Pgoff(start), prot, Kind.ANON)
