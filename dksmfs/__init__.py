"""The DKSM interface without the DKSM kernel."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dksmfs.control.client import connect, connect_trio
    from dksmfs.control.wire import ProtocolError
    from dksmfs.errors import DksmfsError
    from dksmfs.kernel.errors import AccessFault
    from dksmfs.testing.double import machine

__all__ = ["AccessFault", "DksmfsError", "ProtocolError", "connect", "connect_trio", "machine"]

__version__ = "0.1.0"

_HOMES = {
    "AccessFault": "dksmfs.kernel.errors",
    "DksmfsError": "dksmfs.errors",
    "ProtocolError": "dksmfs.control.wire",
    "connect": "dksmfs.control.client",
    "connect_trio": "dksmfs.control.client",
    "machine": "dksmfs.testing.double",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for, and no more: the engine alone needs none of the client."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
