"""The exact cache: who gets what again, for how long, and what is never kept."""

from __future__ import annotations

import json

import pytest

from junctor.caching.exact import ExactCache
from junctor.caching.headers import wants_fresh
from junctor.caching.keys import exact_key
from junctor.caching.store import Store
from junctor.errors import RequestError, UpstreamBroken
from junctor.providers.base import Reply
from junctor.tenancy.contracts import Principal
from junctor.types import Constraints

from .conftest import World, request_of

ANYONE = ("anyone", "", "")


async def test_the_same_question_is_answered_once(world: World) -> None:
    assert [await world.ask(), await world.ask()] == ["answer 1", "answer 1"]
    assert world.provider.calls == 1


async def test_a_hit_costs_nothing_is_journalled_and_says_what_it_is(world: World) -> None:
    await world.ask()
    answer = await world.answer()
    assert answer.run.context.notes == {"cache": "exact"}
    known = await world.engine.explain(answer.decision.id)
    assert (known.decision.policy, known.decision.target, known.outcome.target) == ("cache", "t0", "t0")
    assert known.outcome.outcome.cost_usd == 0.0
    assert known.outcome.attempts == ()


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0.0},
        {"max_tokens": 5},
        {"seed": 1},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"turns": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "ping"}]},
        {"constraints": Constraints(quality_floor=0.5)},
    ],
)
async def test_what_may_change_the_answer_makes_another_question(world: World, more: dict) -> None:
    await world.ask()
    assert await world.ask(**more) == "answer 2"


@pytest.mark.parametrize(
    "more",
    [{"user": "u-1"}, {"metadata": {"a": "b"}}, {"stream": False}, {"temperature": None}, {"n": 1}],
)
async def test_what_changes_no_word_makes_the_same_question(world: World, more: dict) -> None:
    await world.ask()
    assert await world.ask(**more) == "answer 1"


def test_the_order_of_fields_does_not_matter() -> None:
    one = request_of("ping", seed=1, tools=[{"type": "function", "function": {"name": "f"}}])
    two = request_of("ping", tools=[{"function": {"name": "f"}, "type": "function"}], seed=1)
    assert exact_key(one, "auto", ANYONE) == exact_key(two, "auto", ANYONE)


async def test_no_tenant_ever_sees_the_reply_of_another(world: World) -> None:
    callers = [
        (Principal(), {}),
        (Principal(), {"tenant": "acme"}),
        (Principal(key="k1", tenant="acme"), {}),
        (Principal(key="k2", tenant="bolt"), {}),
        (Principal(key="k3"), {}),
        (Principal(key="k4"), {"tenant": "acme"}),  # it says so, but its key does not
        (Principal(key="k5"), {"tenant": "k3"}),
    ]
    first = [await world.ask(who=who, **more) for who, more in callers]
    assert first == [f"answer {i}" for i in range(1, 8)]
    assert [await world.ask(who=who, **more) for who, more in callers] == first


async def test_two_keys_of_one_tenant_share(world: World) -> None:
    await world.ask(who=Principal(key="k1", tenant="acme"))
    assert await world.ask(who=Principal(key="k2", tenant="acme")) == "answer 1"


async def test_another_alias_is_another_question(world: World) -> None:
    await world.ask()
    assert await world.ask(model="other") == "answer 2"


async def test_a_caller_can_decline(world: World) -> None:
    await world.ask()
    assert await world.ask(fresh=True) == "answer 2"
    assert await world.ask() == "answer 1"


@pytest.mark.parametrize("more", [{"temperature": 0.7}, {"n": 2}, {"temperature": 1e-3}])
async def test_who_asks_for_variety_gets_it(world: World, more: dict) -> None:
    assert [await world.ask(**more), await world.ask(**more)] == ["answer 1", "answer 2"]
    assert len(world.cache.store) == 0


async def test_the_configuration_may_allow_more_warmth() -> None:
    world = World(ExactCache(Store(10, 1.0, 60.0), most_temperature=0.7))
    assert [await world.ask(temperature=0.7), await world.ask(temperature=0.7)] == ["answer 1", "answer 1"]
    assert await world.ask(temperature=0.8) == "answer 2"
    assert await world.ask(temperature=0.8) == "answer 3"


