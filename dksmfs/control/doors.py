"""The two ways to talk to a server: blocking, or with trio.

What a client can do is written once, as coroutines that `ask` a door. Over the trio door they are
awaited. The blocking door never suspends, so it runs a coroutine to its end in one step and
returns the result. `operation` and `attribute` make methods and properties that are typed either
way.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

if TYPE_CHECKING:
    from dksmfs.control.blocking import Blocking
    from dksmfs.control.with_trio import Trio

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V")
D = TypeVar("D", bound="Blocking | Trio", covariant=True)


class Behind(Generic[D]):
    """Something on the server that is reached through a door."""

    def __init__(self, door: D) -> None:
        self._door = door


class operation(Generic[P, R]):  # noqa: N801  # reads as the decorator that it is
    """A method written as a coroutine: it blocks, or is awaited, as the door of its object."""

    def __init__(self, work: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> None:
        self._work = work
        self.__doc__ = work.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> "operation[P, R]": ...
    @overload
    def __get__(self, instance: "Behind[Blocking]", owner: type) -> Callable[P, R]: ...
    @overload
    def __get__(self, instance: "Behind[Trio]", owner: type) -> Callable[P, Awaitable[R]]: ...

    def __get__(self, instance: Behind[Any] | None, owner: type) -> Any:
        if instance is None:
            return self
        return lambda *args, **named: instance._door.run(self._work(instance, *args, **named))


class attribute(Generic[V]):  # noqa: N801
    """A property that asks the server: a value, or to be awaited, as the door of its object."""

    def __init__(self, get: Callable[[Any], Coroutine[Any, Any, V]]) -> None:
        self._get = get
        self.__doc__ = get.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> "attribute[V]": ...
    @overload
    def __get__(self, instance: "Behind[Blocking]", owner: type) -> V: ...
    @overload
    def __get__(self, instance: "Behind[Trio]", owner: type) -> Awaitable[V]: ...

    def __get__(self, instance: Behind[Any] | None, owner: type) -> Any:
        return self if instance is None else instance._door.run(self._get(instance))


class settable(attribute[V]):  # noqa: N801
    """An attribute that can be assigned to, where assigning may block: not with trio."""

    def __init__(
        self,
        get: Callable[[Any], Coroutine[Any, Any, V]],
        put: operation[[V], None],
    ) -> None:
        super().__init__(get)
        self._put = put

    def __set__(self, instance: "Behind[Blocking]", value: V) -> None:
        if instance._door.suspends:
            raise AttributeError("with trio use the set_... method, and await it")
        self._put.__get__(instance, type(instance))(value)
