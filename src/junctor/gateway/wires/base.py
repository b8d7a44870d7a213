"""An API that callers speak: how its calls are read into our own form, and how our answers are written in it.

Our own form is the OpenAI chat completion: `Request.params` holds its fields, a whole answer is a chat.completion body, a
stream is chat.completion.chunk events. What another API says beyond it travels in extra fields, and comes out again on the
other side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from junctor.engine.run import Ask
from junctor.errors import JunctorError
from junctor.gateway.pages import Page
from junctor.providers.base import Reply
from junctor.service import Service
from junctor.tenancy.contracts import Principal
from junctor.types import Request

Headers = Sequence[tuple[bytes, bytes]]


class Asked(NamedTuple):
    """A checked call. `memo` is whatever the wire wants to find again when it writes the answer."""

    request: Request
    model: str
    stream: bool
    memo: Any = None


class EventWriter(ABC):
    """Writes one stream in another API's events."""

    @abstractmethod
    def push(self, events: bytes) -> bytes:
        """Whole chat.completion.chunk events in (the last is `data: [DONE]`), this API's events out; may be nothing yet."""

    @abstractmethod
    def broken(self, error: JunctorError) -> bytes:
        """The last event of a stream that broke off: never one that looks like a proper end."""


class Wire(ABC):
    """One API: its path, how a call is parsed, how an answer, a stream and an error are written.

    `ask` says what is asked of a provider; None: a chat completion.
    """

    path: ClassVar[str]
    ask: Ask[Reply] | None = None

    @abstractmethod
    def parse(self, body: bytes, id_: str, headers: Headers, principal: Principal) -> Asked:
        """Check a call; raises RequestError with the path of the field."""

    def whole(self, asked: Asked, body: bytes) -> bytes:
        """A chat.completion body, in this API's shape."""
        del asked
        return body

    def writer(self, asked: Asked) -> EventWriter | None:
        """How a stream is written; None: as it is."""
        del asked
        return None

    @abstractmethod
    def error(self, error: JunctorError) -> bytes:
        """An error body in this API's shape."""

    @abstractmethod
    def error_event(self, error: JunctorError) -> bytes:
        """An error in a stream that was passed on as it is."""

    def pages(self, serving: Callable[[], Service]) -> Mapping[tuple[str, str], Page]:
        """What else this API serves, by method and path; `serving` gives the service of the moment."""
        del serving
        return {}
