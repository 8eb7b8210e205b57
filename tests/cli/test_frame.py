"""The command line as such: help, version, usage, and how errors look."""

import shlex
import subprocess

from tests.cli.command_line import CommandLine


def test_help_names_every_command_with_examples(dksmfs: CommandLine) -> None:
    text = dksmfs.succeed("--help")
    for command in ("mount", "umount", "status"):
        assert f"\n    {command} " in text
        assert "examples:" in dksmfs.succeed(command, "--help")


def test_version(dksmfs: CommandLine) -> None:
    assert dksmfs.succeed("--version").startswith("dksmfs 0.")


def test_wrong_usage_exits_2(dksmfs: CommandLine) -> None:
    for arguments in ([], ["nonsense"], ["mount", "--thp", "sometimes"], ["umount", "--all", "x"]):
        done = dksmfs(*arguments)
        assert done.returncode == 2
        assert "usage: dksmfs" in done.stderr


def test_light_commands_load_no_heavy_module(dksmfs: CommandLine) -> None:
    for arguments in (["--help"], ["status"]):
        _, *command = dksmfs.command(*arguments)
        done = subprocess.run(
            [dksmfs.command()[0], "-X", "importtime", *command],
            env=dksmfs.environment,
            capture_output=True,
            text=True,
        )
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "dksmfs.cli" in loaded
        assert not loaded & {"numpy", "trio", "pyfuse3", "rich", "msgspec"}


def test_closed_output_is_no_error(dksmfs: CommandLine) -> None:
    command = shlex.join(dksmfs.command("status", "--json"))
    done = subprocess.run(
        ["sh", "-c", f"{command} | true"], env=dksmfs.environment, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_unusable_runtime_directory(dksmfs: CommandLine) -> None:
    (dksmfs.runtime / "dksmfs").mkdir(mode=0o755)
    (dksmfs.runtime / "dksmfs").chmod(0o755)
    line = dksmfs.fail("status")
    assert "mode 0700" in line
    assert "XDG_RUNTIME_DIR" in line
