"""The exact cache: the same question of the same caller's gets the same answer."""

from __future__ import annotations

from collections.abc import Awaitable

from junctor.caching.contracts import Hit, Owner, ReplyCache, Slot
from junctor.caching.flights import Flights, KeptSlot
from junctor.caching.keys import cacheable, exact_key
from junctor.caching.store import Store
from junctor.types import Request

EXACT = "exact"


class ExactCache(ReplyCache):
    """Replies by the digest of what determines them.

    most_temperature   requests that name a higher temperature ask for variety and are left alone
    coalesce           whole requests that ask the same at the same time share one call; streams ask for themselves, because
                       their first word would wait for the last of another's
    """

    def __init__(self, store: Store, *, most_temperature: float = 0.0, coalesce: bool = True) -> None:
        self.store = store
        self.most_temperature = most_temperature
        self.flights = Flights() if coalesce else None

    def find(
        self, request: Request, model: str, owner: Owner, *, stream: bool, priority: int = 1
    ) -> Hit | Slot | Awaitable[Hit | Slot] | None:
        """A hit, the wait for the call that will be one, or a place."""
        if not cacheable(request, self.most_temperature):
            return None
        key = exact_key(request, model, owner)
        if key is None:
            return None
        return self.store.get(key, EXACT) or self.place(key, stream, priority)

    def place(self, key: bytes, stream: bool, priority: int) -> Slot | Awaitable[Hit | Slot]:
        """Where the reply will be kept, or the wait for the call that will have it."""
        flights = self.flights
        if flights is None or stream:
            return KeptSlot(self.store, key)
        first = flights.first(key)
        if first is None:
            return self._lead(key, flights, priority)
        if first.priority > priority:
            return KeptSlot(self.store, key)  # the important do not wait in the queue of the unimportant
        return self._follow(first, key, priority)

    def _lead(self, key: bytes, flights: Flights, priority: int) -> KeptSlot:
        slot = KeptSlot(self.store, key, flights)
        slot.priority = priority
        flights.take_off(slot)
        return slot

    async def _follow(self, first: KeptSlot, key: bytes, priority: int) -> Hit | Slot:
        """What the first gets. When its caller went away, the next takes its place; when it failed, each asks for itself."""
        flights = self.flights
        assert flights is not None
        following: KeptSlot | None = first
        while following is not None:
            hit = await following.wait()
            if hit is not None:
                return hit
            if not following.gone:
                return KeptSlot(self.store, key)
            following = flights.first(key)
        return self.store.get(key, EXACT) or self._lead(key, flights, priority)
