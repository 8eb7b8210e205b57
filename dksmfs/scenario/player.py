"""Carries out steps on a machine, and says their results as the recordings do."""

import base64
import errno
from collections.abc import Mapping
from typing import Any

from dksmfs.control import messages as m
from dksmfs.errors import DksmfsError
from dksmfs.scenario import recording as r
from dksmfs.scenario import views
from dksmfs.scenario.names import Names
from dksmfs.scenario.requests import Requests
from dksmfs.scenario.targets import OpenError, Target

Result = Any
"""What a step gives, as JSON has it."""


class SenselessStepError(DksmfsError):
    """The step names what is not there, or has a value that nothing can be done with."""


class Player:
    """Plays the steps of one scenario. `data` are the contents that its steps name; `names` has
    the processes that run."""

    def __init__(
        self, target: Target, data: Mapping[str, bytes], names: Names | None = None
    ) -> None:
        self._target = target
        self._names = names or Names()
        self._requests = Requests(self._names, data)

    def play(self, step: r.AnyStep) -> Result:
        """The result of the step."""
        try:
            return self._play(step)
        except OSError as error:
            return failed(error)
        except (LookupError, ValueError, DksmfsError) as error:
            raise SenselessStepError(f"{type(error).__name__}: {error}") from error

    def _play(self, step: r.AnyStep) -> Result:
        match step:
            case r.Write():
                return {"ret": self._target.write(step.file, step.data.encode("latin-1"))}
            case r.Read():
                return {"data": self._target.read(step.file)}
            case r.Stats():
                return views.stats(self._target)
            case r.Sharing():
                return views.sharing(self._target, self._names, step.limit)
            case r.Contents():
                return views.contents(self._target, self._names, step.limit)
            case _:
                reply = self._target.ask(self._requests.of(step))
                self._names.note(step, reply)
                return succeeded(step, reply)

    def end(self) -> None:
        """Let the processes that are left exit, so that the machine can serve again."""
        for _, proc in self._names:
            self._target.ask(m.Exit(proc.pid))


def succeeded(step: r.AnyStep, reply: object) -> Result:
    """The result of a step that was answered with `reply`."""
    match reply:
        case m.Bytes() if isinstance(step, r.Peek):
            return {"value": reply.data[0]}
        case m.Bytes():
            return {"data": base64.b64encode(reply.data).decode()}
        case m.Stored():
            return {"ret": reply.ret}
        case _:
            return {"ret": 0}


def failed(error: OSError) -> Result:
    """The result of a step that the machine refused."""
    name = errno.errorcode.get(error.errno or 0, str(error))
    if isinstance(error, OpenError):
        return {"open": -1, "errno": name}
    signal = getattr(error, "signal", None)
    return {"ret": -1, "errno": name} if signal is None else {"signal": signal}
