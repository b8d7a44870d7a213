"""One call for many: those who ask the same at the same time wait for the first of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from junctor.caching.collecting import Collector
from junctor.caching.contracts import Hit, Slot
from junctor.caching.store import Store, ended_well
from junctor.engine.run import EventFilter
from junctor.providers.base import Reply, StreamReply

COALESCED = "coalesced"


class KeptSlot(Slot):
    """A place in a store, and those who wait for what will be in it. `kept(key)` is called when a reply was kept."""

    extra_bytes = 0
    gone = False
    priority = 1
    kept: Callable[[bytes], None] | None = None
    _open = True
    _waiting: list[asyncio.Future[Hit | None]] | None = None

    def __init__(self, store: Store, key: bytes, flights: Flights | None = None) -> None:
        self.key = key
        self.flights = flights
        self._store = store

    def keep(self, reply: Reply, target: str) -> None:
        """Keep a reply that ended well, and hand it to those who wait, whatever its end."""
        if self._open:
            if ended_well(reply) and self._store.put(self.key, reply, target, self.extra_bytes) and self.kept is not None:
                self.kept(self.key)
            self._end(Hit(reply, COALESCED, target) if self._waiting else None)

    def collect(self, reply: StreamReply, target: str) -> EventFilter:
        """Collects the whole."""

        def done(whole: Reply | None) -> None:
            if whole is None:
                self.drop()
            else:
                self.keep(whole, target)

        return Collector(reply, self._store.most_bytes // 4, done)

    def drop(self, *, gone: bool = False) -> None:
        """Nothing is kept."""
        if self._open:
            self.gone = gone
            self._end(None)

    def _end(self, hit: Hit | None) -> None:
        self._open = False
        if self.flights is not None:
            self.flights.landed(self)
        for waiter in self._waiting or ():
            if not waiter.done():
                waiter.set_result(hit)
        self._waiting = None

    async def wait(self) -> Hit | None:
        """What became of it; None: nothing. May be cancelled without harm to anybody else."""
        if not self._open:
            return None
        waiter: asyncio.Future[Hit | None] = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(waiter)
        return await waiter


class Flights:
    """The calls that are under way, by key. Use it from one event loop."""

    def __init__(self) -> None:
        self._under_way: dict[bytes, KeptSlot] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def first(self, key: bytes) -> KeptSlot | None:
        """Who asks this already."""
        return self._under_way.get(key)

    def take_off(self, slot: KeptSlot) -> None:
        """Who asks from now on."""
        self._under_way[slot.key] = slot

    def landed(self, slot: KeptSlot) -> None:
        """It is over."""
        if self._under_way.get(slot.key) is slot:
            del self._under_way[slot.key]
