"""Kept replies, bounded in number, bytes and age; the least recently used go first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

from junctor.caching.contracts import Hit
from junctor.providers.base import Reply, Usage

OVERHEAD_BYTES = 420
"""What an entry takes beside its body: key, structs and places in tables, measured with 10,000 entries."""
LARGEST_SHARE = 0.25
ENDED_WELL = frozenset(("stop", "tool_calls"))


class Kept(Struct, frozen=True, gc=False):
    """One reply, until when it may be given (seconds of the store's clock), and its size in bytes.

    Its parts, not the reply itself: thousands of these must cost the garbage collector nothing.
    """

    body: bytes
    usage: Usage
    finish_reason: str
    target: str
    until: float
    size: int


def ended_well(reply: Reply) -> bool:
    """Whether a reply says all that it wanted to: not cut off, not filtered."""
    return reply.finish_reason in ENDED_WELL


class Store:
    """Replies by key: at most `entries`, at most `megabytes`, each for `ttl_s` seconds.

    `left(key)` hears of every key that is gone.
    """

    def __init__(
        self,
        entries: int,
        megabytes: float,
        ttl_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        left: Callable[[bytes], None] | None = None,
    ) -> None:
        self.entries = entries
        self.most_bytes = int(megabytes * 1e6)
        self.ttl_s = ttl_s
        self.bytes = 0
        self._clock = clock
        self.left = left
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, kind: str, similarity: float = 1.0) -> Hit | None:
        """The reply under a key, found in this way."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until <= self._clock():
            self.forget(key)
            return None
        self._kept.move_to_end(key)
        reply = Reply(body=kept.body, usage=kept.usage, finish_reason=kept.finish_reason)
        return Hit(reply, kind, kept.target, similarity)

    def put(self, key: bytes, reply: Reply, target: str, extra_bytes: int = 0) -> bool:
        """Keep a reply; False for one that is too large to be worth its place."""
        size = len(reply.body) + OVERHEAD_BYTES + extra_bytes
        if size > self.most_bytes * LARGEST_SHARE:
            return False
        if key in self._kept:
            self.forget(key)
        self._kept[key] = Kept(reply.body, reply.usage, reply.finish_reason, target, self._clock() + self.ttl_s, size)
        self.bytes += size
        while len(self._kept) > self.entries or self.bytes > self.most_bytes:
            self.forget(next(iter(self._kept)))
        return key in self._kept

    def forget(self, key: bytes) -> None:
        """Drop a key."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes -= kept.size
            if self.left is not None:
                self.left(key)
