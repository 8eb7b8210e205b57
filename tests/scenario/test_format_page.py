"""docs/scenarios.md leaves out no operation and no argument, and names the right limits."""

import re
from pathlib import Path

import msgspec

from dksmfs.scenario import record, recording, steps

PAGE = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text()
OF_A_STEP = {"result", "nondeterministic", "results"}
SHORT = {
    "range": {"region", "start", "count", "address", "length"},
    "bytes": {"region", "page", "offset", "address"},
}


def test_every_operation_and_argument_is_listed() -> None:
    table = PAGE.partition("| op | arguments |")[2].partition("\n\n")[0]
    listed = {}
    for names, arguments in re.findall(r"^\| (`[^|]*) \|([^|]*)\|", table, re.MULTILINE):
        words = set(re.findall(r"`(\w+)`", arguments))
        for word, meaning in SHORT.items():
            if re.search(rf"\b{word}\b", arguments):
                words |= meaning
        for name in re.findall(r"`(\w+)`", names):
            listed[name] = words
    known = {
        str(step.__struct_config__.tag): {member.name for member in msgspec.structs.fields(step)}
        - OF_A_STEP
        for step in recording.AnyStep.__args__
    }
    assert listed == known


def test_every_member_of_a_scenario_is_listed() -> None:
    table = PAGE.partition("| member |")[2].partition("\n\n")[0]
    listed = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)))
    assert set(listed) == {member.name for member in msgspec.structs.fields(recording.Scenario)}


def test_the_limits_are_those_of_the_code() -> None:
    assert "64 MiB of contents or 64 MiB of steps" in PAGE
    assert steps.MAX_DATA == record.MAX_STEPS_SIZE == 64 << 20
    assert "0x1000000000" in PAGE
    assert recording.BASE == 0x1000000000
