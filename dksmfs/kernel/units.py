"""What everything in the kernel is counted in: sizes, page numbers, and arrays of them.

A page number of one kind never stands for one of another kind, and mypy knows them apart. Addresses
and lengths in bytes are plain `int`; what is at such a number says 'bytes'.
"""

from typing import Final, NewType

import numpy as np
import numpy.typing as npt

Pfn = NewType("Pfn", int)
"""A page frame number: a frame of the machine."""

Vpn = NewType("Vpn", int)
"""A virtual page number: an address of a process, divided by PAGE_SIZE."""

Pgoff = NewType("Pgoff", int)
"""A page offset: where a page is in its file, or in its family of anonymous pages (page->index)."""

# Many of them, in arrays.
Numbers = npt.NDArray[np.int64]
Pfns = Numbers
Vpns = Numbers
Pgoffs = Numbers
Mask = npt.NDArray[np.bool_]

PAGE_SIZE: Final = 4096
"""Bytes of a page, and of the frame that holds it."""

HUGE_PAGES: Final = 512
"""Pages of a huge (compound) page, and entries of a page table: 2 MiB."""

ZERO_PFN: Final = Pfn(0)
"""The kernel's shared zero page."""

TASK_PAGES: Final = Vpn(0x7FFFFFFFF)
"""Virtual pages of a process: its addresses end at 2**47 - 4096 (TASK_SIZE of x86-64)."""
