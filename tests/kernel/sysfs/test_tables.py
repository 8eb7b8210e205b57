"""What a machine shows in sysfs, and what it takes."""

import pytest

from dksmfs.kernel.machine import ADVICE, Machine
from dksmfs.kernel.sysfs.attribute import Attribute, Directory
from dksmfs.kernel.sysfs.tables import dksm_tree, sys_tree


def attribute(tree: Directory, path: str) -> Attribute:
    found = tree.find(path)
    assert isinstance(found, Attribute)
    return found


def test_dksm_has_six_attributes_of_which_one_can_be_written() -> None:
    shown = {
        node.name: (oct(node.mode), node.read())
        for node in dksm_tree(Machine())
        if isinstance(node, Attribute)
    }
    assert shown == {
        "run": ("0o644", b"0\n"),
        "pages_scanned": ("0o444", b"0\n"),
        "pages_merged": ("0o444", b"0\n"),
        "merging_failed": ("0o444", b"0\n"),
        "hashtable_entries": ("0o444", b"0\n"),
        "hashtable_size": ("0o444", b"4096\n"),
    }


def test_run_is_stored_and_counters_follow() -> None:
    machine = Machine(thp="never")
    tree = dksm_tree(machine)
    assert attribute(tree, "run").write(b"1\n") == 2
    assert machine.dksm.run == 1
    for name in ("one", "two"):
        pid = machine.spawn(name)
        address = machine.mmap(pid, 8192)
        machine.write(pid, address, b"x")
        machine.madvise(pid, address, 8192, ADVICE["mergeable"])
    assert attribute(tree, "run").read() == b"1\n"
    assert attribute(tree, "pages_scanned").read() == b"2\n"
    assert attribute(tree, "pages_merged").read() == b"1\n"
    assert attribute(tree, "hashtable_entries").read() == b"1\n"


@pytest.mark.parametrize("text", [b"2", b"99999999999999999999", b"x", b"-1", b"1 "])
def test_run_refuses_everything_else_with_einval(text: bytes) -> None:
    machine = Machine()
    with pytest.raises(OSError, match="EINVAL"):
        attribute(dksm_tree(machine), "run").write(text)
    assert machine.dksm.run == 0


def test_whole_sys_holds_dksm_and_the_mode_of_huge_pages() -> None:
    machine = Machine()
    tree = sys_tree(machine)
    enabled = attribute(tree, "kernel/mm/transparent_hugepage/enabled")
    assert enabled.read() == b"[always] madvise never\n"
    enabled.write(b"never\n")
    assert machine.thp == "never"
    assert enabled.read() == b"always madvise [never]\n"
    with pytest.raises(OSError, match="EINVAL"):
        enabled.write(b"sometimes")
    attribute(tree, "kernel/mm/dksm/run").write(b"1")
    assert machine.dksm.run == 1
