"""Random worlds: deployments, retries, hedges, streams, failures, callers who leave. The books are in order all the same."""

import asyncio
import random
from collections import Counter

import msgspec
import pytest
from tests.engine.virtual_world import ASK, DONE, Place, all_of, deployed, now, virtually, world

from junctor.engine import Health
from junctor.engine.balancing import RULES
from junctor.engine.retrying import Retries
from junctor.errors import (
    DeadlineExceeded,
    UpstreamBroken,
    UpstreamError,
    UpstreamGarbage,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)
from junctor.sections import HedgeSection
from junctor.types import Constraints, Limits, Target

EVENT = b"data: {}\n\n"
FAILURES = (
    lambda: UpstreamRefused("no"),
    lambda: UpstreamBroken("cut"),
    lambda: UpstreamTimeout("silent"),
    lambda: UpstreamGarbage("what"),
    lambda: UpstreamStatus("slow", upstream_status=429, retry_after_s=2.0),
    lambda: UpstreamStatus("oops", upstream_status=500),
    lambda: UpstreamStatus("bad", upstream_status=400),
    lambda: KeyError("a plug-in's own bug"),
)


def random_place(chance):
    """An upstream with habits of its own."""
    share = chance.choice([0.0, 0.0, 0.2, 1.0])
    latency = chance.choice([0.0, 0.1, 1.0, 20.0])
    ends = chance.choice([(DONE,), (DONE,), (UpstreamBroken("cut"),), (1e5,), (KeyError("bug"),)])
    return Place(
        lambda running: latency * chance.random() * 2,
        error=lambda: chance.choice(FAILURES)() if chance.random() < share else None,
        events=(EVENT, 0.5, EVENT, *ends),
    )


async def one_call(engine, chance):
    """One request: whole or streamed, read to the end or left, or its caller goes away in the middle."""
    deadline = chance.choice([0.5, 5.0, 60.0])
    request = msgspec.structs.replace(ASK, constraints=Constraints(deadline_s=deadline))
    streamed, leaves = chance.random() < 0.5, chance.random() < 0.2

    async def run():
        model = chance.choice(["auto", "auto", "m"])
        if not streamed:
            return await engine.complete(request, model)
        async with await engine.stream(request, model) as answer:
            async for _ in answer:
                if chance.random() < 0.1:
                    break
        return answer

    began, ended = now(), []
    task = asyncio.create_task(run())
    task.add_done_callback(lambda _: ended.append(now()))
    if leaves:
        await asyncio.sleep(chance.random() * 3)
        task.cancel()
    [result] = await all_of(task)
    assert ended[0] - began <= deadline + 0.01, "nobody waits past the deadline"
    if isinstance(result, BaseException):
        assert isinstance(result, (UpstreamError, DeadlineExceeded, asyncio.CancelledError)), repr(result)
    return result


@pytest.mark.parametrize("seed", range(24))
def test_the_books_are_in_order_whatever_happens(seed):
    """Every call of every provider is one attempt in one record; every run ends once; nothing stays outstanding."""

    async def main():
        chance = random.Random(seed)
        places = [random_place(chance) for _ in range(5)]
        pool = deployed(1, 2, 1, balance=chance.choice(list(RULES)), limits=Limits(silence_s=chance.choice([None, 3.0])))
        targets = [pool, Target(id="t3", provider="p3"), Target(id="t4", provider="p4")]
        hedge = chance.choice([None, HedgeSection(after_s=0.3, most=1.0), HedgeSection(after_s=0.3, most=0.1)])
        retries = Retries(most=chance.choice([0, 1, 3]), base_s=0.1)
        health = Health(clock=now, outlier_calls=5)
        engine = world(*places, targets=targets, hedge=hedge, retries=retries, health=health, seed=seed)
        records = []
        engine.listen(lambda run, record: records.append(record))

        async def client():
            for _ in range(10):
                await one_call(engine, chance)
                await asyncio.sleep(chance.random())

        await asyncio.gather(*(client() for _ in range(6)))
        await asyncio.sleep(100)
        assert len(asyncio.all_tasks()) == 1, "nothing runs on"
        assert len(records) == 60
        assert len({record.id for record in records}) == 60
        assert {row.outstanding for row in health.snapshot()} == {0}
        assert sum(place.running for place in places) == 0
        recorded = Counter(a.deployment or a.target for record in records for a in record.attempts)
        made = {"d0": 0, "d1": 1, "d2": 2, "t3": 3, "t4": 4}
        assert recorded == Counter({name: len(places[i].calls) for name, i in made.items() if places[i].calls})
        for record in records:
            answered = [a for a in record.attempts if not a.error]
            assert record.error or answered
            assert all(a.ended_s >= a.started_s for a in record.attempts)
        assert all(stream.closed or stream.ended for place in places for stream in place.streams)

    virtually(main)
