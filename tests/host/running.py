"""What the tests run: Python programs that advertise memory, and a look at what came of it."""

import json
import sys
from typing import Any

from tests.cli.command_line import CommandLine

PRELUDE = """
import ctypes, errno, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]

def area(pages, fill=lambda i: b"page %d" % i):
    found = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for i in range(pages):
        found[i * 4096 : i * 4096 + 16] = fill(i).ljust(16)
    return found

def address(area):
    return ctypes.addressof(ctypes.c_char.from_buffer(area))

def madvise(start, length, advice=12):
    if libc.madvise(start, length, advice) == 0:
        return 0
    return errno.errorcode[ctypes.get_errno()]

def advertise(area):
    return madvise(address(area), len(area))

def counters():
    names = ("pages_scanned", "pages_merged", "merging_failed", "hashtable_entries")
    return [int(open("/sys/kernel/mm/dksm/" + name).read()) for name in names]

def in_child(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def run_python(dksmfs: CommandLine, program: str, *options: str) -> list[Any]:
    """Run a Python program with DKSM on; returns what it printed, a JSON value a line."""
    command = [sys.executable, "-u", "-c", PRELUDE + "\nimport json\n" + program]
    said = dksmfs.succeed("run", "--on", "--thp", "never", *options, "--", *command)
    return [json.loads(line) for line in said.splitlines()]
