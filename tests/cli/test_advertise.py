"""``dksmfs advertise``: its totals are those of an independent count."""

import hashlib
import json
import os
import random
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command_line import CommandLine

pytestmark = pytest.mark.mounted

PAGE = 4096


@pytest.fixture
def directory(dksmfs: CommandLine) -> Iterator[Path]:
    """The six files of a running instance, without huge pages and with DKSM on."""
    place = Path(dksmfs.mount("--thp", "never")["mountpoint"])
    (place / "run").write_text("1\n")
    yield place
    dksmfs.succeed("umount")


def make_files(directory: Path) -> list[Path]:
    """Files of every size and name that could make a difference."""
    source = random.Random(7)
    page, other = source.randbytes(PAGE), source.randbytes(PAGE)
    contents = {
        "empty": b"",
        "one byte": b"x",
        "another-byte": b"x",
        "exact": page,
        "exact+1": page + b"y",
        "short-of-it": page[:-1],
        "zeros": bytes(5 * PAGE),
        "repeats": (page + other) * 7 + other[:100],
        "large": source.randbytes(600 * PAGE) + page,
        "[red]markup": other,
        "new\nline": page,
        "non-utf-8 \udcff\udcfe": page * 2,
    }
    paths = []
    for name, content in contents.items():
        path = directory / name
        path.write_bytes(content)
        paths.append(path)
    return paths


def count(paths: Sequence[Path]) -> dict[str, int]:
    """What DKSM does with the files, found out by hashing their pages."""
    pages = []
    for path in paths:
        data = path.read_bytes()
        data += bytes(-len(data) % PAGE)
        pages += [hashlib.sha256(data[at : at + PAGE]).digest() for at in range(0, len(data), PAGE)]
    merged = len(pages) - len(set(pages))
    return {"pages": len(pages), "scanned": len(pages), "merged": merged, "failed": 0, "huge": 0}


