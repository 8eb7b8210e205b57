"""A random sequence of calls on one directory, the same for the same seed.

``python -m tests.mount.random_walk DIRECTORY SUBJECT SEED STEPS`` prints each step and what it
returned, as JSON. The steps do not depend on what was returned, so two trees get the same ones.
"""

# ruff: noqa: PTH116
# (the system calls themselves are what is tried here)

import json
import os
import random
import select
import stat
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.mount import calls
from tests.mount.calls import Outcome, call, libc, lstat, user
from tests.mount.probes.subject import Subject, content, written_forms

T = TypeVar("T")

SLOTS = 6
_FLAGS = (0, os.O_APPEND, os.O_TRUNC, os.O_CREAT, os.O_NONBLOCK, os.O_DIRECT, os.O_DIRECTORY)
_OFFSETS = (0, 0, 0, 1, 2, 3, 4, 100, 4095, 4096, 5000)
_SIZES = (0, 1, 1, 2, 3, 10, 4096)
_MODES = (0o644, 0o644, 0o644, 0o444, 0o666, 0o000, 0o600, 0o755, 0o4755)
_XATTRS = ("trusted.a", "trusted.b", "security.a", "user.a", "nonsense")


class Walk:
    """Some descriptors, a directory, and a source of decisions."""

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject = subject
        self.random = random.Random(seed)
        self.slots: list[int | None] = [None] * SLOTS
        self.forms = [form for form in written_forms(subject) if len(form) <= 4097]

    def pick(self, choices: Sequence[T]) -> T:
        return self.random.choice(choices)

    def a_slot(self) -> tuple[int, int]:
        """Return a slot and its descriptor, or -1 where it has none."""
        slot = self.random.randrange(SLOTS)
        held = self.slots[slot]
        return slot, -1 if held is None else held

    def a_name(self) -> str:
        return self.pick([*self.subject.files, ".", "missing"])

    def put(self, slot: int, descriptor: int | None) -> None:
        held = self.slots[slot]
        if held is not None:
            os.close(held)
        self.slots[slot] = descriptor

    # Each step returns its text and its outcome.

    def open(self) -> tuple[str, Outcome]:
        slot, name = self.random.randrange(SLOTS), self.a_name()
        flags = self.pick((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY, os.O_RDWR)) | self.pick(_FLAGS)
        uid = self.pick((0, 0, 0, 1000))
        with user(uid):
            outcome = call(os.open, name, flags)
        text = f"{slot} = open({name}, {flags:#o}) by {uid}"
        if outcome["errno"] is None:
            self.put(slot, outcome["ret"])
            outcome["ret"] = 0
        return text, outcome

    def close(self) -> tuple[str, Outcome]:
        slot, descriptor = self.a_slot()
        self.put(slot, None)
        return f"close({slot})", calls.succeeded(open=descriptor >= 0)

    def dup(self) -> tuple[str, Outcome]:
        slot, descriptor = self.a_slot()
        other = self.random.randrange(SLOTS)
        if descriptor >= 0 and slot != other:
            self.put(other, os.dup(descriptor))
        return f"{other} = dup({slot})", calls.succeeded()

    def read(self) -> tuple[str, Outcome]:
        (slot, descriptor), size = self.a_slot(), self.pick(_SIZES)
        return f"read({slot}, {size})", call(os.read, descriptor, size)

    def pread(self) -> tuple[str, Outcome]:
        (slot, descriptor), size, offset = self.a_slot(), self.pick(_SIZES), self.pick(_OFFSETS)
        return f"pread({slot}, {size}, {offset})", call(os.pread, descriptor, size, offset)

    def write(self) -> tuple[str, Outcome]:
        (slot, descriptor), form = self.a_slot(), self.pick(self.forms)
        outcome = call(os.write, descriptor, form)
        return f"write({slot}, {form[:20]!r} of {len(form)})", outcome

    def pwrite(self) -> tuple[str, Outcome]:
        (slot, descriptor), form, offset = self.a_slot(), self.pick(self.forms), self.pick(_OFFSETS)
        outcome = call(os.pwrite, descriptor, form, offset)
        return f"pwrite({slot}, {form[:20]!r} of {len(form)}, {offset})", outcome

    def lseek(self) -> tuple[str, Outcome]:
        (slot, descriptor), offset, whence = self.a_slot(), self.pick(_OFFSETS), self.a_whence()
        if descriptor >= 0 and stat.S_ISDIR(os.fstat(descriptor).st_mode):
            whence = os.SEEK_SET  # relative ones lead to offsets that no name has
        return f"lseek({slot}, {offset}, {whence})", call(os.lseek, descriptor, offset, whence)

    def a_whence(self) -> int:
        return self.pick((os.SEEK_SET, os.SEEK_SET, os.SEEK_CUR, os.SEEK_END))

    def poll(self) -> tuple[str, Outcome]:
        slot, descriptor = self.a_slot()
        mask = self.pick((select.POLLIN, select.POLLPRI, 0xF))
        return f"poll({slot}, {mask})", calls.poll(max(descriptor, 0), mask * (descriptor >= 0))

    def ftruncate(self) -> tuple[str, Outcome]:
        (slot, descriptor), size = self.a_slot(), self.pick(_OFFSETS)
        return f"ftruncate({slot}, {size})", call(os.ftruncate, descriptor, size)

    def fstat(self) -> tuple[str, Outcome]:
        slot, descriptor = self.a_slot()
        outcome = calls.fstat(descriptor) if descriptor >= 0 else calls.succeeded()
        outcome.pop("times_equal", None)
        return f"fstat({slot})", outcome

    def getdents(self) -> tuple[str, Outcome]:
        (slot, descriptor), size = self.a_slot(), self.pick((30, 64, 200, 65536))
        return f"getdents64({slot}, {size})", calls.getdents(descriptor, size)

    def lstat(self) -> tuple[str, Outcome]:
        name = self.a_name()
        outcome = lstat(name)
        outcome.pop("times_equal", None)
        return f"lstat({name})", outcome

    def chmod(self) -> tuple[str, Outcome]:
        name, mode = self.pick(self.subject.files), self.pick(_MODES)
        return f"chmod({name}, {mode:o})", call(os.chmod, name, mode)

    def chown(self) -> tuple[str, Outcome]:
        name, owner = self.pick(self.subject.files), self.pick((0, 0, 1000))
        return f"chown({name}, {owner})", call(os.chown, name, owner, owner)

    def truncate(self) -> tuple[str, Outcome]:
        name, size = self.a_name(), self.pick(_OFFSETS)
        return f"truncate({name}, {size})", call(os.truncate, name, size)

    def utime(self) -> tuple[str, Outcome]:
        name, when = self.a_name(), self.pick((1, 1000))
        outcome = call(os.utime, name, (when, when + 1))
        if outcome["errno"] is None:
            outcome["mtime"] = int(os.stat(name).st_mtime)
        return f"utime({name}, {when})", outcome

    def access(self) -> tuple[str, Outcome]:
        name, mode, uid = self.a_name(), self.pick((0, 1, 2, 4, 6, 7)), self.pick((0, 1000))
        with user(uid):
            return f"access({name}, {mode}) by {uid}", calls.access(name, mode)

    def setxattr(self) -> tuple[str, Outcome]:
        name, key = self.pick([*self.subject.files, "."]), self.pick(_XATTRS)
        value = self.pick((b"", b"1", b"value"))
        return f"setxattr({name}, {key}, {value!r})", call(os.setxattr, name, key, value)

    def xattrs(self) -> tuple[str, Outcome]:
        name, key = self.pick([*self.subject.files, "."]), self.pick(_XATTRS)
        outcome = call(os.getxattr, name, key)
        outcome["size of all"] = libc("listxattr", name.encode(), None, 0)["ret"]
        return f"xattrs({name}, {key})", outcome

    def removexattr(self) -> tuple[str, Outcome]:
        name, key = self.pick([*self.subject.files, "."]), self.pick(_XATTRS)
        return f"removexattr({name}, {key})", call(os.removexattr, name, key)

    def change(self) -> tuple[str, Outcome]:
        name = self.a_name()
        act: Callable[[str], object] = self.pick((os.mkdir, os.unlink, os.rmdir, os.mkfifo))
        return f"{act.__name__}({name})", call(act, name)

    def rename(self) -> tuple[str, Outcome]:
        one, other = self.a_name(), self.a_name()
        return f"rename({one}, {other})", call(os.rename, one, other)

    def step(self) -> tuple[str, Outcome]:
        """Make one call; calls that make states are more likely than those that only look."""
        likely = [self.open, self.read, self.read, self.pread, self.write, self.pwrite, self.lseek]
        others = [
            self.close, self.dup, self.poll, self.ftruncate, self.fstat, self.getdents,
            self.lstat, self.chmod, self.chown, self.truncate, self.utime, self.access,
            self.setxattr, self.xattrs, self.removexattr, self.change, self.rename,
        ]  # fmt: skip
        return self.pick([*likely, *likely, *others])()


def main() -> None:
    """Walk, and tell after each step also what the writable file holds."""
    os.chdir(sys.argv[1])
    subject = Subject(**json.loads(sys.argv[2]))
    walk = Walk(subject, int(sys.argv[3]))
    steps = []
    for _ in range(int(sys.argv[4])):
        text, outcome = walk.step()
        held = "" if os.lstat(subject.writable).st_mode & 0o444 == 0 else content(subject.writable)
        steps.append((text, {**outcome, "content": held}))
    json.dump(steps, sys.stdout)


if __name__ == "__main__":
    main()
