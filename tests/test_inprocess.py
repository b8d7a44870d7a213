"""The gateway without HTTP: sync, async, inside a running loop, with keys, caches and the journal."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from junctor import AsyncJunctor, Junctor
from junctor.config import load_config
from junctor.errors import ConfigError, JunctorError, RequestError, Unauthorised, UnknownDecision, UnknownModel
from junctor.journal import read
from junctor.tenancy.keeping import Keeper

CONFIG = """
[journal]
path = "j.journal"

[providers.pool]
kind = "scripted"
script = {"*" = {answer = "Rivers begin as springs and end as seas; between the two they carry what they find."}}

[targets.small]
provider = "pool"
price = {input_usd_per_mtok = 1.0, output_usd_per_mtok = 2.0}

[targets.large]
provider = "pool"

[policies.first]
use = "fixed"
settings = {target = "small", then = ["large"]}

[caches.replies]

[aliases.auto]
policy = "first"
cache = "replies"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "junctor.toml").write_text(CONFIG)
    return tmp_path / "junctor.toml"


def test_chat(config: Path) -> None:
    with Junctor.open(config) as junctor:
        first = junctor.chat("What is 12 % of 80?", max_tokens=50)
        assert first.text
        assert (first.target, first.policy, first.attempts, first.cache) == ("small", "fixed", 1, "")
        assert first.cost_usd > 0
        assert first.message["role"] == "assistant"
        assert first.tool_calls == []
        again = junctor.chat([{"role": "user", "content": "What is 12 % of 80?"}], max_tokens=50)
        assert (again.text, again.cost_usd, again.cache, again.policy) == (first.text, 0.0, "exact", "cache")
        assert junctor.chat("What is 12 % of 80?", max_tokens=50, cached=False).cache == ""
        assert junctor.chat("hi", model="large").target == "large"
        assert junctor.models() == ["auto", "small", "large"]


def test_route_calls_nobody(config: Path) -> None:
    with Junctor.open(config) as junctor:
        routed = junctor.route("hello", budget_usd=1.0)
        assert routed.decision.target == "small"
    assert list(read(config.parent / "j.journal")) == []


def test_feedback_and_explain(config: Path) -> None:
    with Junctor.open(config) as junctor:
        answer = junctor.chat("hello")
        junctor.feedback(answer.decision, 0.75, "good", latency_s=0.5)
        known = junctor.explain(answer.decision)
        assert (known.feedback[0].outcome.quality, known.feedback[0].comment) == (0.75, "good")
        with pytest.raises(UnknownDecision):
            junctor.feedback("dec-none", 1.0)
        with pytest.raises(RequestError, match="speed"):
            junctor.feedback(answer.decision, speed=1.0)


def test_stream(config: Path) -> None:
    with Junctor.open(config) as junctor:
        stream = junctor.stream("tell me more about rivers")
        pieces = list(stream)
        assert len(pieces) > 1
        assert stream.cost_usd > 0
        assert junctor.explain(stream.decision).outcome.target == stream.target == "small"
        assert junctor.chat("tell me more about rivers").text == "".join(pieces)
        chunks = list(junctor.stream("tell me more about rivers").chunks())
        assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)


def test_a_stream_left_early_is_given_up_and_recorded(config: Path) -> None:
    with Junctor.open(config) as junctor:
        stream = junctor.stream("tell me more about rivers")
        for _ in stream:
            break
        # The generator is closed when the loop above has dropped it.
        assert junctor.explain(stream.decision).outcome.error == "cancelled"
        assert junctor.chat("tell me more about rivers").cache == ""


async def test_async(config: Path) -> None:
    async with AsyncJunctor.open(config) as junctor:
        answers = await asyncio.gather(*(junctor.chat("the same") for _ in range(5)))
        assert sorted(answer.cache for answer in answers) in (["", *["coalesced"] * 4], ["", *["exact"] * 4])
        stream = await junctor.stream("another one, if you please")
        assert "".join([piece async for piece in stream])
        assert stream.cost_usd is not None
        assert junctor.route("x").decision.target == "small"
        await junctor.feedback(stream.decision, 1.0)
        assert (await junctor.explain(stream.decision)).feedback


async def test_an_async_stream_left_early_is_given_up(config: Path) -> None:
    async with AsyncJunctor.open(config) as junctor:
        async with await junctor.stream("rivers") as stream:
            async for _ in stream:
                break
        assert (await junctor.explain(stream.decision)).outcome.error == "cancelled"
        async with await junctor.stream("rivers") as unread:
            pass
        assert (await junctor.explain(unread.decision)).outcome.error == "cancelled"


async def test_the_sync_one_works_where_a_loop_is_running(config: Path) -> None:
    with Junctor.open(config) as junctor:
        assert junctor.chat("hello").text
        assert list(junctor.stream("hello again"))


def test_many_threads(config: Path) -> None:
    with Junctor.open(config) as junctor:
        found: list[str] = []
        threads = [threading.Thread(target=lambda i=i: found.append(junctor.chat(f"text {i}").decision)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 8


def test_mistakes_are_typed(config: Path) -> None:
    with Junctor.open(config) as junctor:
        with pytest.raises(UnknownModel):
            junctor.chat("x", model="nobody")
        with pytest.raises(RequestError, match="temperature"):
            junctor.chat("x", temperature=9)
        with pytest.raises(RequestError, match="budget"):
            junctor.chat("x", budget_usd=-1)
        with pytest.raises(RequestError, match="JSON"):
            junctor.chat("x", tools=[{"type": object()}])
    with pytest.raises(JunctorError, match="is closed"):
        junctor.chat("x")
    junctor.close()
    with pytest.raises(ConfigError):
        Junctor.open(config.parent / "none.toml")


@pytest.fixture
def guarded(config: Path) -> Path:
    config.write_text('[gateway]\nkeys = "required"\n' + CONFIG)
    return config


async def test_keys_are_asked_for_as_over_http(guarded: Path) -> None:
    config = guarded
    async with Keeper.open(load_config(config), actor="test") as keeper:
        _, key = await keeper.create({"name": "program", "tenant": "acme"})
    async with AsyncJunctor.open(config) as junctor:
        with pytest.raises(Unauthorised):
            await junctor.chat("hello")
    async with AsyncJunctor.open(config, key=key) as junctor:
        await junctor.chat("hello")
    records = list(read(config.parent / "j.journal"))
    assert records[0].tenant == "acme"
    assert records[0].key
    assert key not in json.dumps(str(records))
