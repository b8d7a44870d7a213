"""Caches over a service whose upstream is in this process: it counts its calls, waits when told, and fails when told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from junctor.caching.exact import ExactCache
from junctor.caching.store import Store
from junctor.engine import Alias, Engine
from junctor.errors import UpstreamBroken, UpstreamStatus
from junctor.policies.fixed import Fixed
from junctor.providers import answers
from junctor.providers.base import Provider, Reply, StreamReply, Usage
from junctor.service import Service
from junctor.tenancy.contracts import ANYONE, Principal
from junctor.types import Catalogue, Message, Price, Request, Target

USAGE = Usage(input_tokens=10, output_tokens=5)


class Counting(Provider):
    """Answers `answer 1`, `answer 2`, …; `gate` holds answers back, `fail` and `finish` say how the next ones end."""

    name = "counting"

    def __init__(self) -> None:
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail = 0
        self.finish = "stop"
        self.broken = False

    async def _next(self, target: Target) -> str:
        self.calls += 1
        said = f"answer {self.calls}"
        await self.gate.wait()
        if self.fail:
            self.fail -= 1
            raise UpstreamStatus("no luck", upstream_status=400, target=target.id)
        return said

    async def complete(self, request, target, timeout_s):
        said = await self._next(target)
        body = answers.completion_body("chatcmpl-1", "up", said, USAGE, self.finish)
        return Reply(body=body, usage=USAGE, finish_reason=self.finish)

    async def stream(self, request, target, timeout_s):
        return Streaming(request, await self._next(target), self)


class Streaming(StreamReply):
    usage = USAGE
    finish_reason = "stop"

    def __init__(self, request: Request, said: str, provider: Counting) -> None:
        self.events = answers.Chunks("chatcmpl-1", "up", with_usage=answers.wants_usage(request))
        self.said, self.provider = said, provider

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for place, event in enumerate(self.events.whole(answers.words(self.said), USAGE, self.provider.finish)):
            if place == 2 and self.provider.broken:
                raise UpstreamBroken("ended early", target="t0")
            yield event


class World:
    """A service with a cache on `auto` and its provider."""

    def __init__(self, cache: Any = None, provider: Provider | None = None, **more: Any) -> None:
        self.provider: Any = provider or Counting()
        price = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
        targets = Catalogue([Target(id="t0", provider="p", model="up", price=price)])
        policy = Fixed(["t0"], {}, 0)
        aliases = {name: Alias(name=name, policy=policy, targets=targets) for name in ("auto", "other")}
        self.engine = Engine(targets, {"p": self.provider}, aliases, None, **more)
        self.cache = cache or ExactCache(Store(100, 1.0, 60.0))
        self.service = Service(self.engine, caches=dict.fromkeys(aliases, self.cache))

    async def ask(self, text: str = "ping", model: str = "auto", who: Principal = ANYONE, **more: Any) -> str:
        answer = await self.answer(text, model, who, **more)
        return answers.content_text(_message(answer.reply.body)["content"])

    async def answer(self, text: str = "ping", model: str = "auto", who: Principal = ANYONE, **more: Any) -> Any:
        fresh = more.pop("fresh", False)
        return await self.service.complete(request_of(text, **more), model, who, fresh=fresh)

    async def stream(self, text: str = "ping", model: str = "auto", who: Principal = ANYONE, **more: Any) -> bytes:
        out = b""
        async with await self.service.stream(request_of(text, **more), model, who) as answer:
            async for events in answer:
                out += events
        return out


def _message(body: bytes) -> dict[str, Any]:
    import json

    return json.loads(body)["choices"][0]["message"]


def request_of(text: str, **more: Any) -> Request:
    tenant, constraints = more.pop("tenant", ""), more.pop("constraints", None)
    turns = more.pop("turns", None) or [{"role": "user", "content": text}]
    kept = {} if constraints is None else {"constraints": constraints}
    messages = tuple(Message(turn["role"], turn["content"]) for turn in turns)
    return Request(text=text, messages=messages, tenant=tenant, params={"messages": turns, **more}, **kept)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """An exact cache of a hundred entries."""
    made = World()
    yield made
    await made.service.aclose()
