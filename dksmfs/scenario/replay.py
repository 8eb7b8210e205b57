"""Runs scenarios against a machine, and compares each result with the recorded one.

The machine is reached through a `Target`: in memory, by the same requests that come over the
socket, or a mounted one, where the files of the dksm directory are real files.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from dksmfs.control import messages as m
from dksmfs.control.dispatch import Dispatcher
from dksmfs.errors import DksmfsError
from dksmfs.kernel.content import PAGE_SIZE
from dksmfs.kernel.dksm_attrs import dksm_tree
from dksmfs.kernel.machine import ADVICE, Machine
from dksmfs.scenario import recording as r

R = TypeVar("R")
Result = Any  # what a step gives, as JSON has it

_INVALID_ADVICE = 100  # what the advice `invalid` stands for
_STATISTICS = m.Stats.__struct_fields__


class Target(Protocol):
    """A machine to run scenarios on."""

    def ask(self, request: m.Request[R]) -> R:
        """Carry out a request; OSError as the kernel answers."""

    def read(self, file: str) -> str:
        """The content of a file in the dksm directory."""

    def write(self, file: str, data: bytes) -> int:
        """One write(2) to a file in the dksm directory; `OpenError` if it cannot be opened."""


class OpenError(OSError):
    """The file could not be opened."""


class MemoryTarget:
    """A fresh machine of our own."""

    def __init__(self) -> None:
        self.machine = Machine(thp="never")
        self._dispatcher = Dispatcher(self.machine, dksm_tree(self.machine))

    def ask(self, request: m.Request[R]) -> R:
        """Hand the request to the machine, as the server does."""
        return self._dispatcher.handle(request)

    def read(self, file: str) -> str:
        """Show the attribute."""
        return self.ask(m.Show(file)).data

    def write(self, file: str, data: bytes) -> int:
        """Store into the attribute."""
        try:
            return self.ask(m.Store(file, data.decode("latin-1"))).ret
        except OSError as error:
            if error.errno in (errno.EACCES, errno.ENOENT, errno.EISDIR):
                raise OpenError(*error.args) from None
            raise


class MountedTarget:
    """A daemon: requests go over its socket, files are read and written where it is mounted."""

    def __init__(self, ask: Callable[[m.Request[Any]], Any], directory: Path) -> None:
        self._ask = ask
        self._directory = directory
        self.write("run", b"0")
        self.ask(m.SetThp("never"))

    def ask(self, request: m.Request[R]) -> R:
        """Send the request."""
        reply: R = self._ask(request)
        return reply

    def read(self, file: str) -> str:
        """Read the file."""
        return (self._directory / file).read_text()

    def write(self, file: str, data: bytes) -> int:
        """Write to the file."""
        try:
            opened = (self._directory / file).open("wb", buffering=0)
        except OSError as error:
            raise OpenError(*error.args) from None
        with opened:
            return opened.write(data)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A step that went otherwise than recorded; `step` counts from 0."""

    scenario: str
    step: int
    operation: str
    expected: Result
    got: Result

    def __str__(self) -> str:
        expected, got = (msgspec.json.encode(value).decode() for value in (self.expected, self.got))
        return (
            f"{self.scenario}, step {self.step}, {self.operation}: expected {expected}, got {got}"
        )


@dataclass(slots=True)
class Outcome:
    """What came of one scenario. `unchecked` steps had no recorded result to hold them to."""

    steps: int = 0
    unchecked: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)


def replay(scenario: r.Scenario, target: Target) -> Outcome:
    """Run `scenario` on a machine without processes, with DKSM stopped and huge pages off.

    Behind a step that was not deterministic when it was recorded, nothing is compared.
    """
    outcome = Outcome()
    player = Player(target)
    reliable = True
    for number, raw in enumerate(scenario.steps):
        outcome.steps += 1
        try:
            step = r.decode_step(raw)
        except r.UNDECODABLE as error:
            operation = bytes(raw).decode(errors="replace")
            outcome.mismatches.append(
                Mismatch(scenario.name, number, operation, "a known step", str(error))
            )
            continue
        got = player.play(step)
        reliable = reliable and not step.nondeterministic
        if not reliable or step.result is msgspec.UNSET:
            outcome.unchecked += 1
        elif got != step.result:
            operation = str(type(step).__struct_config__.tag)
            outcome.mismatches.append(Mismatch(scenario.name, number, operation, step.result, got))
    player.end()
    return outcome


