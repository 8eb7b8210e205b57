"""docs/protocol.md tells the truth: its transcript runs, and it leaves no method out."""

import re
from pathlib import Path

import msgspec

from dksmfs.control import limits
from dksmfs.control.messages import METHODS
from tests.control.serving import connection, serving

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


async def test_the_transcript_runs_as_it_stands() -> None:
    [transcript] = re.findall(r"```transcript\n(.*?)```", PAGE.read_text(), re.DOTALL)
    async with serving() as served, connection(served) as raw:
        for line in transcript.splitlines():
            direction, text = line[:3], line[3:]
            if direction == "-> ":
                await raw.send(text.encode() + b"\n")
            else:
                assert direction == "<- "
                assert (await raw.line()).decode() == text


def test_every_method_and_parameter_is_listed() -> None:
    text = PAGE.read_text().partition("## Methods")[2].partition("## Content")[0]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for method, request in METHODS.items():
        [row] = [row for row in rows if f"`{method}`" in row.split("|")[1]]
        parameters = row.split("|")[2]
        for field in msgspec.structs.fields(request):
            assert f"`{field.name}`" in parameters or f"`{field.name}=" in parameters, method


def test_the_limits_are_those_of_the_code() -> None:
    assert limits.PROTOCOL == 1
    sizes = (limits.MAX_LINE, limits.MAX_INLINE, limits.MAX_LENGTH, limits.MAX_POPULATED)
    assert sizes == (1 << 20, 512 << 10, 1 << 47, 16 << 30)
    assert (limits.MAX_VIEW, limits.MAX_SHARING) == (64 << 20, 262_144)
    assert limits.MAX_DESCRIPTORS == 16
