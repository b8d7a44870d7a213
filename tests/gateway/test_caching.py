"""Caches over HTTP: headers, bodies and streams as a client sees them."""

from __future__ import annotations

import asyncio
import json

import pytest

from junctor.build import build_service
from junctor.caching.building import build_caches
from junctor.caching.exact import ExactCache
from junctor.caching.store import Store
from junctor.config import parse_config
from junctor.errors import ConfigError
from junctor.service import Service

from .conftest import BODY, answer, engine_over, stall, whole

pytestmark = pytest.mark.slow  # as a whole: `make check` is an inner loop


async def caching(gateway, ups, tmp_path):
    engine = engine_over(list(ups), tmp_path)
    service = Service(engine, caches={"auto": ExactCache(Store(100, 1.0, 60.0))})
    return await gateway(engine=service)


async def test_a_hit_says_so_and_costs_nothing(gateway, upstream, tmp_path) -> None:
    up = await upstream()
    served = await caching(gateway, [up], tmp_path)
    first, second = await served.chat(), await served.chat()
    assert [r.headers["x-junctor-cache"] for r in (first, second)] == ["miss", "exact"]
    assert second.headers["x-junctor-policy"] == "cache"
    assert second.headers["x-junctor-target"] == "t0"
    assert second.headers["x-junctor-cost-usd"] == "0"
    assert second.headers["x-junctor-attempts"] == "0"
    assert await first.json() == await second.json() == BODY
    assert len(up.bodies) == 1
    kinds = [record.__struct_config__.tag for record in served.records()]
    assert kinds == ["decision", "outcome"] * 2
    assert served.records()[2].decision.policy == "cache"
    assert served.records()[3].outcome.cost_usd == 0.0


@pytest.mark.parametrize("headers", [{"cache-control": "no-store"}, {"x-junctor-cache": "off"}])
async def test_a_caller_can_decline(gateway, upstream, tmp_path, headers) -> None:
    up = await upstream()
    served = await caching(gateway, [up], tmp_path)
    for _ in range(2):
        reply = await served.chat(headers=headers)
        assert "x-junctor-cache" not in reply.headers
    assert len(up.bodies) == 2
    assert (await served.chat()).headers["x-junctor-cache"] == "miss"


async def test_a_wrong_word_about_the_cache_is_the_callers_mistake(gateway, upstream, tmp_path) -> None:
    served = await caching(gateway, [await upstream()], tmp_path)
    reply = await served.chat(headers={"x-junctor-cache": "please"})
    assert reply.status == 400
    assert (await reply.json())["error"]["param"] == "x-junctor-cache"


async def test_streams_fill_and_use_it(gateway, upstream, tmp_path) -> None:
    up = await upstream()
    served = await caching(gateway, [up], tmp_path)
    first = await served.chat(stream=True)
    text = await first.text()
    second = await served.chat(stream=True, stream_options={"include_usage": True})
    again = await second.text()
    third = await served.chat()
    assert [r.headers["x-junctor-cache"] for r in (first, second, third)] == ["miss", "exact", "exact"]
    assert said(text) == said(again) == "pong"
    assert again.endswith("data: [DONE]\n\n")
    assert '"total_tokens":15' in again
    body = await third.json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "pong"}
    assert body["usage"] == BODY["usage"]
    assert len(up.bodies) == 1


async def test_each_api_gets_its_own_shape_again(gateway, upstream, tmp_path) -> None:
    up = await upstream()
    served = await caching(gateway, [up], tmp_path)
    body = {"model": "auto", "max_tokens": 50, "messages": [{"role": "user", "content": "ping"}]}
    seen = []
    for stream in (False, False, True):
        async with served.session.post(served.url + "/v1/messages", json={**body, "stream": stream}) as reply:
            seen.append((reply.headers["x-junctor-cache"], await reply.text()))
    assert [kind for kind, _ in seen] == ["miss", "exact", "exact"]
    whole_reply = json.loads(seen[1][1])
    assert whole_reply["content"] == json.loads(seen[0][1])["content"] == [{"type": "text", "text": "pong"}]
    assert whole_reply["stop_reason"] == "end_turn"
    assert "event: message_stop" in seen[2][1]
    assert (await served.chat(max_tokens=50)).headers["x-junctor-cache"] == "miss"
    assert len(up.bodies) == 2


def said(events: str) -> str:
    chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def test_the_first_client_hangs_up_and_the_next_is_answered(gateway, upstream, tmp_path) -> None:
    go = asyncio.Event()

    async def slow(up, reader, writer):
        if len(up.bodies) == 1:
            await stall(up, reader, writer)
        else:
            await go.wait()
            await answer(up, reader, writer)

    up = await upstream(slow)
    served = await caching(gateway, [up], tmp_path)
    first = asyncio.create_task(served.chat())
    await asyncio.wait_for(up.asked.wait(), 10)
    others = [asyncio.create_task(served.chat()) for _ in range(3)]
    await asyncio.sleep(0.1)
    first.cancel()
    await asyncio.wait_for(up.gone.wait(), 10)
    go.set()
    replies = await asyncio.wait_for(asyncio.gather(*others), 20)
    assert [reply.status for reply in replies] == [200] * 3
    assert sorted(reply.headers["x-junctor-cache"] for reply in replies) == ["coalesced", "coalesced", "miss"]
    assert len(up.bodies) == 2


async def test_a_cut_stream_is_not_given_again(gateway, upstream, tmp_path) -> None:
    async def cut(up, reader, writer):
        if len(up.bodies) == 1:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
            writer.write(head + b'data: {"choices":[{"index":0,"delta":{"content":"po"}}]}\n\n')
            await writer.drain()
            writer.close()
        else:
            writer.write(whole(json.dumps(BODY).encode()))

    up = await upstream(cut)
    served = await caching(gateway, [up], tmp_path)
    reply = await served.chat(stream=True)
    assert "[DONE]" not in await reply.text()
    assert (await served.chat()).headers["x-junctor-cache"] == "miss"


CONFIG = {
    "providers": {"p": {"kind": "openai_compatible", "base_url": "http://127.0.0.1:1/v1"}},
    "targets": {"t0": {"provider": "p"}},
    "policies": {"first": {"use": "fixed", "settings": {"target": "t0"}}},
    "aliases": {"auto": {"policy": "first", "cache": "c"}, "plain": "first"},
    "caches": {"c": {"entries": 5, "ttl_s": 9, "most_temperature": 0.5, "coalesce": False}},
}


def test_from_the_configuration(tmp_path) -> None:
    caches = build_caches(parse_config(CONFIG, tmp_path))
    assert list(caches) == ["auto"]
    made = caches["auto"]
    assert (made.store.entries, made.store.ttl_s, made.most_temperature, made.flights) == (5, 9.0, 0.5, None)


@pytest.mark.parametrize("key", ["ttl_s", "entries", "megabytes", "threshold"])
def test_a_bound_that_bounds_nothing_is_refused(tmp_path, key) -> None:
    config = parse_config({**CONFIG, "caches": {"c": {key: 0}}}, tmp_path)
    with pytest.raises(ConfigError, match=f"caches.c.{key}"):
        build_caches(config)


def test_the_service_of_a_configuration_has_it(tmp_path) -> None:
    service = build_service(parse_config({**CONFIG, "journal": {"path": ""}}, tmp_path))
    assert list(service.caches) == ["auto"]
