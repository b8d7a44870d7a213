"""Hedged requests: when the first target has not begun to answer in time, a second is asked; the first answer wins.

As in Dean and Barroso, "The tail at scale" (2013). Both calls are recorded and both may cost money, so the share of requests
that are hedged is bounded: every request earns a credit of `most`, and a hedge costs one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Self, TypeVar

from junctor.engine.deployments import Site
from junctor.engine.retrying import Turns
from junctor.errors import ConfigError, UpstreamError
from junctor.sections import HedgeSection

T = TypeVar("T")
Won = tuple[T, Site, float, str]
"""An answer, where it came from, when it was asked for, and what the call was for."""
Try = Callable[[Site, bool, str], Coroutine[Any, Any, Won[T]]]
HEDGE = "hedge"
LOST = "another answered first"
CREDIT_MOST = 10.0
LOSER_S = 0.25


class Hedge:
    """What one alias may hedge, and what it has hedged so far."""

    __slots__ = ("_credit", "after_s", "hedged", "most", "requests")

    def __init__(self, after_s: float, most: float = 0.05) -> None:
        self.after_s = after_s
        self.most = most
        self.requests = 0
        self.hedged = 0
        self._credit = 0.0

    @classmethod
    def of(cls, section: HedgeSection, path: str) -> Self:
        """As `[aliases.NAME.hedge]` says; raises ConfigError."""
        if not 0 < section.after_s < float("inf"):
            raise ConfigError("is not a number of seconds above 0", field=f"{path}.after_s", fix="about its 95th percentile")
        if not 0 <= section.most <= 1:
            raise ConfigError("is not a share", field=f"{path}.most", fix="use 0 to 1, for example 0.05")
        return cls(section.after_s, section.most)

    def earn(self) -> None:
        """One more request."""
        self.requests += 1
        self._credit = min(self._credit + self.most, CREDIT_MOST)

    def take(self) -> bool:
        """Whether one more may be hedged; if so, it is counted."""
        if self._credit < 1.0 - 1e-9:
            return False
        self._credit -= 1.0
        self.hedged += 1
        return True


class Race(Generic[T]):
    """One request between two targets. The first call runs in the caller's own task: who needs no hedge pays a timer.

    `decided` is set once one of them has answered: whoever is cancelled after that has lost.
    """

    def __init__(self, hedge: Hedge, turns: Turns, call: Try[T]) -> None:
        self.decided = False
        self.second: asyncio.Task[Won[T]] | None = None
        self._hedge = hedge
        self._turns = turns
        self._call = call
        self._interrupt = asyncio.timeout(None)
        self._running = False

    async def run(self, site: Site, last: bool) -> Won[T]:
        """The first answer. Raises the error of the last one that failed."""
        self._hedge.earn()
        timer = asyncio.get_running_loop().call_later(self._hedge.after_s, self._start)
        try:
            async with self._interrupt:
                self._running = True
                try:
                    won = await self._call(site, last, "")
                finally:
                    self._running = False
            self.decided = True
            return won
        except TimeoutError:
            if self.second is None:
                raise
            return self.second.result()
        except UpstreamError as error:
            if self.second is None or not error.retryable:
                raise
            return await self.second
        finally:
            timer.cancel()

    def _start(self) -> None:
        if not (self._running and self._turns.harmless() and self._hedge.take()):
            return
        site = self._turns.next()
        if site is not None:
            self.second = asyncio.get_running_loop().create_task(self._call(site, self._turns.last(), HEDGE))
            self.second.add_done_callback(self._ended)

    def _ended(self, second: asyncio.Task[Won[T]]) -> None:
        if second.cancelled() or second.exception() is not None or not self._running:
            return
        self.decided = True
        self._interrupt.reschedule(asyncio.get_running_loop().time())

    async def settle(self, won: Won[T] | None) -> Won[T] | None:
        """Call off what still runs; what came too late to be used, if something did."""
        second = self.second
        if second is None:
            return None
        if not second.done():
            second.cancel()
            await asyncio.wait((second,), timeout=LOSER_S)
        if not second.done() or second.cancelled() or second.exception() is not None:
            return None
        late = second.result()
        return None if late is won else late
