"""A machine with a recorder, reached as the server reaches it, without a socket."""

import json
from typing import Any, TypeVar

from dksmfs.control import messages as m
from dksmfs.control.dispatch import Dispatcher
from dksmfs.control.job import Caller, Memory
from dksmfs.kernel.machine import Machine
from dksmfs.kernel.sysfs.attribute import Attribute, Directory
from dksmfs.kernel.sysfs.tables import sys_tree
from dksmfs.scenario import recording as r
from dksmfs.scenario.record import SessionRecorder
from dksmfs.scenario.recording import Scenario
from dksmfs.scenario.replay import Mismatch, replay
from dksmfs.scenario.targets import MemoryTarget

R = TypeVar("R")

PAGE = 4096
MM = "kernel/mm"


class Session:
    """What happens to one machine, by requests and by writes to the mounted files."""

    def __init__(self, thp: str = "never") -> None:
        self.machine = Machine(thp=thp)
        self.recorder = SessionRecorder(self.machine)
        self.tree = sys_tree(self.machine)
        attributes = self.tree.find(f"{MM}/dksm")
        assert isinstance(attributes, Directory)
        self.dispatcher = Dispatcher(self.machine, attributes, self.recorder)
        self.me = Caller()
        """The connection that records."""

    def ask(self, request: m.Request[R], *memory: Memory, caller: Caller | None = None) -> R:
        """Carry out a request."""
        return self.dispatcher.handle(request, caller, memory)

    def write(self, path: str, data: bytes) -> int:
        """Write to a mounted file, named from the directory mm."""
        attribute = self.tree.find(f"{MM}/{path}")
        assert isinstance(attribute, Attribute)
        return self.recorder.store(attribute, data)

    def start(self, name: str = "session") -> None:
        """Begin to record."""
        self.ask(m.StartRecording(name), caller=self.me)

    def stop(self) -> Scenario:
        """End, and return what was recorded."""
        stopped = self.ask(m.StopRecording(), caller=self.me)
        line, more = b"", True
        while more:
            part = self.ask(m.TakeRecording(), caller=self.me)
            line, more = line + part.data, part.more
        assert len(line) == stopped.size
        scenario = r.decode_scenario("session", 1, line)
        assert len(scenario.steps) == stopped.steps
        assert scenario.note == stopped.note
        return scenario


def mismatches(scenario: Scenario) -> list[Mismatch]:
    """What comes out differently on a fresh machine; everything recorded must be compared."""
    outcome = replay(scenario, MemoryTarget())
    assert outcome.unchecked == 0
    return outcome.mismatches


def steps(scenario: Scenario) -> list[dict[str, Any]]:
    """The steps, as JSON has them."""
    return [json.loads(bytes(step)) for step in scenario.steps]
