"""What a step asks of the machine: from a step of a scenario to the request that does it."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from dksmfs.control import messages as m
from dksmfs.kernel.machine import ADVICE
from dksmfs.kernel.units import PAGE_SIZE
from dksmfs.scenario import recording as r
from dksmfs.scenario.names import Names

DATA_PREFIX: Final = "data:"
"""Before the key of a content that stands in `Scenario.data`."""

_INVALID_ADVICE: Final = 100  # what the advice `invalid` stands for


class Requests:
    """Makes requests of steps, for names and data as they are now."""

    def __init__(self, names: Names, data: Mapping[str, bytes]) -> None:
        self._names = names
        self._data = data

    def of(self, step: r.AnyStep) -> m.Request[Any]:
        """The request. LookupError or ValueError if the step makes no sense."""
        return _REQUESTS[type(step)](self, step)

    def _pid(self, step: r.OfProcess) -> int:
        return self._names[step.proc].pid

    def _pages(self, step: r.OfPages) -> tuple[int, int, int]:
        """The process, address and length (bytes) that the step is about."""
        if step.address is not None and step.length is not None:
            return self._pid(step), r.BASE + step.address, step.length
        assert step.region is not None
        assert step.start is not None
        assert step.count is not None
        region = self._names.region(step.proc, step.region)
        return self._pid(step), region.address(step.start), step.count * PAGE_SIZE

    def _address(self, step: r.OfBytes | r.Poke | r.Peek) -> int:
        if isinstance(step, r.OfBytes) and step.address is not None:
            return r.BASE + step.address
        assert step.region is not None
        region = self._names.region(step.proc, step.region)
        return region.address(step.page or 0) + (step.offset or 0)

    def _content(self, content: str) -> m.Content:
        key = content.removeprefix(DATA_PREFIX)
        return content if key == content else m.Carried(data=self._data[key])

    def _spawn(self, step: r.Spawn) -> m.Spawn:
        self._names.check_free(step.proc)
        return m.Spawn(step.proc)

    def _fork(self, step: r.Fork) -> m.Fork:
        self._names.check_free(step.child)
        return m.Fork(self._pid(step), step.child)

    def _exit(self, step: r.Exit) -> m.Exit:
        return m.Exit(self._pid(step))

    def _mkfile(self, step: r.Mkfile) -> m.Mkfile:
        return m.Mkfile(str(step.file), step.pages, self._content(step.content))

    def _mmap(self, step: r.Mmap) -> m.Mmap:
        address = None if step.address is None else r.BASE + step.address
        if step.vpn is not None:
            address = r.BASE + step.vpn * PAGE_SIZE
        return m.Mmap(
            self._pid(step),
            step.pages * PAGE_SIZE,
            address,
            step.prot,  # type: ignore[arg-type]  # a wrong word is for the machine to refuse
            step.kind,  # type: ignore[arg-type]
            None if step.file is None else str(step.file),
            None if step.content is None else self._content(step.content),
        )

    def _mprotect(self, step: r.Mprotect) -> m.Mprotect:
        return m.Mprotect(*self._pages(step), step.prot)  # type: ignore[arg-type]

    def _mremap(self, step: r.Mremap) -> m.Mremap:
        pid = self._pid(step)
        if step.region is not None and step.new_vpn is not None:
            region = self._names.region(step.proc, step.region)
            target = r.BASE + step.new_vpn * PAGE_SIZE
            return m.Mremap(pid, region.address(), region.length, target)
        assert step.address is not None
        assert step.length is not None
        assert step.new_address is not None
        return m.Mremap(pid, r.BASE + step.address, step.length, r.BASE + step.new_address)

    def _fill(self, step: r.Fill) -> m.Fill:
        return m.Fill(*self._pages(step), self._content(step.content))

    def _poke(self, step: r.Poke) -> m.Write:
        return m.Write(self._pid(step), self._address(step), bytes([step.byte]))

    def _peek(self, step: r.Peek) -> m.Read:
        return m.Read(self._pid(step), self._address(step), 1)

    def _store(self, step: r.Store) -> m.Write:
        return m.Write(self._pid(step), self._address(step), step.data)

    def _load(self, step: r.Load) -> m.Read:
        return m.Read(self._pid(step), self._address(step), step.length)

    def _madvise(self, step: r.Madvise) -> m.Madvise:
        return m.Madvise(*self._pages(step), _advice(step.advice))

    def _madvise_raw(self, step: r.MadviseRaw) -> m.Madvise:
        advice = _INVALID_ADVICE if step.advice == "invalid" else _advice(step.advice)
        return m.Madvise(self._pid(step), r.BASE + step.address, step.length, advice)

    def _thp(self, step: r.Thp) -> m.SetThp:
        return m.SetThp(step.mode)


def _advice(advice: str | int) -> int:
    return ADVICE[advice] if isinstance(advice, str) else advice


def _plain(request: type[m.OfRange[Any]]) -> Callable[[Requests, Any], m.Request[Any]]:
    """A step whose request has nothing but the range."""
    return lambda requests, step: request(*requests._pages(step))


_REQUESTS: Final[dict[type[r.Step], Callable[[Requests, Any], m.Request[Any]]]] = {
    r.Spawn: Requests._spawn,
    r.Fork: Requests._fork,
    r.Exit: Requests._exit,
    r.Mkfile: Requests._mkfile,
    r.Mmap: Requests._mmap,
    r.Munmap: _plain(m.Munmap),
    r.Mprotect: Requests._mprotect,
    r.Mremap: Requests._mremap,
    r.Mlock: _plain(m.Mlock),
    r.Munlock: _plain(m.Munlock),
    r.Fill: Requests._fill,
    r.Touch: _plain(m.Touch),
    r.Poke: Requests._poke,
    r.Peek: Requests._peek,
    r.Store: Requests._store,
    r.Load: Requests._load,
    r.Madvise: Requests._madvise,
    r.MadviseRaw: Requests._madvise_raw,
    r.Thp: Requests._thp,
}
