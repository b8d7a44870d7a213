"""The same question at the same time: one call for all of one owner's, and nobody suffers for another."""

from __future__ import annotations

import asyncio
import random

import pytest

from junctor.caching.exact import ExactCache
from junctor.caching.store import Store
from junctor.errors import DeadlineExceeded, UpstreamBroken, UpstreamStatus
from junctor.tenancy.contracts import Principal
from junctor.types import Constraints

from .conftest import World


async def started(*asks):
    """These as tasks, as far as they come by themselves."""
    tasks = [asyncio.ensure_future(ask) for ask in asks]
    for _ in range(20):
        await asyncio.sleep(0)
    return tasks


async def test_one_call_for_many(world: World) -> None:
    world.provider.gate.clear()
    tasks = await started(*(world.answer() for _ in range(50)))
    world.provider.gate.set()
    answers = await asyncio.gather(*tasks)
    assert world.provider.calls == 1
    assert len({answer.decision.id for answer in answers}) == 50
    notes = [answer.run.context.notes["cache"] for answer in answers]
    assert sorted(notes) == ["coalesced"] * 49 + ["miss"]
    assert sum(answer.outcome.cost_usd for answer in answers) == pytest.approx(2e-5)
    assert len(world.cache.flights) == 0


async def test_a_reply_that_is_not_kept_is_shared_all_the_same(world: World) -> None:
    world.provider.finish = "length"
    world.provider.gate.clear()
    tasks = await started(*(world.ask() for _ in range(3)))
    world.provider.gate.set()
    assert await asyncio.gather(*tasks) == ["answer 1"] * 3
    assert len(world.cache.store) == 0


async def test_never_across_owners_questions_or_aliases(world: World) -> None:
    world.provider.gate.clear()
    acme = Principal(key="k1", tenant="acme")
    tasks = await started(world.ask(), world.ask(who=acme), world.ask("pong"), world.ask(model="other"), world.ask(fresh=True))
    world.provider.gate.set()
    assert len(set(await asyncio.gather(*tasks))) == 5


async def test_when_the_first_fails_the_others_ask_for_themselves(world: World) -> None:
    world.provider.gate.clear()
    world.provider.fail = 1
    tasks = await started(*(world.ask() for _ in range(4)))
    world.provider.gate.set()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, UpstreamStatus)
    assert sorted(others) == ["answer 2", "answer 3", "answer 4"]
    assert len(world.cache.flights) == 0


async def test_when_the_first_goes_away_the_next_takes_its_place(world: World) -> None:
    world.provider.gate.clear()
    first, *others = await started(*(world.ask() for _ in range(4)))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    world.provider.gate.set()
    assert await asyncio.gather(*others) == ["answer 2"] * 3
    assert world.provider.calls == 2
    assert first.cancelled()


async def test_a_follower_that_goes_away_harms_nobody(world: World) -> None:
    world.provider.gate.clear()
    first, second, third = await started(*(world.ask() for _ in range(3)))
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    world.provider.gate.set()
    assert await asyncio.gather(first, third) == ["answer 1"] * 2


async def test_a_followers_own_deadline_holds(world: World) -> None:
    world.provider.gate.clear()
    tasks = await started(world.ask(), world.ask(constraints=Constraints(deadline_s=0.05)))
    with pytest.raises(DeadlineExceeded):
        await tasks[1]
    world.provider.gate.set()
    assert await tasks[0] == "answer 1"


async def test_waiting_counts_against_the_deadline_of_the_call_that_follows(world: World) -> None:
    world.provider.gate.clear()
    world.provider.fail = 1
    tasks = await started(world.ask(), world.answer(constraints=Constraints(deadline_s=5.0)))
    await asyncio.sleep(0.05)
    world.provider.gate.set()
    answer = (await asyncio.gather(*tasks, return_exceptions=True))[1]
    assert 4.0 < answer.run.deadline_s <= 4.96


async def test_the_important_do_not_wait_for_the_unimportant(world: World) -> None:
    world.provider.gate.clear()
    late, usual, first = (Principal(key=f"k{p}", tenant="acme", priority=p) for p in (5, 1, 0))
    tasks = await started(world.ask(who=usual), world.ask(who=first), world.ask(who=late), world.ask(who=usual))
    world.provider.gate.set()
    assert await asyncio.gather(*tasks) == ["answer 1", "answer 2", "answer 1", "answer 1"]


async def test_streams_ask_for_themselves(world: World) -> None:
    world.provider.gate.clear()
    tasks = await started(world.ask(), world.stream(), world.stream())
    world.provider.gate.set()
    await asyncio.gather(*tasks)
    assert world.provider.calls == 3


async def test_it_can_be_turned_off() -> None:
    world = World(ExactCache(Store(10, 1.0, 60.0), coalesce=False))
    world.provider.gate.clear()
    tasks = await started(world.ask(), world.ask())
    world.provider.gate.set()
    assert sorted(await asyncio.gather(*tasks)) == ["answer 1", "answer 2"]


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_nobody_waits_for_ever(seed: int) -> None:
    """Callers come, go away, fail and stream in a random order; every one of them ends, and nothing is left behind."""
    rng = random.Random(seed)
    world = World(ExactCache(Store(4, 1.0, 60.0)))
    tasks: list[asyncio.Task] = []
    for _ in range(120):
        world.provider.fail = max(world.provider.fail, rng.choice((0, 0, 0, 1)))
        world.provider.broken = rng.random() < 0.2
        ask = world.stream if rng.random() < 0.3 else world.ask
        owner = Principal(key=f"k{rng.randrange(2)}")
        tasks.append(asyncio.ensure_future(ask(f"text {rng.randrange(3)}", who=owner)))
        if rng.random() < 0.3:
            rng.choice(tasks).cancel()
        if rng.random() < 0.5:
            world.provider.gate.clear() if rng.random() < 0.5 else world.provider.gate.set()
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
    world.provider.gate.set()
    done, waiting = await asyncio.wait(tasks, timeout=20)
    assert not waiting
    failures = [task.exception() for task in done if not task.cancelled() and task.exception() is not None]
    assert all(isinstance(error, UpstreamStatus | UpstreamBroken) for error in failures)
    assert len(world.cache.flights) == 0
    assert len(world.cache.store) <= 4
    assert world.provider.calls < 120
    await world.service.aclose()
