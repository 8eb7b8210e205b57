"""Replays recordings on the reference model."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, cast

from dksmfs.control import messages as m
from dksmfs.kernel.content.described import parse_content
from dksmfs.kernel.machine import ADVICE, Machine
from dksmfs.kernel.sysfs.attribute import Attribute
from dksmfs.kernel.sysfs.tables import dksm_tree
from tests.kernel.model import Model


class ModelTarget:
    """The model, reached by the requests that a machine is reached by (a `replay.Target`)."""

    def __init__(self) -> None:
        self.model = Model(thp="never")
        self._dksm = dksm_tree(cast(Machine, self.model))

    def ask(self, request: m.Request[Any]) -> Any:
        """Carry out a request."""
        return _ANSWERS[type(request)](self.model, request)

    def read(self, file: str) -> str:
        """Show an attribute."""
        return self._attribute(file).read().decode()

    def write(self, file: str, data: bytes) -> int:
        """Store into an attribute."""
        return self._attribute(file).write(data)

    def _attribute(self, file: str) -> Attribute:
        found = self._dksm.find(file)
        assert isinstance(found, Attribute)
        return found


def _mmap(model: Model, r: m.Mmap) -> m.Mapped:
    assert r.address is not None
    address = model.mmap(r.pid, r.length, address=r.address, prot=r.prot, kind=r.kind, file=r.file)
    return m.Mapped(address)


def _madvise(model: Model, r: m.Madvise) -> None:
    advice = ADVICE[r.advice] if isinstance(r.advice, str) else r.advice
    model.madvise(r.pid, r.address, r.length, advice)


def _fill(model: Model, r: m.Fill) -> None:
    assert isinstance(r.content, str)
    model.fill(r.pid, r.address, r.length, parse_content(r.content))


def _mkfile(model: Model, r: m.Mkfile) -> None:
    assert isinstance(r.content, str)
    model.mkfile(r.file, r.pages, parse_content(r.content))


def _thp(model: Model, r: m.SetThp) -> None:
    assert r.mode is not None
    model.thp = r.mode


def _pagemap(model: Model, r: m.ViewPagemap) -> m.Pagemap:
    pages = model.pagemap(r.pid, r.address, r.length)
    numbers = ["Z" if page.zero else page.pfn for page in pages]
    return m.Pagemap(cast(list[m.PageNumber], numbers), sum(page.huge for page in pages))


def _contents(model: Model, r: m.ViewContents) -> m.Contents:
    pages = model.page_contents(r.pid, r.address, r.length)
    return m.Contents([page and f"{page[0]:x}/{page[1]:x}" for page in pages])


def _smaps(model: Model, r: m.ViewSmaps) -> m.Smaps:
    return m.Smaps([m.MappingInfo(**asdict(mapping)) for mapping in model.smaps(r.pid)])


_ANSWERS: Final[dict[type[m.Request[Any]], Callable[[Model, Any], Any]]] = {
    m.Spawn: lambda model, r: m.Spawned(model.spawn(r.name)),
    m.Fork: lambda model, r: m.Spawned(model.fork(r.pid, r.name)),
    m.Exit: lambda model, r: model.exit(r.pid),
    m.Mmap: _mmap,
    m.Munmap: lambda model, r: model.munmap(r.pid, r.address, r.length),
    m.Mprotect: lambda model, r: model.mprotect(r.pid, r.address, r.length, r.prot),
    m.Mremap: lambda model, r: model.mremap(r.pid, r.address, r.length, r.new_address),
    m.Mlock: lambda model, r: model.mlock(r.pid, r.address, r.length),
    m.Munlock: lambda model, r: model.munlock(r.pid, r.address, r.length),
    m.Touch: lambda model, r: model.touch(r.pid, r.address, r.length),
    m.Madvise: _madvise,
    m.Read: lambda model, r: m.Bytes(model.read(r.pid, r.address, r.length)),
    m.Write: lambda model, r: model.write(r.pid, r.address, r.data),
    m.Fill: _fill,
    m.Mkfile: _mkfile,
    m.SetThp: _thp,
    m.ViewPagemap: _pagemap,
    m.ViewContents: _contents,
    m.ViewSmaps: _smaps,
}
