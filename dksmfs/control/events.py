"""Events: what a server says unasked, on connections that have subscribed.

Whoever changes something rings the bell, which costs nothing while nobody waits for it. What an
event says is looked up when it is sent: a slow subscriber gets fewer values, never old ones.
"""

import math
from collections.abc import Iterator
from typing import Final

import trio

from dksmfs.control import messages as m
from dksmfs.control.files import Files
from dksmfs.control.replies import Stats
from dksmfs.control.views import statistics
from dksmfs.injection import Access
from dksmfs.kernel.machine import Machine

SETTLING_S: Final = 0.05
"""A program that has looked at a file opens it within this time, or only wanted to look."""


_ACCESSES_AT_ONCE: Final = 100
"""Accesses that are told before everybody else has a turn."""


class Bell:
    """Wakes all who wait for a change."""

    def __init__(self) -> None:
        self._rung: trio.Event | None = None

    def ring(self) -> None:
        """Something has changed."""
        if self._rung is not None:
            self._rung.set()
            self._rung = None

    async def wait(self) -> None:
        """Return at the next ring."""
        if self._rung is None:
            self._rung = trio.Event()
        await self._rung.wait()


class Teller:
    """Finds out what has happened for one subscriber."""

    def __init__(
        self, request: m.Subscribe, machine: Machine, files: Files | None, bell: Bell
    ) -> None:
        self._topics = request.topics
        self._machine = machine
        self._files = files if "accesses" in request.topics else None
        self._bell = bell
        self._stats: Stats | None = None
        self._number = request.after

    async def wait(self) -> list[tuple[str, Stats | Access]]:
        """Return the next events, one at least: name and content of each."""
        while not (found := list(self._new_events())):
            unsettled = self._files is not None and self._files.unsettled
            with trio.move_on_after(SETTLING_S if unsettled else math.inf):
                await self._bell.wait()
        return found

    def _new_events(self) -> Iterator[tuple[str, Stats | Access]]:
        if "stats" in self._topics:
            now = statistics(self._machine)
            if now != self._stats:
                self._stats = now
                yield "stats", now
        if self._files is not None:
            for access in self._files.accesses(self._number, _ACCESSES_AT_ONCE, SETTLING_S)[0]:
                self._number = access.number
                yield "access", access
