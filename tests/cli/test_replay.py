"""``dksmfs replay``: what it compares, what it says, and its exit status."""

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dksmfs.cli import main
from tests.cli.command_line import REPOSITORY, CommandLine

RECORDINGS = sorted((REPOSITORY / "tests" / "recordings").glob("*.jsonl.gz"))
DONE = {"ret": 0}
STOPPED = {
    "run": 0,
    "pages_scanned": 0,
    "pages_merged": 0,
    "merging_failed": 0,
    "hashtable_entries": 0,
    "hashtable_size": 4096,
}


class Replay:
    """Runs the command in this process, on scenarios that a test makes up."""

    def __init__(self, directory: Path, output: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._output = output

    def file(self, *scenarios: list[Any], name: str = "made-up.jsonl") -> Path:
        """Write each list of steps as a scenario `s0`, `s1`, ... to a file."""
        path = self.directory / name
        lines = [
            json.dumps({"name": f"s{number}", "steps": steps}) + "\n"
            for number, steps in enumerate(scenarios)
        ]
        path.write_text("".join(lines))
        return path

    def __call__(self, *arguments: str | Path) -> tuple[int, list[str]]:
        """The exit status, and the lines printed."""
        status = main(["replay", *map(str, arguments)])
        return status, self._output.readouterr().out.splitlines()

    def steps(self, *steps: Any) -> tuple[int, list[str]]:
        """Replay one scenario."""
        return self(self.file(list(steps)))


@pytest.fixture
def replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Replay:
    """The command."""
    return Replay(tmp_path, capsys)


def test_only_the_reuse_of_freed_frames_differs_from_the_recordings(replay: Replay) -> None:
    status, (mismatch, summary) = replay(*RECORDINGS)
    assert status == 1
    assert mismatch.startswith("reuse_dontneed, step 9, stats: expected {")
    assert summary.startswith("scenarios: ")
    assert summary.endswith(", mismatches: 1")


def test_a_scenario_that_matches(replay: Replay) -> None:
    assert replay.steps({"op": "stats", "result": STOPPED}) == (
        0,
        ["scenarios: 1, steps: 1, mismatches: 0"],
    )


def test_a_mismatch_says_where_it_is_and_the_rest_is_compared_too(replay: Replay) -> None:
    status, lines = replay.steps(
        {"op": "spawn", "proc": "A", "result": {"ret": 5}},
        {"op": "stats", "result": STOPPED},
        {"op": "read", "file": "run", "result": {"data": "1\n"}},
    )
    assert status == 1
    assert lines == [
        's0, step 0, spawn: expected {"ret":5}, got {"ret":0}',
        's0, step 2, read: expected {"data":"1\\n"}, got {"data":"0\\n"}',
        "scenarios: 1, steps: 3, mismatches: 2",
    ]


@pytest.mark.parametrize(
    "step",
    [
        {"op": "teleport", "proc": "A"},
        {"op": "spawn", "proc": "B", "colour": "red"},
        {"op": "spawn"},
        {"op": "thp", "mode": "sometimes"},
        {"proc": "B"},
        "spawn",
        {"op": "madvise", "proc": "A", "region": "r", "start": 0, "count": 1, "advice": "willneed"},
        {"op": "mmap", "proc": "A", "region": "r", "vpn": 0, "pages": 1, "kind": "pmem"},
        {"op": "fill", "proc": "A", "region": "r", "start": 0, "count": 1, "content": "noise"},
        {"op": "exit", "proc": "nobody"},
        {"op": "touch", "proc": "A", "region": "nowhere", "start": 0, "count": 1},
    ],
)
def test_what_is_not_understood_is_a_mismatch(replay: Replay, step: Any) -> None:
    region = {"op": "mmap", "proc": "A", "region": "r", "vpn": 0, "pages": 1}
    result = {} if isinstance(step, str) else {**step, "result": DONE}
    status, lines = replay.steps(
        {"op": "spawn", "proc": "A", "result": DONE},
        {**region, "kind": "anon", "prot": "rw", "result": DONE},
        result or step,
    )
    assert status == 1
    assert len(lines) == 2
    assert lines[0].startswith("s0, step 2, ")


def test_what_is_not_understood_is_a_mismatch_without_a_result_too(replay: Replay) -> None:
    status, lines = replay.steps({"op": "teleport"})
    assert status == 1
    assert "teleport" in lines[0]


def test_behind_a_nondeterministic_step_nothing_is_compared(replay: Replay) -> None:
    wrong = {"op": "stats", "result": {}}
    status, lines = replay.steps(
        {"op": "stats", "result": STOPPED},
        {**wrong, "nondeterministic": True, "results": [{}, STOPPED]},
        wrong,
    )
    assert (status, lines) == (0, ["scenarios: 1, steps: 3, mismatches: 0"])


def test_a_step_that_is_no_text_is_a_mismatch(replay: Replay) -> None:
    path = replay.file([{"op": "stats", "result": "?"}])
    path.write_bytes(path.read_bytes().replace(b"?", b"\xff"))
    status, lines = replay(path)
    assert status == 1
    assert lines[0].startswith("s0, step 0, ")


def test_but_what_is_not_understood_is_a_mismatch_there_too(replay: Replay) -> None:
    random = {"op": "stats", "result": {}, "nondeterministic": True, "results": [{}, STOPPED]}
    status, lines = replay.steps(random, {"op": "teleport"})
    assert status == 1
    assert lines[0].startswith("s0, step 1, ")


def test_each_scenario_has_a_machine_of_its_own(replay: Replay) -> None:
    start = {"op": "write", "file": "run", "data": "1\n", "result": {"ret": 2}}
    steps = [{"op": "stats", "result": STOPPED}, start]
    assert replay(replay.file(steps, steps))[0] == 0


def test_json(replay: Replay) -> None:
    wrong = {"op": "spawn", "proc": "A", "result": {"ret": 5}}
    status, lines = replay("--json", replay.file([wrong, {"op": "stats"}], []))
    assert status == 1
    assert json.loads("".join(lines)) == {
        "scenarios": 2,
        "steps": 2,
        "mismatches": 1,
        "unchecked": 1,
        "details": [
            {
                "scenario": "s0",
                "step": 0,
                "operation": "spawn",
                "expected": {"ret": 5},
                "got": {"ret": 0},
            }
        ],
    }


def test_compressed_files_and_standard_input(
    replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = replay.file([{"op": "stats", "result": STOPPED}]).read_bytes()
    compressed = replay.directory / "made-up.jsonl.gz"
    compressed.write_bytes(gzip.compress(text))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text + b"\n" + text)))
    assert replay(compressed, "-") == (0, ["scenarios: 3, steps: 3, mismatches: 0"])


