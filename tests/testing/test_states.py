"""States as data: what is saved comes back, and what cannot be saved is refused."""

import json
import os
from pathlib import Path

import pytest

import dksmfs
from dksmfs.cli import main
from dksmfs.errors import DksmfsError
from dksmfs.testing import Dksm, workloads


def visible(dksm: Dksm) -> tuple[object, ...]:
    processes = [(p.name, p.rss_pages) for p in dksm.processes()]
    return dksm.stats, processes, str(dksm.sharing()), dksm.thp


def test_eight_virtual_machines_in_one_line(dksm: Dksm, tmp_path: Path) -> None:
    workloads.identical_virtual_machines(dksm, 8, pages=100, merged=0.6)
    before = visible(dksm)
    dksm.save(tmp_path / "eight.jsonl")
    dksm.reset()
    assert dksm.processes() == []
    processes = dksm.load(tmp_path / "eight.jsonl")
    assert visible(dksm) == before
    assert list(processes) == [f"vm-{n}" for n in range(1, 9)]
    processes["vm-1"].regions[0].write(0, b"and go on")
    processes["vm-8"].exit()
    assert len(dksm.processes()) == 7


def test_a_life_with_everything(dksm: Dksm, tmp_path: Path) -> None:
    (dksm.path / "run").write_text("1")
    (dksm.sys / "kernel/mm/transparent_hugepage/enabled").write_text("madvise")
    dksm.mkfile("library", pages=4, fill="index:3")
    a = dksm.process("a")
    data = a.mmap(os.urandom(10_000), prot="rw")
    data.madvise("mergeable")
    a.mmap(pages=4, kind="file-private", file="library").touch()
    a.mmap(pages=512, fill="zero", at=1 << 30).madvise("hugepage")
    b = a.fork("b")
    b.regions[0].write(1, b"written")
    b.regions[0].madvise("mergeable")
    a.mmap(pages=3, fill="const:1").munmap(offset=4096, length=4096)
    dksm.process("short-lived").exit()
    a.exit()
    before = visible(dksm)
    dksm.save(tmp_path / "life.jsonl.gz")
    contents = b.regions[0].contents()
    loaded = dksm.load(tmp_path / "life.jsonl.gz")
    assert visible(dksm) == before
    assert loaded["b"].regions[0].contents() == contents
    assert main(["replay", str(tmp_path / "life.jsonl.gz")]) == 0


def test_saving_twice_and_after_loading(dksm: Dksm, tmp_path: Path) -> None:
    workloads.zero_pages(dksm, 2, pages=10)
    dksm.save(tmp_path / "first")
    workloads.unique_memory(dksm, 1, pages=5)
    dksm.save(tmp_path / "second")
    second = visible(dksm)
    dksm.load(tmp_path / "first")
    workloads.unique_memory(dksm, 1, pages=5)
    assert visible(dksm) == second
    dksm.save(tmp_path / "third")
    with dksmfs.machine(load=tmp_path / "third") as other:
        assert visible(other) == second


def test_loading_uses_no_files(dksm: Dksm, tmp_path: Path) -> None:
    dksm.run = 1
    dksm.save(tmp_path / "state")
    dksm.load(tmp_path / "state")
    assert dksm.run == 1
    assert dksm.accesses == []


def test_a_state_written_by_hand(dksm: Dksm, tmp_path: Path) -> None:
    pages = {"proc": "vm", "region": "r", "start": 0, "count": 3}
    steps = [
        {"op": "write", "file": "run", "data": "1"},
        {"op": "spawn", "proc": "vm"},
        {"op": "mmap", "proc": "vm", "region": "r", "vpn": 0, "pages": 3, "kind": "anon",
         "prot": "rw"},
        {"op": "fill", **pages, "content": "const:7"},
        {"op": "madvise", **pages, "advice": "mergeable"},
    ]  # fmt: skip
    state = tmp_path / "state.jsonl"
    state.write_text(json.dumps({"name": "by hand", "steps": steps}))
    assert dksm.load(state)["vm"].regions[0].pages == 3
    assert dksm.stats.pages_merged == 2


def test_what_cannot_be_loaded(dksm: Dksm, tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    for text, reason in (
        ("", "0 scenarios; a state is one"),
        ("{", "line 1: not a scenario"),
        ('{"name": "x", "steps": [{"op": "dance"}]}', "step 0: Invalid value 'dance'"),
        ('{"name": "x", "steps": [{"op": "exit", "proc": "vm"}]}', "step 0: KeyError"),
        (
            '{"name": "x", "steps": [{"op": "stats", "result": {"run": 1}}]}',
            "a result of {'run': 1} was saved, now it is",
        ),
    ):
        state.write_text(text)
        with pytest.raises(DksmfsError, match=reason):
            dksm.load(state)
    with pytest.raises(DksmfsError, match="No such file"):
        dksm.load(tmp_path / "none")


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with dksmfs.machine(record=False) as dksm, pytest.raises(DksmfsError, match="record=False"):
        dksm.save(tmp_path / "state")
    with dksmfs.machine() as dksm:
        dksm.process("vm").mmap(bytes(65 << 20))
        for _ in range(2):
            with pytest.raises(DksmfsError, match="cannot be saved: the recording ended early"):
                dksm.save(tmp_path / "state")
        dksm.reset()
        dksm.save(tmp_path / "state")
        (tmp_path / "state").unlink()
    assert list(tmp_path.iterdir()) == []
