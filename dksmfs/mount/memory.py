"""How a daemon's own memory is kept, which lives long and holds large arrays for short times."""

import ctypes
import gc
from contextlib import suppress
from typing import Final

_M_MMAP_THRESHOLD: Final = -3  # mallopt(3)

_LARGE_BYTES: Final = 1 << 20
"""From here on an array is memory of its own, which goes back to the system with it. Otherwise
glibc would learn from the first large one to keep the holes: 10 bytes for each tracked page."""

_NEVER: Final = (1 << 31) - 1
"""Of collections of what is young; after so many the collector would look at everything."""


def settle_memory() -> None:
    """Call this once all is there that stays until the end.

    The collector looks at that no more: it would hold readers up for milliseconds each time. Nor
    does it ever look at all that has come since, which can be millions of objects: what the machine
    has is in no cycles, and cycles among what is made for one request are found while they are new.
    """
    with suppress(AttributeError):  # of a C library other than glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], _NEVER)
