"""Hedged requests: when the first target has not begun to answer in time, a second is asked; the first answer wins.

As in Dean and Barroso, "The tail at scale" (2013). Both calls are recorded and both may cost money, so the share of requests
that are hedged is bounded: every request earns a credit of `most`, and a hedge costs one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from junctor.engine.deployments import Site
from junctor.engine.retrying import MOVES_ON, Turns
from junctor.errors import ConfigError, RequestError
from junctor.sections import HedgeSection

if TYPE_CHECKING:
    from junctor.engine.run import Ask, Run

T = TypeVar("T")
Won = tuple[T, Site, float, str]
"""An answer, where it came from, when it was asked for, and what the call was for."""
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
        if self.most < 1.0:
            if self._credit < 1.0 - 1e-9:
                return False
            self._credit -= 1.0
        self.hedged += 1
        return True


class Race(Generic[T]):
    """One request between two targets. The first call runs in the caller's own task: who needs no hedge pays a timer.

    `decided` is set once one of them has answered: whoever is cancelled after that has lost.
    """

    __slots__ = ("_ask", "_hedge", "_overtaken", "_run", "_task", "_turns", "decided", "second")

    def __init__(self, run: Run, ask: Ask[T], turns: Turns, hedge: Hedge) -> None:
        self.decided = False
        self.second: asyncio.Task[Won[T]] | None = None
        self._run = run
        self._ask = ask
        self._turns = turns
        self._hedge = hedge
        self._task: asyncio.Task[Any] | None = None
        self._overtaken = False

    async def run(self, site: Site) -> Won[T]:
        """The first answer. Raises the error of the last one that failed."""
        self._hedge.earn()
        self._task = task = asyncio.current_task()
        timer = asyncio.get_running_loop().call_later(self._hedge.after_s, self._start)
        won: Won[T] | None = None
        try:
            won = await self._first(site, task)
            return won
        finally:
            timer.cancel()
            self._task = None
            if self.second is not None:
                await self._settle(self.second, won)

    async def _first(self, site: Site, task: asyncio.Task[Any] | None) -> Won[T]:
        try:
            won = await self._run.call(self._ask, site, self._turns.last(), "", self)
        except asyncio.CancelledError:
            if task is None or self.second is None or not self._overtaken or task.uncancel() > 0:
                raise  # the caller goes away
            return self.second.result()
        except MOVES_ON as error:
            self._task = None  # there is nothing left to overtake
            if self._overtaken and task is not None:
                task.uncancel()
            if isinstance(error, RequestError):
                self._turns.cannot(site)
            elif not error.retryable:
                raise
            if self.second is None:
                raise
            return await self._other(error)
        if self._overtaken and task is not None:
            task.uncancel()
        self.decided = True
        return won

    async def _other(self, error: Exception) -> Won[T]:
        """The second's answer. When it cannot be told the request, it is the first's failure that counts."""
        assert self.second is not None
        try:
            return await self.second
        except RequestError:
            if self._turns.site is not None:
                self._turns.cannot(self._turns.site)
            raise error from None

    def _start(self) -> None:
        """The first has not answered in time."""
        if self._task is None or not (self._turns.harmless() and self._hedge.take()):
            return
        site = self._turns.next()
        if site is not None:
            call = self._run.call(self._ask, site, self._turns.last(), HEDGE, self)
            self.second = asyncio.get_running_loop().create_task(call)
            self.second.add_done_callback(self._ended)

    def _ended(self, second: asyncio.Task[Won[T]]) -> None:
        """If the second has answered, the first is called off."""
        if second.cancelled() or second.exception() is not None or self._task is None:
            return
        self.decided = self._overtaken = True
        self._task.cancel()

    async def _settle(self, second: asyncio.Task[Won[T]], won: Won[T] | None) -> None:
        """Call the second off if it still runs; if it has answered and is not the winner, its answer is recorded."""
        if not second.done():
            second.cancel()
            await asyncio.wait((second,), timeout=LOSER_S)
        if second.done() and not second.cancelled() and second.exception() is None and second.result() is not won:
            await self._run.unused(*second.result())
