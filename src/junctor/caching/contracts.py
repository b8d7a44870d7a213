"""Replies that are given again: what the service asks of a cache.

Entries belong to one tenant and one alias; nobody else ever sees them. A hit is journalled like any other decision, with the
policy "cache" and no cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable

from msgspec import Struct

from junctor.engine.run import EventFilter
from junctor.providers.base import Reply
from junctor.types import Request


class Hit(Struct, frozen=True):
    """A reply from the cache: whole, whatever it was when it was kept; how it was found, and from which target it came."""

    reply: Reply
    kind: str
    target: str
    similarity: float = 1.0


class Slot:
    """Where the reply to a request that was not found will be kept. `keep` or `drop` it, once."""

    def keep(self, reply: Reply, target: str) -> None:
        """Keep a whole reply."""

    def collect(self, target: str) -> EventFilter | None:
        """What a streamed reply goes through so that it is kept when it was complete."""
        del target
        return None

    def drop(self) -> None:
        """There will be none; those who wait for it ask for themselves."""


class ReplyCache(ABC):
    """One cache of one alias."""

    @abstractmethod
    def find(self, request: Request, model: str) -> Hit | Slot | Awaitable[Hit | Slot | None] | None:
        """A reply, or the place to keep one; None when this request is not to be cached. `request.tenant` isolates."""