def totals(line: CommandLine, *arguments: str | Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(line.succeed("advertise", "--json", *arguments))["totals"]
    del result["process"], result["share_percent"]
    return result


@pytest.mark.parametrize("repeat", [1, 3])
@pytest.mark.usefixtures("directory")
def test_totals_are_those_of_an_independent_count(dksmfs: CommandLine, repeat: int) -> None:
    paths = make_files(dksmfs.directory)
    assert totals(dksmfs, "--repeat", str(repeat), *paths) == count(paths * repeat)


@pytest.mark.usefixtures("directory")
def test_programs_of_this_machine(dksmfs: CommandLine) -> None:
    paths = [Path(name) for name in ("/bin/bash", "/bin/ls", "/bin/cat")]
    assert totals(dksmfs, *paths) == count(paths)


@pytest.mark.usefixtures("directory")
def test_the_processes_are_gone_afterwards(dksmfs: CommandLine) -> None:
    dksmfs.succeed("advertise", "/bin/ls")
    assert json.loads(dksmfs.succeed("ps", "--json")) == {"processes": []}


@pytest.mark.usefixtures("directory")
def test_each_process_has_a_row(dksmfs: CommandLine) -> None:
    path = dksmfs.directory / "image"
    path.write_bytes(bytes(3 * PAGE))
    result = json.loads(dksmfs.succeed("advertise", "--json", "--repeat", "2", path))
    row = {"process": str(path), "pages": 3, "scanned": 3, "failed": 0, "huge": 0}
    assert result["processes"] == [
        {**row, "merged": 2, "share_percent": 66.67},
        {**row, "merged": 3, "share_percent": 100.0},
    ]
    assert result["totals"]["merged"] == 5
    table = [text.split() for text in dksmfs.succeed("advertise", path).splitlines()]
    assert table[0] == ["process", "pages", "scanned", "merged", "failed", "share", "%"]
    assert table[-1][-5:] == ["3", "3", "2", "0", "66.7"]


@pytest.mark.usefixtures("directory")
def test_strange_names_are_printed_escaped(dksmfs: CommandLine) -> None:
    paths = make_files(dksmfs.directory)[-3:]
    printed = dksmfs.succeed("advertise", *(path.name for path in paths))
    names = [text.rsplit(maxsplit=5)[0] for text in printed.splitlines()[1:-1]]
    assert names == ["[red]markup", r"new\nline", r"non-utf-8 \xff\xfe"]


def test_hold_keeps_the_processes_until_interrupted(dksmfs: CommandLine, directory: Path) -> None:
    with dksmfs.start("advertise", "--hold", "--repeat", "2", "/bin/ls") as process:
        assert process.stderr is not None
        assert "holding 2 processes" in process.stderr.readline()
        held = json.loads(dksmfs.succeed("ps", "--json"))["processes"]
        assert [(entry["name"], entry["owner"]) for entry in held] == [("ls", "other")] * 2
        assert (directory / "pages_merged").read_text() != "0\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "/bin/ls" in output
    assert json.loads(dksmfs.succeed("ps", "--json")) == {"processes": []}


def test_a_stopped_dksm_is_pointed_out(dksmfs: CommandLine, directory: Path) -> None:
    (directory / "run").write_text("0\n")
    done = dksmfs("advertise", "--json", "/bin/ls")
    assert done.returncode == 0
    assert f"echo 1 > {directory}/run" in done.stderr
    result = json.loads(done.stdout)["totals"]
    assert (result["scanned"], result["merged"], result["failed"]) == (0, 0, 0)


@pytest.mark.parametrize("root", ["dksm", "sys"])
def test_huge_pages_are_pointed_out_with_their_remedy(dksmfs: CommandLine, root: str) -> None:
    place = Path(dksmfs.mount("--root", root, "place")["mountpoint"])
    mm = place / "kernel" / "mm" if root == "sys" else place.parent
    directory = mm / "dksm" if root == "sys" else place
    (directory / "run").write_text("1")
    image = dksmfs.directory / "image"
    image.write_bytes(random.Random(1).randbytes(4 << 20))
    done = dksmfs("advertise", "--json", image)
    result = json.loads(done.stdout)["totals"]
    assert result["failed"] == result["huge"] > 0
    assert done.stderr.startswith(f"dksmfs: {result['huge']:,} pages failed because they are part")
    assert "part of huge pages" in dksmfs("spawn", "vm", "--image", image, "--advertise").stderr
    dksmfs.succeed("kill", "vm")
    if root == "sys":
        assert f"echo never > {mm}/transparent_hugepage/enabled" in done.stderr
        (mm / "transparent_hugepage" / "enabled").write_text("never")
        assert totals(dksmfs, image) == count([image])
    else:
        assert f"dksmfs mount --thp never {place}" in done.stderr
    dksmfs.succeed("umount")


def test_what_is_no_file_is_refused_before_anything_is_loaded(
    dksmfs: CommandLine, directory: Path
) -> None:
    for wrong, reason in (
        ("absent", "there is no such file"),
        ("/dev/zero", "not a regular file"),
        (".", "not a regular file"),
        (os.fsdecode(b"absent-\xff"), "there is no such file"),
    ):
        assert reason in dksmfs.fail("advertise", "/bin/ls", wrong)
    assert (directory / "pages_scanned").read_text() == "0\n"


def test_without_an_instance_it_says_how_to_start_one(dksmfs: CommandLine) -> None:
    assert "dksmfs mount" in dksmfs.fail("advertise", "/bin/ls")


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5"])
def test_repeat_wants_a_number(dksmfs: CommandLine, number: str) -> None:
    done = dksmfs("advertise", f"--repeat={number}", "/bin/ls")
    assert done.returncode == 2
    assert "is not a number from 1 upwards" in done.stderr


def test_one_of_several_instances(dksmfs: CommandLine) -> None:
    started = [dksmfs.mount(name, "--thp", "never") for name in ("first", "second")]
    assert "name one" in dksmfs.fail("advertise", "/bin/ls")
    for which in (["--instance", "second"], ["--socket", started[1]["socket"]]):
        Path(started[1]["mountpoint"], "run").write_text("1")
        assert totals(dksmfs, *which, "/bin/ls") == count([Path("/bin/ls")])
        Path(started[1]["mountpoint"], "run").write_text("0")
    assert "no instance is mounted at" in dksmfs.fail("ps", "--instance", "third")
    dksmfs.succeed("umount", "--all")
