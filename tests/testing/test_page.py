"""docs/testing.md: its examples are files of a test suite that passes, and what it lists exists."""

import inspect
import re
import subprocess
import sys
from dataclasses import fields

from dksmfs.testing import Access, Dksm, machine, workloads
from tests.testing.suite import REPOSITORY, Suite, suite

__all__ = ["suite"]

PAGE = (REPOSITORY / "docs" / "testing.md").read_text()
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```\n", PAGE, re.DOTALL))


def test_the_examples_pass_as_they_stand(suite: Suite) -> None:
    assert {"exporter.py", "enable-dksm.sh", "merged.c", "script.py"} < set(FILES)
    for name, text in FILES.items():
        suite.write(name, text)
    said = suite.passes("-n", "2", "--strict-markers", "-W", "error")
    assert said.count("PASSED") == sum(
        len(re.findall(r"^def test_", text, re.MULTILINE)) for text in FILES.values()
    )


def test_the_script_passes_as_it_stands(suite: Suite) -> None:
    suite.write("script.py", FILES["script.py"])
    done = subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        cwd=suite.directory,
        env=suite.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert suite.left() == []


def test_every_block_of_code_is_an_example() -> None:
    blocks = re.findall(r"^```(?:python|c|sh)$", PAGE, re.MULTILINE)
    assert len(blocks) == len(FILES) + 1  # pip install


def test_what_is_listed_exists() -> None:
    for name in re.findall(r"`dksm\.(\w+)", PAGE):
        assert hasattr(Dksm, name), name
    for call in re.findall(r"^\| `(\w+)\(dksm", PAGE, re.MULTILINE):
        assert hasattr(workloads, call), call
    options = re.findall(r"^\| `(\w+)=([^`]+)` \|", PAGE, re.MULTILINE)
    parameters = inspect.signature(machine).parameters
    assert [
        (name, repr(at.default).replace("'", '"')) for name, at in parameters.items()
    ] == options
    assert all(f"`{field.name}`" in PAGE for field in fields(Access))
