"""A world without waiting: an event loop whose clock jumps to the next timer, and upstreams of given latency and failures.

Whatever sleeps, sleeps at once; what takes a minute in this world takes a millisecond in ours. Times are exact.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from junctor.engine import Alias, Engine, Health
from junctor.journal import Journal
from junctor.policy import Policy, State
from junctor.providers.base import Provider, Reply, StreamReply, Usage
from junctor.types import Call, Catalogue, Decision, Deployment, Fallback, Message, Price, Ranked, Request, Target

DONE = b"data: [DONE]\n\n"
ASK = Request(text="hi", messages=(Message("user", "hi"),))
PRICE = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)


class _Jumping(selectors.DefaultSelector):
    """Never waits: the time that it was to wait is over."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None):
        found = super().select(0)
        if not found:
            if timeout is None:
                raise RuntimeError("everybody waits, and nothing will ever happen")
            self.loop.now += max(0.0, timeout)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `now` is its time."""

    def __init__(self) -> None:
        self.now = 1000.0
        selector = _Jumping()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now


def virtually(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run in a loop of this kind."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def now() -> float:
    """The time of the running loop."""
    return asyncio.get_running_loop().time()


class Slowly(StreamReply):
    """Events with pauses between them; a number is a pause, an exception is raised."""

    def __init__(self, *script: bytes | float | BaseException) -> None:
        self.script = script
        self.closed = self.ended = False
        self.usage = Usage(input_tokens=100, output_tokens=50)

    async def __aiter__(self):
        for step in self.script:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                self.ended = step == DONE
                yield step

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class Place(Provider):
    """An upstream. `latency_s` is a number or a function of how many calls it has at the moment; `error` is raised if there."""

    latency_s: float | Callable[[int], float] = 1.0
    error: Callable[[], BaseException | None] = lambda: None
    capabilities: frozenset[str] | None = None
    events: tuple[Any, ...] = (b"data: {}\n\n", DONE)
    calls: list[tuple[float, Target, Request]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    running: int = 0
    most: int = 0
    streams: list[Slowly] = field(default_factory=list)

    async def _work(self, request: Request, target: Target) -> None:
        self.calls.append((now(), target, request))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            wait = self.latency_s(self.running) if callable(self.latency_s) else self.latency_s
            await asyncio.sleep(wait)
            failure = self.error()
            if failure is not None:
                raise failure
            self.ended.append("answered")
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        except Exception:
            self.ended.append("failed")
            raise
        finally:
            self.running -= 1

    async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        await self._work(request, target)
        return Reply(body=target.upstream_model.encode(), usage=Usage(input_tokens=100, output_tokens=50))

    async def stream(self, request: Request, target: Target, timeout_s: float | None) -> StreamReply:
        await self._work(request, target)
        self.streams.append(Slowly(*self.events))
        return self.streams[-1]


def failing(make: Callable[[], BaseException], *, first: int | None = None) -> Callable[[], BaseException | None]:
    """Fails always, or only the first so many times."""
    seen = iter(range(10**9))
    return lambda: make() if first is None or next(seen) < first else None


class InOrder(Policy):
    """The targets in their own order."""

    name = "in-order"

    def decide(self, request, targets, rng):
        ranked = tuple(Ranked(target=id_, score=0.0) for id_ in targets.ids)
        plan = Fallback(tuple(Call(id_) for id_ in targets.ids))
        return Decision(id=request.id, plan=plan, target=targets.ids[0], ranked=ranked, policy=self.name)

    def decide_many(self, features, targets, rng):
        return np.zeros(len(features), dtype=np.intp), np.ones(len(features))

    def state(self):
        return State()

    @classmethod
    def from_state(cls, state):
        return cls()


def deployed(*weights: float, balance: str = "weighted", id_: str = "m", **more: Any) -> Target:
    """A target with deployments d0, d1, … on providers p0, p1, …"""
    places = tuple(Deployment(id=f"d{i}", provider=f"p{i}", model=f"m-{i}", weight=w) for i, w in enumerate(weights))
    return Target(id=id_, deployments=places, balance=balance, price=PRICE, **more)


def world(*places: Provider, targets: list[Target] | None = None, journal: Journal | None = None, hedge=None, **more: Any):
    """An engine in the running loop's time. Without `targets`, t0, t1, … on p0, p1, …; the alias `auto` is over all of them."""
    made = targets or [Target(id=f"t{i}", provider=f"p{i}", price=PRICE) for i in range(len(places))]
    catalogue = Catalogue(made)
    alias = Alias(name="auto", policy=InOrder(), targets=catalogue, hedge=hedge)
    more.setdefault("health", Health(clock=now))
    providers = {f"p{i}": place for i, place in enumerate(places)}
    return Engine(catalogue, providers, {"auto": alias}, journal, clock=now, **more)


async def all_of(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """All at once; errors are results."""
    return await asyncio.gather(*calls, return_exceptions=True)
