"""Work that takes long: it pauses where others may look at the machine.

Such work is a generator. It yields at its pauses, at most a millisecond of work apart, and returns
its result. In the pauses of a change others may look at the machine, but not change it; in those of
a look they may change it. So entries, counts and tables must agree in every pause.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

Result = TypeVar("Result")
Owner = TypeVar("Owner")
Arguments = ParamSpec("Arguments")
Work = Generator[None, None, Result]


def finished(work: Work[Result]) -> Result:
    """The result of the work, without pauses."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result


class BoundPausing(Generic[Arguments, Result]):
    """A method of one object: call it to run it to its end; `work` is the same with pauses."""

    __slots__ = ("work",)

    def __init__(self, work: Callable[Arguments, Work[Result]]) -> None:
        self.work = work

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return finished(self.work(*args, **kwargs))


class pausing(Generic[Owner, Arguments, Result]):  # noqa: N801 (a decorator)
    """Make a method of a generator: a call runs it to its end, `method.work(...)` has its pauses.

    So `machine.exit(pid)` ends a process in one go, and `yield from machine.exit.work(pid)` lets
    others look at the machine meanwhile.
    """

    def __init__(self, work: Callable[Concatenate[Owner, Arguments], Work[Result]]) -> None:
        self.work = work
        self.__doc__ = work.__doc__

    def __call__(self, owner: Owner, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return finished(self.work(owner, *args, **kwargs))

    @overload
    def __get__(self, owner: None, kind: type[Any]) -> "pausing[Owner, Arguments, Result]": ...
    @overload
    def __get__(self, owner: Owner, kind: type[Any]) -> BoundPausing[Arguments, Result]: ...
    def __get__(self, owner: Any, kind: type[Any]) -> Any:
        return self if owner is None else BoundPausing(partial(self.work, owner))