@dataclass(slots=True)
class Region:
    """A named range: its first virtual page, counted from `BASE`, and its size in pages."""

    vpn: int
    pages: int

    def address(self, page: int = 0) -> int:
        """The address (bytes) of a page of the region."""
        return r.BASE + (self.vpn + page) * PAGE_SIZE


@dataclass(slots=True)
class Proc:
    """A process of the scenario."""

    pid: int
    regions: dict[str, Region] = field(default_factory=dict)


class Player:
    """Carries out steps, and says their results as the recordings do."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._procs: dict[str, Proc] = {}

    def play(self, step: r.AnyStep) -> Result:
        """The result of the step; a step that makes no sense gives {"error": why}."""
        try:
            return _PLAY[type(step)](self, step)
        except OpenError as error:
            return {"open": -1, "errno": errno.errorcode[error.errno or 0]}
        except OSError as error:
            signal = getattr(error, "signal", None)
            if signal is not None:
                return {"signal": signal}
            return {"ret": -1, "errno": errno.errorcode.get(error.errno or 0, str(error))}
        except (LookupError, ValueError, DksmfsError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def end(self) -> None:
        """Let the processes that are left exit, so that the machine can serve again."""
        for proc in self._procs.values():
            self._target.ask(m.Exit(proc.pid))
        self._procs.clear()

    def _spawn(self, step: r.Spawn) -> Result:
        self._procs[step.proc] = Proc(self._target.ask(m.Spawn(step.proc)).pid)
        return _done()

    def _exit(self, step: r.Exit) -> Result:
        self._target.ask(m.Exit(self._procs[step.proc].pid))
        del self._procs[step.proc]
        return _done()

    def _fork(self, step: r.Fork) -> Result:
        parent = self._procs[step.proc]
        child = self._target.ask(m.Fork(parent.pid, step.child))
        regions = {name: Region(at.vpn, at.pages) for name, at in parent.regions.items()}
        self._procs[step.child] = Proc(child.pid, regions)
        return _done()

    def _mkfile(self, step: r.Mkfile) -> Result:
        self._target.ask(m.Mkfile(str(step.file), step.pages, step.content))
        return _done()

    def _mmap(self, step: r.Mmap) -> Result:
        region = Region(step.vpn, step.pages)
        proc = self._procs[step.proc]
        request = m.Mmap(
            proc.pid,
            step.pages * PAGE_SIZE,
            address=region.address(),
            prot=step.prot,  # type: ignore[arg-type]
            kind=step.kind,  # type: ignore[arg-type]
            file=None if step.file is None else str(step.file),
        )
        self._target.ask(request)
        proc.regions[step.region] = region
        return _done()

    def _munmap(self, step: r.Munmap) -> Result:
        self._target.ask(m.Munmap(*self._range(step)))
        regions = self._procs[step.proc].regions
        if step.count == regions[step.region].pages:
            del regions[step.region]
        return _done()

    def _mprotect(self, step: r.Mprotect) -> Result:
        self._target.ask(m.Mprotect(*self._range(step), step.prot))  # type: ignore[arg-type]
        return _done()

    def _mremap(self, step: r.Mremap) -> Result:
        region = self._region(step)
        moved = Region(step.new_vpn, region.pages)
        pid, length = self._procs[step.proc].pid, region.pages * PAGE_SIZE
        self._target.ask(m.Mremap(pid, region.address(), length, moved.address()))
        region.vpn = step.new_vpn
        return _done()

    def _fill(self, step: r.Fill) -> Result:
        self._target.ask(m.Fill(*self._range(step), step.content))
        return _done()

    def _poke(self, step: r.Poke) -> Result:
        address = self._region(step).address(step.page) + step.offset
        self._target.ask(m.Write(self._procs[step.proc].pid, address, bytes([step.byte])))
        return _done()

    def _peek(self, step: r.Peek) -> Result:
        address = self._region(step).address(step.page) + step.offset
        loaded = self._target.ask(m.Read(self._procs[step.proc].pid, address, 1))
        return {"value": loaded.data[0]}

    def _madvise(self, step: r.Madvise) -> Result:
        self._target.ask(m.Madvise(*self._range(step), ADVICE[step.advice]))
        return _done()

    def _madvise_raw(self, step: r.MadviseRaw) -> Result:
        pid = self._procs[step.proc].pid
        advice = _INVALID_ADVICE if step.advice == "invalid" else ADVICE[step.advice]
        self._target.ask(m.Madvise(pid, r.BASE + step.address, step.length, advice))
        return _done()

    def _write(self, step: r.Write) -> Result:
        return {"ret": self._target.write(step.file, step.data.encode("latin-1"))}

    def _read(self, step: r.Read) -> Result:
        return {"data": self._target.read(step.file)}

    def _stats(self, _: r.Stats) -> Result:
        return {file: int(self._target.read(file)) for file in _STATISTICS}

    def _thp(self, step: r.Thp) -> Result:
        self._target.ask(m.SetThp(step.mode))
        return _done()

    def _sharing(self, step: r.Sharing) -> Result:
        classes: dict[int, int] = {}
        return {
            name: self._sharing_of(proc, step.limit, classes) for name, proc in self._procs.items()
        }

    def _sharing_of(self, proc: Proc, limit: int, classes: dict[int, int]) -> Result:
        regions: dict[str, list[int | str | None]] = {}
        huge: dict[str, int] = {}
        for name, region in proc.regions.items():
            length = min(region.pages, limit) * PAGE_SIZE
            view = self._target.ask(m.ViewPagemap(proc.pid, region.address(), length))
            regions[name] = [
                classes.setdefault(page, len(classes) + 1) if isinstance(page, int) else page
                for page in view.pages
            ]
            if view.huge_pages:
                huge[name] = view.huge_pages
        mappings = self._target.ask(m.ViewSmaps(proc.pid)).mappings
        result: dict[str, Any] = {"regions": regions}
        if huge:
            result["thp_pages"] = huge
        for size in ("rss_kb", "pss_kb", "anonymous_kb", "anon_huge_kb"):
            result[size] = sum(getattr(mapping, size) for mapping in mappings)
        return result

    def _contents(self, step: r.Contents) -> Result:
        return {
            name: {
                region_name: self._target.ask(
                    m.ViewContents(
                        proc.pid, region.address(), min(region.pages, step.limit) * PAGE_SIZE
                    )
                ).pages
                for region_name, region in proc.regions.items()
            }
            for name, proc in self._procs.items()
        }

    def _region(self, step: r.OfRegion) -> Region:
        return self._procs[step.proc].regions[step.region]

    def _range(self, step: r.OfPages) -> tuple[int, int, int]:
        """The process, address and length (bytes) that the step is about."""
        address = self._region(step).address(step.start)
        return self._procs[step.proc].pid, address, step.count * PAGE_SIZE


def _done() -> Result:
    return {"ret": 0}


def _plain(request: type[m.OfRange[m.Done]]) -> Callable[[Player, Any], Result]:
    """A step whose request has nothing but the range."""

    def play(player: Player, step: r.OfPages) -> Result:
        player._target.ask(request(*player._range(step)))
        return _done()

    return play


_PLAY: dict[type[r.Step], Callable[[Player, Any], Result]] = {
    r.Spawn: Player._spawn,
    r.Exit: Player._exit,
    r.Fork: Player._fork,
    r.Mkfile: Player._mkfile,
    r.Mmap: Player._mmap,
    r.Munmap: Player._munmap,
    r.Mprotect: Player._mprotect,
    r.Mremap: Player._mremap,
    r.Mlock: _plain(m.Mlock),
    r.Munlock: _plain(m.Munlock),
    r.Fill: Player._fill,
    r.Touch: _plain(m.Touch),
    r.Poke: Player._poke,
    r.Peek: Player._peek,
    r.Madvise: Player._madvise,
    r.MadviseRaw: Player._madvise_raw,
    r.Write: Player._write,
    r.Read: Player._read,
    r.Stats: Player._stats,
    r.Thp: Player._thp,
    r.Sharing: Player._sharing,
    r.Contents: Player._contents,
}
