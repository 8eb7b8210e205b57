"""dksmfs in test suites: the fixture `dksm` of pytest, `machine()` for everything else, workloads.

Importing this is cheap: what is needed is loaded when it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dksmfs.injection import Access, Fault
    from dksmfs.testing.double import Dksm, machine
    from dksmfs.testing.warm import UnavailableError

__all__ = ["Access", "Dksm", "Fault", "UnavailableError", "machine"]

_HOMES = {
    "Access": "dksmfs.injection",
    "Dksm": "dksmfs.testing.double",
    "Fault": "dksmfs.injection",
    "UnavailableError": "dksmfs.testing.warm",
    "machine": "dksmfs.testing.double",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
