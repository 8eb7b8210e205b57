"""The layers, and which of them may import which: kernel < control < mount, scenario... < cli."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = [
    {"errors", "injection", "instances", "kernel"},
    {"control"},
    {"mount", "scenario", "host", "testing"},
    {"cli", "__main__"},
]
"""The parts of dksmfs, from the ground up. A part may import those below it."""

SIDEWAYS = {
    ("instances", "errors"),
    ("mount", "scenario"),
    ("testing", "mount"),
    ("testing", "scenario"),
    ("__main__", "cli"),
}
"""Imports within a floor: a test starts a daemon, which has a recorder, and loads a scenario."""

BOTH_DOORS = "dksmfs.mount.daemon"
"""The only module that knows the mount, the socket and the recorder."""

PURE = {
    *(
        "abc",
        "bisect",
        "collections",
        "contextlib",
        "ctypes",
        "dataclasses",
        "enum",
        "errno",
        "heapq",
    ),
    *("functools", "itertools", "operator", "re", "types", "typing"),
    *("numpy", "xxhash"),
}
"""All that the kernel may import: what computes. No I/O, no clock, no threads, no chance."""

ANONYMOUS_MEMORY = ("dksmfs.kernel.memory.columns", "mmap")
"""mmap opens no file there: it is the only way to an array that grows without being copied."""


class Import(NamedTuple):
    """One import: who imports what, and whether it happens when the importer is loaded."""

    importer: str
    imported: str
    eager: bool


def modules() -> dict[str, ast.Module]:
    """The modules of dksmfs by their names, parsed."""
    found = {}
    for path in sorted((ROOT / "dksmfs").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(), str(path))
    return found


MODULES = modules()


def imports_of(name: str, *, for_types: bool = False) -> Iterator[Import]:
    """All imports of a module; those for the type checker alone only if asked for."""
    pending: list[tuple[ast.AST, bool]] = [(MODULES[name], True)]
    while pending:
        node, eager = pending.pop()
        if isinstance(node, ast.Import):
            yield from (Import(name, alias.name, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(name, full if full in MODULES else base, eager)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not for_types:
            pending += [(child, eager) for child in node.orelse]
        else:
            inside = eager and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            pending += [(child, inside) for child in ast.iter_child_nodes(node)]


IMPORTS = [found for name in MODULES for found in imports_of(name)]
INTERNAL = [found for found in IMPORTS if found.imported.split(".")[0] == "dksmfs"]
EXTERNAL = [found for found in IMPORTS if found.imported.split(".")[0] != "dksmfs"]


def part(module: str) -> str:
    """The part of dksmfs that a module belongs to; dksmfs itself is the public face of all."""
    _, _, below = module.partition(".")
    return below.split(".")[0]


def floor(module: str) -> int:
    (number,) = [number for number, parts in enumerate(FLOORS) if part(module) in parts]
    return number


def top(module: str) -> str:
    return module.split(".")[0]


def test_imports_go_down() -> None:
    wrong = [
        found
        for found in INTERNAL
        if part(found.importer) and part(found.imported)
        and part(found.importer) != part(found.imported)
        and (part(found.importer), part(found.imported)) not in SIDEWAYS
        and floor(found.imported) >= floor(found.importer)
    ]  # fmt: skip
    assert wrong == []


def test_the_kernel_is_pure() -> None:
    wrong = [
        found
        for found in IMPORTS
        if part(found.importer) == "kernel"
        and (found.importer, found.imported) != ANONYMOUS_MEMORY
        and not (found.imported.startswith("dksmfs.kernel") or top(found.imported) in PURE)
    ]
    assert wrong == []


def test_the_kernel_touches_nothing() -> None:
    names = {"open", "print", "input", "exec", "eval", "__import__"}
    called = [
        f"{name}: {node.func.id}"
        for name, tree in MODULES.items()
        if part(name) == "kernel"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]
    assert called == []


KERNEL_FLOORS = [
    {"units", "errors", "pausing"},
    {"selection"},
    {"content"},
    {"memory"},
    {"calls", "dksm"},
    {"machine"},
    {"sysfs"},
]
"""The parts of the kernel, from the ground up. A part may import those below it."""


def test_within_the_kernel_imports_go_down() -> None:
    """What only the type checker imports counts, too: to know of something is to depend on it."""
    floors = {name: number for number, names in enumerate(KERNEL_FLOORS) for name in names}
    wrong = [
        found
        for name in MODULES
        if name.startswith("dksmfs.kernel.")
        for found in imports_of(name, for_types=True)
        if found.imported.startswith("dksmfs.kernel.")
        and kernel_part(found.imported) != kernel_part(name)
        and floors[kernel_part(found.imported)] >= floors[kernel_part(name)]
    ]
    assert wrong == []


def kernel_part(module: str) -> str:
    return module.split(".")[2]


def test_no_folder_of_the_kernel_is_crowded() -> None:
    folders = [path for path in (ROOT / "dksmfs" / "kernel").rglob("*") if path.is_dir()]
    modules = {folder.name: len(list(folder.glob("[!_]*.py"))) for folder in folders}
    assert max(modules.values()) <= 12, modules


def test_mount_and_control_meet_in_the_daemon_only() -> None:
    doors = ({"mount", "control"}, {"mount", "scenario"})
    meeting = [found for found in INTERNAL if {part(found.importer), part(found.imported)} in doors]
    assert {found.importer for found in meeting} == {BOTH_DOORS}


@pytest.mark.parametrize(
    ("package", "places"),
    [
        ("pyfuse3", {"mount"}),
        ("trio", {"control", "mount"}),
        ("rich", {"cli", "host"}),
        ("argparse", {"cli"}),
        ("pytest", {"testing"}),
        ("numpy", {"kernel", "control"}),
    ],
)
def test_packages_stay_in_their_places(package: str, places: set[str]) -> None:
    users = {part(found.importer) for found in EXTERNAL if top(found.imported) == package}
    assert users <= places


def test_the_command_line_loads_nothing_heavy() -> None:
    """`dksmfs --help` must answer at once."""
    eager: dict[str, set[str]] = {}
    for found in IMPORTS:
        if found.eager:
            eager.setdefault(found.importer, set()).add(found.imported)
    loaded, pending = set(), ["dksmfs.cli"]
    while pending:
        module = pending.pop()
        if module not in loaded:
            loaded.add(module)
            pending += eager.get(module, ())
    assert {top(module) for module in loaded} & {
        "trio",
        "pyfuse3",
        "numpy",
        "rich",
        "msgspec",
    } == set()


def test_no_module_of_the_kernel_knows_itself_by_a_detour() -> None:
    """What only the type checker imports counts, too."""
    kernel = [name for name in MODULES if name.startswith("dksmfs.kernel.")]
    graph = {
        name: {found.imported for found in imports_of(name, for_types=True)} & set(kernel)
        for name in kernel
    }
    TopologicalSorter(graph).prepare()  # CycleError names the modules


def test_no_module_imports_itself_by_a_detour() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in INTERNAL:
        if found.eager and found.imported in MODULES and found.imported != "dksmfs":
            graph[found.importer].add(found.imported)
    TopologicalSorter(graph).prepare()  # CycleError names the modules


def test_the_page_about_it_names_what_there_is() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if ".py`" in row[1]]
    assert len(rows) > 20
    for row in rows:
        files = [ROOT / "dksmfs" / name for name in re.findall(r"`([\w/]+\.py)`", row[1])]
        defined = {name for file in files for name in names_in(ast.parse(file.read_text()))}
        functions = set(re.findall(r"`(\w+)`", row[2])) - OTHER_WORDS
        assert functions, row
        assert functions <= defined, row


OTHER_WORDS = {"exclusive", "Madvise", "TABLE", "pages_merged", "cat"}


def names_in(tree: ast.Module) -> set[str]:
    """The functions and classes that a module defines."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, definitions)}
