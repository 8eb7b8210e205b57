"""The format of recorded scenarios: JSON Lines, a scenario a line.

A scenario is a list of steps, each an operation with its arguments and the result that a machine
gave. `docs/scenarios.md` describes the operations. Numbers of pages are `start`, `count`, `page`
and `pages`; `vpn` is a virtual page number counted from `BASE`, and may be negative.
"""

import gzip
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from dksmfs.errors import DksmfsError

BASE: Final = 0x10_0000_0000
"""The address (bytes) that scenarios count from; it starts a 2 MiB area."""


class Step(
    Struct,
    frozen=True,
    kw_only=True,
    tag_field="op",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """Base of all steps: the recorded result, and whether it was the same each time."""

    result: Any | UnsetType = UNSET
    nondeterministic: bool = False
    results: list[Any] | UnsetType = UNSET


class OfProcess(Step, frozen=True, kw_only=True):
    """A step of one process."""

    proc: str


class OfRegion(OfProcess, frozen=True, kw_only=True):
    """A step on a region, which has a name within its process."""

    region: str


class OfPages(OfProcess, frozen=True, kw_only=True):
    """A step on a range: `count` pages from page `start` of a region, or `length` bytes from
    `address`, which counts from `BASE`."""

    region: str | None = None
    start: int | None = None
    count: int | None = None
    address: int | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        _check_forms(self, ("region", "start", "count"), ("address", "length"))


class OfBytes(OfProcess, frozen=True, kw_only=True):
    """A step on bytes from `offset` in a page of a region, or from `address`, which counts from
    `BASE`. They may go on into other pages."""

    region: str | None = None
    page: int | None = None
    offset: int | None = None
    address: int | None = None

    def __post_init__(self) -> None:
        _check_forms(self, ("region", "page", "offset"), ("address",))


def _check_forms(step: Step, *forms: tuple[str, ...]) -> None:
    """Raise ValueError unless all members of one form are given, and none of the others."""
    given = [[getattr(step, member) is not None for member in form] for form in forms]
    if sum(map(all, given)) != 1 or sum(map(any, given)) != 1:
        raise ValueError("give either " + ", or ".join(" and ".join(form) for form in forms))


class Spawn(OfProcess, frozen=True, tag="spawn"):
    """A new process without regions."""


class Exit(OfProcess, frozen=True, tag="exit"):
    """The process ends."""


class Fork(OfProcess, frozen=True, tag="fork"):
    """fork(2); the child has the regions under the same names."""

    child: str


class Mkfile(Step, frozen=True, tag="mkfile"):
    """Create a file in memory, with that number as its name."""

    file: int
    pages: int
    content: str


class Mmap(OfRegion, frozen=True, tag="mmap"):
    """mmap(2) at `vpn`, or at `address` (bytes from `BASE`), or else where there is room. With
    content, the pages are written before `prot` takes effect."""

    pages: int
    kind: str
    prot: str
    vpn: int | None = None
    address: int | None = None
    file: int | None = None
    content: str | None = None

    def __post_init__(self) -> None:
        if self.vpn is not None and self.address is not None:
            raise ValueError("give vpn or address")


class Munmap(OfPages, frozen=True, tag="munmap"):
    """munmap(2); a region that is unmapped as a whole loses its name."""


class Mprotect(OfPages, frozen=True, tag="mprotect"):
    """mprotect(2)."""

    prot: str


class Mremap(OfProcess, frozen=True, tag="mremap"):
    """mremap(2) to a fixed place: of a whole region, or of any range, which then may get a name
    of its own, `new_region`. Addresses count from `BASE`."""

    region: str | None = None
    new_vpn: int | None = None
    address: int | None = None
    length: int | None = None
    new_address: int | None = None
    new_region: str | None = None

    def __post_init__(self) -> None:
        _check_forms(self, ("region", "new_vpn"), ("address", "length", "new_address"))


class Mlock(OfPages, frozen=True, tag="mlock"):
    """mlock(2)."""


class Munlock(OfPages, frozen=True, tag="munlock"):
    """munlock(2)."""


class Fill(OfPages, frozen=True, tag="fill"):
    """Store all bytes of each page."""

    content: str


class Touch(OfPages, frozen=True, tag="touch"):
    """Load one byte of each page."""


class Poke(OfRegion, frozen=True, tag="poke"):
    """Store one byte."""

    page: int
    offset: int
    byte: int


class Peek(OfRegion, frozen=True, tag="peek"):
    """Load one byte."""

    page: int
    offset: int


class Store(OfBytes, frozen=True, tag="store"):
    """Store bytes."""

    data: bytes


class Load(OfBytes, frozen=True, tag="load"):
    """Load `length` bytes."""

    length: int


class Madvise(OfPages, frozen=True, tag="madvise"):
    """madvise(2), with the advice as a word or as its number."""

    advice: str | int


class MadviseRaw(OfProcess, frozen=True, tag="madvise_raw"):
    """madvise(2) with any numbers, in bytes; `address` counts from `BASE`."""

    address: int
    length: int
    advice: str | int


class Write(Step, frozen=True, tag="write"):
    """One write(2) to a file of the dksm directory; a character is a byte."""

    file: str
    data: str


class Read(Step, frozen=True, tag="read"):
    """Read a file of the dksm directory."""

    file: str


class Stats(Step, frozen=True, tag="stats"):
    """Read the six files."""


class Thp(Step, frozen=True, tag="thp"):
    """Write to transparent_hugepage/enabled."""

    mode: Literal["always", "madvise", "never"]


class Sharing(Step, frozen=True, tag="sharing"):
    """Which of the first `limit` pages of each region are the same frame; sizes in kB."""

    limit: int


class Contents(Step, frozen=True, tag="contents"):
    """What the first `limit` pages of each region hold."""

    limit: int


AnyStep = (
    Spawn | Exit | Fork | Mkfile | Mmap | Munmap | Mprotect | Mremap | Mlock | Munlock
    | Fill | Touch | Poke | Peek | Store | Load | Madvise | MadviseRaw
    | Write | Read | Thp | Stats | Sharing | Contents
)  # fmt: skip


class Scenario(Struct, kw_only=True, omit_defaults=True):
    """A named list of steps. The steps are decoded one by one, as a machine comes to them.

    `data` holds page contents that no description fits; steps name them as `data:KEY`.
    """

    name: str
    steps: list[Raw]
    kernel: str = ""
    note: str = ""
    hog: bool = True
    drain: bool = True
    data: dict[str, bytes] = {}


UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What bytes from outside can raise. RecursionError: deeply nested arrays."""

_scenario_decoder = msgspec.json.Decoder(Scenario)
_step_decoder: msgspec.json.Decoder[AnyStep] = msgspec.json.Decoder(AnyStep)


def decode_step(raw: Raw) -> AnyStep:
    """The step; one of `UNDECODABLE` says what is not understood about it."""
    return _step_decoder.decode(raw)


def load_scenarios(source: str) -> Iterator[Scenario]:
    """The scenarios of a file (`.gz`: compressed), or of standard input (`-`), one by one."""
    try:
        with _open(source) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield decode_scenario(source, number, line)
    except OSError as error:
        raise DksmfsError(f"{source}: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise DksmfsError(f"{source}: {error}") from None


def decode_scenario(source: str, number: int, line: bytes) -> Scenario:
    """The scenario in a line of `source`; DksmfsError if it is none."""
    try:
        return _scenario_decoder.decode(line)
    except UNDECODABLE as error:
        raise DksmfsError(f"{source}, line {number}: not a scenario: {error}") from None


def _open(source: str) -> BinaryIO:
    if source == "-":
        return sys.stdin.buffer
    if source.endswith(".gz"):
        return cast(BinaryIO, gzip.open(source, "rb"))
    return Path(source).open("rb")
