"""What the format can say beyond the recordings, written by hand."""

import base64
import json
from typing import Any

import pytest

from dksmfs.scenario import recording as r
from dksmfs.scenario.replay import Outcome, replay
from dksmfs.scenario.targets import MemoryTarget

DONE = {"ret": 0}
PAGE = 4096


def play(*steps: dict[str, Any], data: dict[str, str] | None = None) -> Outcome:
    """Replay steps in memory, behind those that spawn a process `A`."""
    spawn = {"op": "spawn", "proc": "A", "result": DONE}
    scenario = {"name": "x", "steps": [spawn, *steps], "data": data or {}}
    return replay(r.decode_scenario("x", 1, json.dumps(scenario).encode()), MemoryTarget())


def of(op: str, result: Any = DONE, **arguments: Any) -> dict[str, Any]:
    return {"op": op, "proc": "A", **arguments, "result": result}


MAP = of("mmap", region="r", vpn=0, pages=3, kind="anon", prot="rw", content="index:5")


def test_ranges_and_bytes_by_address() -> None:
    outcome = play(
        MAP,
        of("store", address=2 * PAGE - 2, data="AQIDBA=="),
        of("load", {"data": "AgM="}, region="r", page=1, offset=PAGE - 1, length=2),
        of("load", {"data": "AgM="}, address=2 * PAGE - 1, length=2),
        of("peek", {"value": 3}, region="r", page=2, offset=0),
        of("mprotect", address=0, length=1, prot="none"),
        of("load", {"signal": "SIGSEGV"}, address=5, length=1),
        of("madvise", {"ret": -1, "errno": "EINVAL"}, region="r", start=0, count=1, advice=99),
        of("munmap", address=-PAGE, length=4 * PAGE),
        of("load", {"signal": "SIGSEGV"}, address=2 * PAGE, length=1),
    )
    assert outcome.mismatches == []
    gone = play(MAP, of("munmap", address=-PAGE, length=4 * PAGE), of("touch", region="r",
                start=0, count=1))  # fmt: skip
    assert [mismatch.got for mismatch in gone.mismatches] == ["KeyError: 'r'"]


def test_mappings_far_from_the_base_and_anywhere() -> None:
    outcome = play(
        {**MAP, "vpn": -(2**24)},
        of("mmap", region="s", pages=2, kind="anon", prot="r", content="data:two"),
        of("mmap", {"ret": -1, "errno": "EINVAL"}, region="t", address=7, pages=1, kind="anon",
           prot="rw"),
        of("load", {"data": "eHk="}, region="s", page=0, offset=0, length=2),
        of("mremap", address=-(2**24) * PAGE + PAGE, length=PAGE, new_address=0, new_region="n"),
        of("peek", {"value": 6}, region="n", page=0, offset=0),
        of("load", {"signal": "SIGSEGV"}, region="r", page=1, offset=0, length=1),
        of("load", {"data": "BQA="}, address=-(2**24) * PAGE, length=2),
        data={"two": base64.b64encode(b"xy" + bytes(PAGE)).decode()},
    )  # fmt: skip
    assert outcome.mismatches == []


@pytest.mark.parametrize(
    "step",
    [
        of("touch", region="r", start=0),
        of("touch", region="r", start=0, count=1, address=0),
        of("touch", address=0),
        of("touch"),
        of("store", region="r", page=0, data=""),
        of("store", address=0, page=1, data=""),
        of("store", address=0, data="not base64!"),
        of("mremap", region="r", address=0, length=PAGE, new_address=0),
        of("mremap", region="r"),
        {**MAP, "address": 0},
        {**MAP, "content": "data:nowhere"},
        of("fill", region="r", start=0, count=1, content="data:"),
        of("madvise", region="r", start=0, count=1, advice="often"),
        of("spawn"),
        of("fork", child="A"),
    ],
)
def test_what_makes_no_sense_is_a_mismatch(step: dict[str, Any]) -> None:
    del step["result"]
    outcome = play(MAP, step)
    assert [mismatch.step for mismatch in outcome.mismatches] == [2]
