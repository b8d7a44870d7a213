"""Run a coroutine until it first waits: an answer that is ready without waiting needs no timer and no trip through the loop."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ready(Generic[T]):
    """It returned without waiting once."""

    value: T


class Waiting(Awaitable[T]):
    """It waits for `first`; awaiting this goes on from there, in the same task."""

    __slots__ = ("_coroutine", "_first")

    def __init__(self, coroutine: Coroutine[Any, Any, T], first: Any) -> None:
        self._coroutine, self._first = coroutine, first

    def __await__(self) -> Generator[Any, Any, T]:
        """What `await coroutine` would have done from here on."""
        waited_for = self._first
        while True:
            try:
                got = yield waited_for
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001 - a cancellation or what the future raised: the coroutine's to handle
                advance = partial(self._coroutine.throw, error)
            else:
                advance = partial(self._coroutine.send, got)
            try:
                waited_for = advance()
            except StopIteration as done:
                value: T = done.value
                return value


def start(coroutine: Coroutine[Any, Any, T]) -> Ready[T] | Waiting[T]:
    """Run to the first wait; what the coroutine raises before it comes out here."""
    try:
        return Waiting(coroutine, coroutine.send(None))
    except StopIteration as done:
        return Ready(done.value)