@pytest.mark.parametrize("finish", ["length", "content_filter", ""])
async def test_only_a_complete_reply_is_kept(world: World, finish: str) -> None:
    world.provider.finish = finish
    await world.ask()
    assert await world.ask() == "answer 2"


async def test_a_failure_is_not_kept(world: World) -> None:
    world.provider.fail = 1
    with pytest.raises(Exception, match="no luck"):
        await world.ask()
    assert await world.ask() == "answer 2"


async def test_a_stream_is_kept_for_whole_requests_and_for_streams(world: World) -> None:
    first = await world.stream(stream=True)
    assert await world.ask() == "answer 1"
    again = await world.stream(stream=True)
    assert world.provider.calls == 1
    assert again.endswith(b"data: [DONE]\n\n")
    assert _text(again) == _text(first) == "answer 1"
    assert b'"usage":null' not in again


async def test_a_whole_reply_is_kept_for_streams_with_its_usage(world: World) -> None:
    await world.ask()
    events = await world.stream(stream=True, stream_options={"include_usage": True})
    chunks = [json.loads(line[6:]) for line in events.split(b"\n\n") if line.startswith(b"data: {")]
    assert chunks[-1]["usage"]["total_tokens"] == 15
    assert chunks[-1]["choices"] == []
    assert world.provider.calls == 1


async def test_a_streamed_hit_is_in_the_books(world: World) -> None:
    await world.ask()
    answer = await world.service.stream(request_of("ping"), "auto")
    async with answer:
        assert [events async for events in answer]
    known = await world.engine.explain(answer.decision.id)
    assert known.decision.policy == "cache"
    assert known.outcome.outcome.cost_usd == 0.0
    assert not known.outcome.error


async def test_a_broken_stream_is_never_kept(world: World) -> None:
    world.provider.broken = True
    with pytest.raises(UpstreamBroken):
        await world.stream(stream=True)
    world.provider.broken = False
    assert await world.ask() == "answer 2"


async def test_a_stream_that_nobody_read_to_its_end_is_never_kept(world: World) -> None:
    async with await world.service.stream(request_of("ping"), "auto") as answer:
        async for _ in answer:
            break
    assert await world.ask() == "answer 2"


async def test_no_more_entries_than_allowed_the_least_used_goes_first() -> None:
    world = World(ExactCache(Store(2, 1.0, 60.0)))
    for text in ("a", "b", "a", "c"):
        await world.ask(text)
    assert [await world.ask(text) for text in ("a", "c")] == ["answer 1", "answer 3"]
    assert await world.ask("b") == "answer 4"


def put(store: Store, key: bytes, size: int) -> bool:
    return store.put(key, Reply(body=b"x" * size, finish_reason="stop"), "t0")


def test_no_more_bytes_than_allowed() -> None:
    store = Store(1000, 0.01, 60.0)
    for i in range(50):
        assert put(store, b"%d" % i, 1000)
        assert store.bytes <= 10_000
    assert 1 <= len(store) <= 10
    assert store.get(b"49", "exact") is not None
    assert not put(store, b"huge", 3000)


def test_no_older_than_allowed() -> None:
    now = [0.0]
    store = Store(10, 1.0, 60.0, clock=lambda: now[0])
    put(store, b"a", 10)
    now[0] = 59.9
    assert store.get(b"a", "exact") is not None
    now[0] = 60.0
    assert store.get(b"a", "exact") is None
    assert store.bytes == 0


def test_headers_that_decline() -> None:
    assert wants_fresh([(b"cache-control", b"max-age=0, No-Store")])
    assert wants_fresh([(b"host", b"x"), (b"x-junctor-cache", b"off")])
    assert not wants_fresh([(b"cache-control", b"no-cache"), (b"accept", b"*/*")])
    with pytest.raises(RequestError, match="x-junctor-cache"):
        wants_fresh([(b"x-junctor-cache", b"of")])


def _text(events: bytes) -> str:
    chunks = [json.loads(line[6:]) for line in events.split(b"\n\n") if line.startswith(b"data: {")]
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
