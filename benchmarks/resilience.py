"""What balancing, breakers, hedges and the queue cost per call: processor time of one core, in microseconds.

python benchmarks/resilience.py
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from junctor.engine import CallContext, Engine, Health
from junctor.engine.balancing import RULES
from junctor.engine.deployments import pools_of
from junctor.engine.hedging import Hedge, Race
from junctor.engine.retrying import Turns
from junctor.engine.run import Silence
from junctor.errors import UpstreamRefused
from junctor.providers.scripted import ScriptedProvider
from junctor.service.queueing import Queue
from junctor.types import Catalogue, Deployment, Message, Request, Target

CALLS = 20_000
ROUNDS = 9
ASK = Request(text="hi", messages=(Message("system", "You are kind."), Message("user", "hi")))


def microseconds(call: Callable[[], object]) -> float:
    """The best of some rounds."""

    def once() -> float:
        began = time.process_time()
        for _ in range(CALLS):
            call()
        return time.process_time() - began

    return min(once() for _ in range(ROUNDS)) / CALLS * 1e6


def turns(target: Target, *, ill: bool = False) -> Callable[[], None]:
    """One walk to the first site of a target and back, as a run does it when it has to choose."""
    health = Health()
    other = Target(id="other", provider="p")
    pools = pools_of(Catalogue([target, other]), {"p": ScriptedProvider()}, health)
    if ill:
        health.failed("other", UpstreamRefused("no"))

    def call() -> None:
        walk = Turns((target.id,), pools, ASK, health)
        site = walk.next()
        assert site is not None
        walk.last()
        health.enter(site.vital, 1.0)
        health.answered(site.vital, 0.5, 1000.0)

    return call


def straight() -> Callable[[], None]:
    """The usual case: one site, nobody ill."""
    health = Health()
    pools = pools_of(Catalogue([Target(id="m", provider="p")]), {"p": ScriptedProvider()}, health)

    def call() -> None:
        site = pools["m"].only
        if site is not None and not health:
            health.enter(site.vital, 1.0)
            health.answered(site.vital, 0.5, 1000.0)

    return call


def line() -> Callable[[], None]:
    """In and out of a queue that has room."""
    queue, context = Queue(10, 10), CallContext()

    def call() -> None:
        queue.enter(context, 1, 60.0)
        queue.leave(context)

    return call


async def hedged() -> float:
    """A race that needs no second, less the same call without a race."""
    catalogue = Catalogue([Target(id="m", provider="p")])
    engine = Engine(catalogue, {"p": ScriptedProvider()})

    async def seconds(hedge: Hedge | None) -> float:
        runs = [await engine.prepare(ASK, "m") for _ in range(2000)]
        began = time.process_time()
        for run in runs:
            walk = Turns(("m",), run.pools, ASK, run.health)
            site = walk.next()
            assert site is not None
            if hedge is None:
                await run.call(_ask, site, True)
            else:
                await Race(run, _ask, walk, hedge).run(site)
        return (time.process_time() - began) / len(runs) * 1e6

    hedge = Hedge(60.0)
    return min([await seconds(hedge) for _ in range(ROUNDS)]) - min([await seconds(None) for _ in range(ROUNDS)])


async def _ask(*_: object) -> bytes:
    await asyncio.sleep(0)
    return b""


async def watched() -> float:
    """An event of a stream that is watched for silence, less one that is not."""

    async def events() -> AsyncIterator[bytes]:
        for _ in range(CALLS):
            yield b"x"

    async def seconds(watch: bool) -> float:
        async with asyncio.timeout(600) as timeout:
            silence = Silence(timeout, 60.0)
            began = time.process_time()
            async for _ in silence.listen(events()) if watch else events():
                pass
            silence.stop()
            return (time.process_time() - began) / CALLS * 1e6

    return min([await seconds(True) for _ in range(ROUNDS)]) - min([await seconds(False) for _ in range(ROUNDS)])


def main() -> None:
    """Print a line for each."""
    lone = Target(id="m", provider="p")
    print(f"one place, nobody ill             {microseconds(straight()):6.2f}")
    print(f"one place, another target is ill  {microseconds(turns(lone, ill=True)):6.2f}")
    for rule in RULES:
        four = tuple(Deployment(id=f"d{i}", provider="p") for i in range(4))
        target = Target(id="m", deployments=four, balance=rule)
        print(f"four deployments, {rule:18} {microseconds(turns(target)):6.2f}")
    print(f"a hedge that is not needed        {asyncio.run(hedged()):6.2f}")
    print(f"the queue, with room              {microseconds(line()):6.2f}")
    print(f"silence_s, per event              {asyncio.run(watched()):6.2f}")


if __name__ == "__main__":
    main()
