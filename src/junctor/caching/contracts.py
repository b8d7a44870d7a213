"""Replies that are given again: what the service asks of a cache.

Entries belong to one owner (a tenant, or a key) and one alias; nobody else ever sees them. A hit is journalled like any other
decision, with the policy "cache" and no cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable

from msgspec import Struct

from junctor.encoders.base import Encoder
from junctor.engine.run import EventFilter
from junctor.features import Features
from junctor.providers.base import Reply, StreamReply
from junctor.types import Request

Owner = tuple[str, ...]
"""Whose entries: what the caller's key says, never only what the caller says."""


class Hit(Struct, frozen=True):
    """A reply from the cache: whole, whatever it was when it was kept; how it was found, and from which target it came."""

    reply: Reply
    kind: str
    target: str
    similarity: float = 1.0


class Slot:
    """Where the reply to a request that was not found will be kept. `keep` or `drop` it, once.

    `features` is what the cache has read of the text with `encoder`, so that nobody reads it again; None: nothing.
    """

    features: Features | None = None
    encoder: Encoder | None = None

    def keep(self, reply: Reply, target: str) -> None:
        """Keep a whole reply."""

    def collect(self, reply: StreamReply, target: str) -> EventFilter | None:
        """What the events of a streamed reply go through so that it is kept when it was complete."""
        del reply, target
        return None

    def drop(self, *, gone: bool = False) -> None:
        """No reply comes. Those who wait for one ask for themselves; when only the caller is `gone`, one of them for all."""


class ReplyCache(ABC):
    """One cache of one alias."""

    @abstractmethod
    def find(
        self, request: Request, model: str, owner: Owner, *, stream: bool, priority: int = 1
    ) -> Hit | Slot | Awaitable[Hit | Slot] | None:
        """A reply, or the place to keep one; None when this request is not to be cached. `owner` isolates.

        An awaitable where another call for the same is under way, of the same priority or a more important one (0 is the most
        important); it may be cancelled at any time.
        """
