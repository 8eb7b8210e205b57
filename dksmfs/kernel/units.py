"""The sizes that everything in the kernel is counted in."""

from typing import Final

PAGE_SIZE: Final = 4096
"""Bytes of a page, and of the frame that holds it."""

HUGE_PAGES: Final = 512
"""Pages of a huge (compound) page, and entries of a page table: 2 MiB."""

ZERO_PFN: Final = 0
"""The kernel's shared zero page."""

TASK_PAGES: Final = 0x7FFFFFFFF
"""Virtual pages of a process: its addresses end at 2**47 - 4096 (TASK_SIZE of x86-64)."""
