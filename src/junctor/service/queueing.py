"""How many calls run at the same time, and who waits: first the important, then the early; what is too much is shed.

A full queue refuses the newcomer, unless somebody less important waits: then the latest of the least important is shed in its
place. Within a priority it is first come, first served. Nobody waits past the deadline of the call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

from junctor.engine.context import CallContext
from junctor.errors import DeadlineExceeded, JunctorError, Overloaded

LEAST_DEAD = 64
SMOOTHING = 0.05
LONGEST_RETRY_S = 60.0


class Waiter:
    """One call in line. `waiting` is true until its turn comes or it leaves, and counts it exactly once."""

    __slots__ = ("context", "granted", "number", "priority", "timer", "turn", "waiting")

    def __init__(self, context: CallContext, priority: int, number: int, turn: asyncio.Future[None]) -> None:
        self.context = context
        self.priority = priority
        self.number = number
        self.turn = turn
        self.waiting = True
        self.granted = False
        self.timer: asyncio.TimerHandle | None = None


class Queue:
    """`most` calls run, `waiting` more wait. Priority 0 is the most important. Use it from one event loop.

    Entering, leaving and shedding take O(log n): two heaps hold the same waiters, the next in line first and the first to be
    shed first; who is gone stays in them until it comes up or half of a heap is dead.
    """

    def __init__(self, most: int, waiting: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self.waiting = waiting
        self._running: dict[CallContext, float] = {}
        self._next: list[tuple[int, int, Waiter]] = []
        self._last: list[tuple[int, int, Waiter]] = []
        self._numbers = count()
        self._live = 0
        self._usual_s = 0.0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock = clock

    def __len__(self) -> int:
        """How many wait."""
        return self._live

    @property
    def running(self) -> int:
        """How many run."""
        return len(self._running)

    def enter(self, context: CallContext, priority: int, deadline_s: float | None = None) -> Coroutine[Any, Any, None] | None:
        """Take a place, at once (None) or later: then await what comes back, at once and in the same task.

        Raises Overloaded; waiting raises it too, when the call is shed for a more important one, and DeadlineExceeded.
        """
        if self._closed:
            raise self._stopping()
        if len(self._running) < self.most and not self._live:
            self._running[context] = self._clock()
            return None
        if self._live >= self.waiting and not self._shed(priority):
            raise self._full()
        loop = self._loop = asyncio.get_running_loop()
        waiter = Waiter(context, priority, next(self._numbers), loop.create_future())
        if deadline_s is not None:
            waiter.timer = loop.call_later(max(0.0, deadline_s), self._expire, waiter, deadline_s)
        heappush(self._next, (priority, waiter.number, waiter))
        heappush(self._last, (-priority, -waiter.number, waiter))
        self._live += 1
        return self._turn_of(waiter)

    async def _turn_of(self, waiter: Waiter) -> None:
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.granted:
                self.leave(waiter.context)  # its turn had come already: the place goes on
            self._gone(waiter)
            raise

    def leave(self, context: CallContext) -> None:
        """Give the place to the next; of a call that has none, nothing happens."""
        since = self._running.pop(context, None)
        if since is None:
            return
        took = self._clock() - since
        self._usual_s += SMOOTHING * (took - self._usual_s) if self._usual_s else took
        self._fill()

    def _fill(self) -> None:
        """Give free places to those next in line."""
        while self._next and len(self._running) < self.most:
            waiter = heappop(self._next)[2]
            if not waiter.waiting:
                continue
            self._gone(waiter)
            if not waiter.turn.cancelled():
                waiter.granted = True
                self._running[waiter.context] = self._clock()
                waiter.turn.set_result(None)

    def _gone(self, waiter: Waiter) -> None:
        """It waits no longer; a second time, nothing happens."""
        if not waiter.waiting:
            return
        waiter.waiting = False
        self._live -= 1
        if waiter.timer is not None:
            waiter.timer.cancel()
        for heap in (self._next, self._last):
            if len(heap) > LEAST_DEAD + 2 * self._live:
                heap[:] = [entry for entry in heap if entry[2].waiting]
                heapify(heap)

    def _refuse(self, waiter: Waiter, error: JunctorError) -> None:
        self._gone(waiter)
        if not waiter.turn.done():
            waiter.turn.set_exception(error)

    def _expire(self, waiter: Waiter, deadline_s: float) -> None:
        if waiter.waiting:
            late = DeadlineExceeded(f"waited for its turn for {deadline_s:.3g} s", fix="allow more time, or come back later")
            self._refuse(waiter, late)

    def _shed(self, priority: int) -> bool:
        """Turn away the latest of the least important of those who wait, if it is less important than this."""
        while self._last:
            least, _, waiter = self._last[0]
            if waiter.waiting and not waiter.turn.cancelled():
                if -least <= priority:
                    return False
                heappop(self._last)
                self._refuse(waiter, self._full())
                return True
            heappop(self._last)
            if waiter.waiting:  # cancelled a moment ago: its place is free
                self._gone(waiter)
                return True
        return self._live < self.waiting

    def resize(self, most: int, waiting: int) -> None:
        """Other bounds from now on, from any thread. Who runs goes on, who waits keeps waiting; new places are filled soon."""
        self.most, self.waiting = most, waiting
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._fill)

    def close(self) -> None:
        """Refuse everybody who waits, and whoever comes later; who runs goes on."""
        self._closed = True
        for _, _, waiter in list(self._next):
            if waiter.waiting:
                self._refuse(waiter, self._stopping())

    def _full(self) -> Overloaded:
        guess = self._usual_s * (self._live + 1) / max(1, self.most)
        return Overloaded(
            f"{self.most} calls run and {self.waiting} wait already",
            retry_after_s=min(max(1.0, guess), LONGEST_RETRY_S),
            fix="come back later, or raise gateway.max_concurrent",
        )

    def _stopping(self) -> Overloaded:
        return Overloaded("the gateway is stopping", fix="try again: another one will answer")
