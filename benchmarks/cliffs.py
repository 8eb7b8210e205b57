"""Situations beside the beaten road, each against the plain one of the same size.

The plain case is the first advertisement of as many pages, or as many mappings, on a machine that
has just been started.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np

from benchmarks.core import Report, at_most, interleaved, seconds
from dksmfs.kernel.content.content import Content
from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.content.stored import StoredContent
from dksmfs.kernel.machine import ADVICE, Machine
from dksmfs.kernel.units import PAGE_SIZE

AT = 0x10_0000_0000
TEBIBYTE = 1 << 40

MakeContent = Callable[[], Content]


def run(quick: bool) -> Report:
    """Measure all situations."""
    pages, mappings, rounds = (4096, 1000, 3) if quick else (16_384, 16_000, 5)
    report = Report()
    image, other = _random_bytes(pages, 1), _random_bytes(pages, 2)
    stored = partial(StoredContent, image)
    contents: dict[str, MakeContent] = {
        "stored": stored,
        "seed": partial(parse_content, "seed:1"),
        "pattern": partial(parse_content, "pattern:1"),
    }
    for name, content in contents.items():
        _compare(report, rounds, "the plain case", partial(_plain, pages, content), {
            f"{name}, was there before, its process has ended": partial(_restarted, pages, content),
        })  # fmt: skip
    equal = partial(parse_content, "const:5")
    _compare(report, rounds, "the plain case", partial(_plain, pages, equal), {
        "equal pages, behind one stale descriptor": partial(_one_stale, pages, equal),
    })  # fmt: skip
    _compare(report, rounds, "the plain case", partial(_plain, pages, stored), {
        "descriptors whose frames were changed": partial(_changed, pages, stored, other),
        "16 to 32 different pages share each checksum": partial(_colliding, pages, stored),
    })  # fmt: skip
    seed = contents["seed"]
    _compare(report, rounds, "the plain case", partial(_plain, pages, seed), {
        "merged, made equal by the owner, again by the sharer": partial(_made_equal, pages, seed),
        "the same again: a chain of all pages": partial(_made_equal, pages, seed, again=True),
        "different pages share checksums, ended, again": partial(_colliding_again, pages, seed),
        "moved after it was merged, again": partial(_moved, pages, seed),
    })  # fmt: skip
    pairs = partial(StoredContent, _pairs(image))
    _compare(report, rounds, "the plain case", partial(_plain, pages, pairs), {
        "pairs that merged, forked, by the child": partial(_forked, pages, pairs),
        "pairs that merged, most made equal, again": partial(_mostly_equal, pages, pairs),
        "pairs, the first of each written, again": partial(_first_written, pages, pairs),
    })  # fmt: skip
    few = min(pages, 4096)
    written = partial(_piecemeal, few, image)
    report.ratio(
        "each page written by a request of its own", "the plain case",
        *_both(rounds, written, partial(_plain, few, stored)), at_most(5),
    )  # fmt: skip
    _compare(report, rounds, "of a tenth as many", partial(_mapped_one_by_one, mappings // 10), {
        f"{mappings:,} mappings, time of an mmap": partial(_mapped_one_by_one, mappings),
    })  # fmt: skip
    for advice in ("mergeable", "nohugepage", "dontneed"):
        tenth = partial(_advised_one_by_one, mappings // 10, advice)
        _compare(report, rounds, "of a tenth as many", tenth, {
            f"{mappings:,} mappings, {advice}": partial(_advised_one_by_one, mappings, advice),
        })  # fmt: skip
    _compare(report, rounds, "a page", partial(_remapped, PAGE_SIZE), {
        "mremap of 1 TiB, untouched": partial(_remapped, TEBIBYTE),
    })  # fmt: skip
    _compare(report, rounds, "a page", partial(_untouched, PAGE_SIZE), {
        "mmap and exit of 1 TiB shared, untouched": partial(_untouched, TEBIBYTE),
    })  # fmt: skip
    return report


def _compare(
    report: Report,
    rounds: int,
    plain_name: str,
    plain: Callable[[], float],
    situations: dict[str, Callable[[], float]],
) -> None:
    for name, situation in situations.items():
        report.ratio(name, plain_name, *_both(rounds, situation, plain), at_most(3))


def _both(
    rounds: int, one: Callable[[], float], other: Callable[[], float]
) -> tuple[list[float], list[float]]:
    samples = interleaved({"one": one, "other": other}, rounds)
    return samples["one"], samples["other"]


def _random_bytes(pages: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(pages * PAGE_SIZE)


def _machine(checksum_bits: int = 32) -> Machine:
    machine = Machine("never", checksum_bits=checksum_bits)
    machine.dksm.set_run(1)
    return machine


def _advertise(machine: Machine, pages: int, content: Content | None) -> tuple[int, float]:
    """Map pages in a new process and advertise them; returns its pid, and how long that took."""
    pid = machine.spawn("benchmark")
    machine.mmap(pid, pages * PAGE_SIZE, address=AT, content=content)
    return pid, _again(machine, pid, pages)


def _again(machine: Machine, pid: int, pages: int) -> float:
    return seconds(partial(machine.madvise, pid, AT, pages * PAGE_SIZE, ADVICE["mergeable"]))


def _plain(pages: int, content: MakeContent) -> float:
    return _advertise(_machine(), pages, content())[1]


def _restarted(pages: int, content: MakeContent) -> float:
    machine = _machine()
    machine.exit(_advertise(machine, pages, content())[0])
    return _advertise(machine, pages, content())[1]


def _one_stale(pages: int, content: MakeContent) -> float:
    machine = _machine()
    machine.exit(_advertise(machine, 1, content())[0])
    return _advertise(machine, pages, content())[1]


def _changed(pages: int, content: MakeContent, other: bytes) -> float:
    machine = _machine()
    pid, _ = _advertise(machine, pages, content())
    machine.fill(pid, AT, pages * PAGE_SIZE, StoredContent(other))
    return _advertise(machine, pages, content())[1]


def _colliding(pages: int, content: MakeContent) -> float:
    bits = max(pages.bit_length() - 5, 1)
    return _advertise(_machine(bits), pages, content())[1]


def _made_equal(pages: int, content: MakeContent, *, again: bool = False) -> float:
    machine = _machine()
    owner, _ = _advertise(machine, pages, content())
    sharer, _ = _advertise(machine, pages, content())
    machine.fill(owner, AT, pages * PAGE_SIZE, parse_content("const:9"))
    first = _again(machine, sharer, pages)
    return _again(machine, sharer, pages) if again else first


def _colliding_again(pages: int, content: MakeContent) -> float:
    machine = _machine(8)
    machine.exit(_advertise(machine, pages, content())[0])
    return _advertise(machine, pages, content())[1]


def _moved(pages: int, content: MakeContent) -> float:
    machine = _machine()
    _advertise(machine, pages, content())
    pid, _ = _advertise(machine, pages, content())
    machine.mremap(pid, AT, pages * PAGE_SIZE, AT + TEBIBYTE)
    return seconds(
        partial(machine.madvise, pid, AT + TEBIBYTE, pages * PAGE_SIZE, ADVICE["mergeable"])
    )


def _pairs(image: bytes) -> bytes:
    """The same pages, each of them twice, but for the last half."""
    pages = np.frombuffer(image, np.uint8).reshape(-1, PAGE_SIZE)
    return pages[np.arange(len(pages)) // 2].tobytes()


def _forked(pages: int, content: MakeContent) -> float:
    machine = _machine()
    pid, _ = _advertise(machine, pages, content())
    return _again(machine, machine.fork(pid), pages)


def _mostly_equal(pages: int, content: MakeContent) -> float:
    machine = _machine()
    pid, _ = _advertise(machine, pages, content())
    _again(machine, pid, pages)
    start = pages // 4 * PAGE_SIZE
    machine.fill(pid, AT + start, pages * PAGE_SIZE - start, parse_content("const:1"))
    return _again(machine, pid, pages)


def _first_written(pages: int, content: MakeContent) -> float:
    machine = _machine()
    pid, _ = _advertise(machine, pages, content())
    for number in range(0, pages, 16):
        machine.write(pid, AT + number * PAGE_SIZE, b"written")
    return _again(machine, pid, pages)


def _piecemeal(pages: int, image: bytes) -> float:
    machine = _machine()
    pid = machine.spawn("benchmark")
    machine.mmap(pid, pages * PAGE_SIZE, address=AT)
    for start in range(0, pages * PAGE_SIZE, PAGE_SIZE):
        machine.write(pid, AT + start, image[start : start + PAGE_SIZE])
    return _again(machine, pid, pages)


def _mapped_one_by_one(mappings: int) -> float:
    """Seconds an mmap, where adjacent mappings do not become one."""
    machine = _machine()
    pid = machine.spawn("benchmark")

    def work() -> None:
        for number in range(mappings):
            machine.mmap(pid, PAGE_SIZE, prot="rw" if number % 2 else "r")
        machine.exit(pid)

    return seconds(work) / mappings


def _advised_one_by_one(mappings: int, advice: str) -> float:
    """Seconds a mapping of one page, with a hole behind each."""
    machine = _machine()
    pid = machine.spawn("benchmark")
    for number in range(mappings):
        machine.mmap(pid, PAGE_SIZE, address=AT + 2 * number * PAGE_SIZE)
    machine.touch(pid, AT, PAGE_SIZE)

    def advise() -> None:
        with suppress(OSError):  # ENOMEM for the holes
            machine.madvise(pid, AT, 2 * mappings * PAGE_SIZE, ADVICE[advice])

    return seconds(advise) / mappings


def _remapped(size: int) -> float:
    machine = _machine()
    pid = machine.spawn("benchmark")
    machine.mmap(pid, size, address=AT)
    return seconds(partial(machine.mremap, pid, AT, size, AT + 8 * TEBIBYTE))


def _untouched(size: int) -> float:
    machine = _machine()
    pid = machine.spawn("benchmark")

    def work() -> None:
        machine.mmap(pid, size, kind="shared-anon")
        machine.exit(pid)

    return seconds(work)
