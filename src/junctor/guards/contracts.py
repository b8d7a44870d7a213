"""What looks at a request before it is decided, and at its reply before it is given.

A guard is pure and quick: it sees a text, and passes it, changes it or refuses it with GuardRefused (the request) or
ReplyRefused (the reply). What it noticed goes into `Noticed`, in words that never hold the text itself.
"""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

import msgspec
from msgspec import Struct

from junctor.engine.run import EventFilter
from junctor.errors import ConfigError
from junctor.types import Request

S = TypeVar("S", bound=Struct)


class Noticed:
    """What the guards of a chain remember between a request and its reply: masks to undo, scores, a schema to hold."""

    __slots__ = ("findings", "state")

    def __init__(self) -> None:
        self.findings: list[str] = []
        self.state: dict[str, Any] = {}


class Guard(ABC):
    """One link of a chain. `needs_whole`: it can judge a reply only when all of it is there, so streams are held back.

    `label` is the name of the guard's table in the configuration: a chain may hold two guards of one kind.
    """

    name: ClassVar[str]
    needs_whole: bool = False
    label: str = ""
    paths: ClassVar[tuple[str, ...]] = ()
    """Settings that name a file or folder: in a configuration they are relative to it."""

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """From a `[guards.NAME]` table; raises ConfigError for a wrong or unknown key."""
        return cls(**settings)

    def before(self, request: Request, noticed: Noticed) -> Request:
        """The request, unchanged or changed. Raises GuardRefused."""
        del noticed
        return request

    def after(self, request: Request, body: bytes, noticed: Noticed) -> bytes:
        """The reply (a chat.completion body), unchanged or changed. Raises ReplyRefused."""
        del request, noticed
        return body

    def stream(self, request: Request, noticed: Noticed) -> EventFilter | None:
        """What the events of a streamed reply go through; None: nothing.

        By default a guard that needs the whole reply gets it (`HeldBack`), and others leave streams alone.
        """
        if not self.needs_whole:
            return None
        from junctor.guards.holding import HeldBack

        return HeldBack(self, request, noticed)


class Chain:
    """The guards of an alias: requests pass them in order, replies in reverse."""

    def __init__(self, guards: Sequence[Guard]) -> None:
        self.guards = tuple(guards)
        self.needs_whole = any(guard.needs_whole for guard in self.guards)

    def before(self, request: Request) -> tuple[Request, Noticed]:
        """Raises GuardRefused."""
        noticed = Noticed()
        for guard in self.guards:
            request = guard.before(request, noticed)
        return request, noticed

    def after(self, request: Request, body: bytes, noticed: Noticed) -> bytes:
        """Raises ReplyRefused."""
        for guard in reversed(self.guards):
            body = guard.after(request, body, noticed)
        return body

    def filters(self, request: Request, noticed: Noticed) -> list[EventFilter]:
        """What a streamed reply goes through, in this order."""
        made = (guard.stream(request, noticed) for guard in reversed(self.guards))
        return [filter_ for filter_ in made if filter_ is not None]


def settings_of(type_: type[S], settings: Mapping[str, Any]) -> S:
    """A guard's settings, checked; raises ConfigError that names the key."""
    try:
        return msgspec.convert(settings, type_)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$.")
        known = ", ".join(type_.__struct_fields__)
        unknown = re.match(r"Object contains unknown field `(.*)`", message)
        if unknown is not None:
            inside = where.rstrip("`")
            raise ConfigError(
                "is not a known key", field=f"{inside}.{unknown[1]}" if inside else unknown[1], fix=f"known here: {known}"
            ) from None
        raise ConfigError(message[0].lower() + message[1:], field=where.rstrip("`"), fix=f"known here: {known}") from None