BROKEN = {
    "no json": b'{"name": ',
    "no scenario": b'{"name": "x"}\n',
    "another shape": b'[{"op": "stats"}]\n',
    "not text": b"\xff\xfe\x00\n",
    "deep": b'{"name": "x", "steps": [' + b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_one_line(
    replay: Replay, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    path = replay.file([], name="broken.jsonl")
    path.write_bytes(path.read_bytes() + BROKEN[what])
    assert main(["replay", str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"dksmfs: {path}, line 2: not a scenario: ")


SCENARIO = b'{"name": "x", "steps": []}\n'
UNREADABLE = {
    "absent.jsonl": (None, "No such file or directory"),
    "cut.jsonl.gz": (gzip.compress(SCENARIO * 99, mtime=0)[:-9], "ended"),
    "plain.jsonl.gz": (SCENARIO, "gzip"),
    "damaged.jsonl.gz": (gzip.compress(SCENARIO, mtime=0)[:10] + b"\xff" * 30, "decompressing"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_file_is_one_line(
    replay: Replay, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    data, reason = UNREADABLE[name]
    path = replay.directory / name
    if data is not None:
        path.write_bytes(data)
    assert main(["replay", str(path)]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"dksmfs: {path}: ")
    assert reason in line


@pytest.mark.mounted
def test_the_recordings_hold_for_mounted_files_too(dksmfs: CommandLine) -> None:
    done = dksmfs("replay", "--mounted", "--json", *RECORDINGS, timeout_s=300)
    result = json.loads(done.stdout)
    assert done.returncode == 1
    assert result["mismatches"] == 1
    assert result["scenarios"] > 400
    assert result["details"][0]["scenario"] == "reuse_dontneed"


@pytest.mark.mounted
def test_a_mounted_replay_leaves_nothing_when_the_file_is_broken(dksmfs: CommandLine) -> None:
    path = dksmfs.directory / "broken.jsonl"
    path.write_text("no\n")
    assert "line 1: not a scenario" in dksmfs.fail("replay", "--mounted", path)
