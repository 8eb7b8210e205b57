"""What the steps that only look give: the six files, the sharing, the contents."""

from typing import Any

from dksmfs.control import messages as m
from dksmfs.kernel.units import PAGE_SIZE
from dksmfs.scenario.names import Names, Proc, Region
from dksmfs.scenario.targets import Target

_STATISTICS = m.Stats.__struct_fields__

View = dict[str, Any]
"""What a step gives, as JSON has it."""


def stats(target: Target) -> View:
    """The six files."""
    return {file: int(target.read(file)) for file in _STATISTICS}


def sharing(target: Target, names: Names, limit: int) -> View:
    """For each process the frames of the first `limit` pages of its regions, numbered as they
    appear, and its sizes in kB."""
    classes: dict[int, int] = {}
    return {name: _sharing_of(target, proc, limit, classes) for name, proc in names}


def _sharing_of(target: Target, proc: Proc, limit: int, classes: dict[int, int]) -> View:
    regions: dict[str, list[int | str | None]] = {}
    huge: dict[str, int] = {}
    for name, region in proc.regions.items():
        view = target.ask(m.ViewPagemap(proc.pid, *_first_pages(region, limit)))
        regions[name] = [
            classes.setdefault(page, len(classes) + 1) if isinstance(page, int) else page
            for page in view.pages
        ]
        if view.huge_pages:
            huge[name] = view.huge_pages
    mappings = target.ask(m.ViewSmaps(proc.pid)).mappings
    result: View = {"regions": regions}
    if huge:
        result["thp_pages"] = huge
    for size in ("rss_kb", "pss_kb", "anonymous_kb", "anon_huge_kb"):
        result[size] = sum(getattr(mapping, size) for mapping in mappings)
    return result


def contents(target: Target, names: Names, limit: int) -> View:
    """For each process what the first `limit` pages of its regions hold."""
    return {
        name: {
            region_name: target.ask(m.ViewContents(proc.pid, *_first_pages(region, limit))).pages
            for region_name, region in proc.regions.items()
        }
        for name, proc in names
    }


def _first_pages(region: Region, limit: int) -> tuple[int, int]:
    return region.address(), min(region.pages, limit) * PAGE_SIZE
