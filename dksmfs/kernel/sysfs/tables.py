"""What a machine shows of itself in sysfs: the attributes of dksm and of transparent huge pages."""

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from dksmfs.kernel.errors import kernel_error
from dksmfs.kernel.sysfs.attribute import (
    Attribute,
    Directory,
    kstrtouint,
    show_choice,
    store_choice,
)

if TYPE_CHECKING:
    from dksmfs.kernel.machine import Machine

_THP_MODES = ("always", "madvise", "never")


def dksm_tree(machine: "Machine") -> Directory:
    """Return ``/sys/kernel/mm/dksm`` of a machine: numbers (``sysfs_emit(buf, "%lu\\n", ...)``)."""
    return Directory.of(
        "dksm",
        [
            Attribute("run", 0o644, lambda: f"{machine.dksm.run}\n", _store_run(machine)),
            Attribute("pages_scanned", 0o444, lambda: f"{machine.dksm.pages_scanned}\n"),
            Attribute("pages_merged", 0o444, lambda: f"{machine.dksm.pages_merged}\n"),
            Attribute("merging_failed", 0o444, lambda: f"{machine.dksm.merging_failed}\n"),
            Attribute("hashtable_entries", 0o444, lambda: f"{machine.dksm.hashtable_entries}\n"),
            Attribute("hashtable_size", 0o444, lambda: f"{machine.dksm.hashtable_size}\n"),
        ],
    )


def thp_tree(machine: "Machine") -> Directory:
    """Return ``/sys/kernel/mm/transparent_hugepage`` of a machine."""

    def store(buffer: bytes) -> None:
        machine.thp = store_choice(_THP_MODES, buffer)

    def show() -> str:
        return show_choice(_THP_MODES, machine.thp)

    return Directory.of("transparent_hugepage", [Attribute("enabled", 0o644, show, store)])


def sys_tree(machine: "Machine") -> Directory:
    """Return ``/sys`` of a machine, as far as a program looks into it for dksm."""
    mm = Directory.of("mm", [dksm_tree(machine), thp_tree(machine)])
    return Directory.of("sys", [Directory.of("kernel", [mm])])


def _store_run(machine: "Machine") -> Callable[[bytes], None]:
    """Return ``run_store``, which answers EINVAL even to what ``kstrtouint`` calls ERANGE."""

    def store(buffer: bytes) -> None:
        try:
            value = kstrtouint(buffer)
        except OSError as error:
            raise kernel_error(errno.EINVAL, "run takes 0 or 1") from error
        machine.dksm.set_run(value)

    return store
