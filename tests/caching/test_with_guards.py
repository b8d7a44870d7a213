"""Caches and guards together: what is kept holds masks, and everybody gets their own data back."""

from __future__ import annotations

from junctor.guards.contracts import Chain
from junctor.guards.masking import PiiGuard
from junctor.providers import answers
from junctor.providers.base import Reply
from junctor.service import Service

from .conftest import USAGE, Counting, Streaming, World


class Echo(Counting):
    """Says what it was asked, as it was asked."""

    async def complete(self, request, target, timeout_s):
        self.calls += 1
        said = answers.content_text(request.params["messages"][-1]["content"])
        return Reply(body=answers.completion_body("c", "up", said, USAGE), usage=USAGE, finish_reason="stop")

    async def stream(self, request, target, timeout_s):
        self.calls += 1
        return Streaming(request, answers.content_text(request.params["messages"][-1]["content"]), self)


def masked() -> World:
    world = World(provider=Echo())
    world.service = Service(world.engine, chains={"auto": Chain([PiiGuard.from_settings({})])}, caches={"auto": world.cache})
    return world


async def test_each_gets_their_own_data_back_from_one_kept_reply() -> None:
    world = masked()
    assert await world.ask("Write to ana@example.org today") == "Write to ana@example.org today"
    assert await world.ask("Write to bob@example.com today") == "Write to bob@example.com today"
    kept = b"".join(entry.body for entry in world.cache.store._kept.values())
    assert b"ana@" not in kept
    assert b"bob@" not in kept
    assert world.provider.calls == 1


async def test_streams_too() -> None:
    world = masked()
    assert b"ana@example.org" in await world.stream("Write to ana@example.org today")
    again = await world.stream("Write to bob@example.com today")
    assert world.provider.calls == 1
    assert b"ana@" not in again
    assert await world.ask("Write to eve@example.net today") == "Write to eve@example.net today"
    assert world.provider.calls == 1
