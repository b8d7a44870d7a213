"""How many calls run at the same time, and who waits: first the important, then the early; what is too much is shed.

A full queue refuses the newcomer, unless somebody less important waits: then that one is shed in its place.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable
from itertools import count

from junctor.engine.context import CallContext
from junctor.errors import Overloaded


class Queue:
    """`most` calls run, `waiting` more wait. Priority 0 is the most important. Use it from one event loop."""

    def __init__(self, most: int, waiting: int) -> None:
        self.most = most
        self.waiting = waiting
        self._running: set[CallContext] = set()
        self._heap: list[tuple[int, int, CallContext, asyncio.Future[None]]] = []
        self._numbers = count()
        self._live = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._live

    @property
    def running(self) -> int:
        """How many run."""
        return len(self._running)

    def enter(self, context: CallContext, priority: int) -> Awaitable[None] | None:
        """Take a place, at once or later. Raises Overloaded."""
        if len(self._running) < self.most:
            self._running.add(context)
            return None
        if self._live >= self.waiting and not self._shed(priority):
            raise self._full()
        return self._wait(context, priority)

    async def _wait(self, context: CallContext, priority: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._heap, (priority, next(self._numbers), context, turn))
        self._live += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave(context)  # its turn had come already: the place goes on
            elif not turn.done() or turn.cancelled():
                self._live -= 1
            raise

    def leave(self, context: CallContext) -> None:
        """Give the place to the next; of a call that has none, nothing happens."""
        if context not in self._running:
            return
        self._running.discard(context)
        while self._heap:
            _, _, following, turn = heapq.heappop(self._heap)
            if not turn.done():
                self._live -= 1
                self._running.add(following)
                turn.set_result(None)
                return

    def _shed(self, priority: int) -> bool:
        """Turn away the least important and latest of those who wait, if it is less important than this."""
        live = [entry for entry in self._heap if not entry[3].done()]
        last = max(live, key=lambda entry: entry[:2], default=None)
        if last is None or last[0] <= priority:
            return False
        self._live -= 1
        last[3].set_exception(self._full())
        return True

    def _full(self) -> Overloaded:
        return Overloaded(
            f"{self.most} calls run and {self.waiting} wait already", fix="come back later, or raise gateway.max_concurrent"
        )
