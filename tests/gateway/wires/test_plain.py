"""Embeddings and moderations: decided, billed and journalled like a chat, passed through as they are."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import openai
import pytest

from junctor.encoders import load_encoder
from junctor.engine import Engine
from junctor.errors import RequestError
from junctor.gateway.wires.plain import EmbeddingsWire, ModerationsWire
from junctor.journal import OutcomeRecord
from junctor.providers.embedded.provider import EmbeddedProvider
from junctor.providers.openai_compatible import OpenAICompatibleProvider
from junctor.providers.scripted import ScriptedProvider, Step
from junctor.tenancy.contracts import ANYONE
from junctor.types import Catalogue, Target

from .conftest import shared_connections

VECTORS = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -0.2]}],
    "model": "up",
    "usage": {"prompt_tokens": 1000, "total_tokens": 1000},
}
VERDICT = {
    "id": "modr-1",
    "model": "up",
    "results": [{"flagged": True, "categories": {"violence": True}, "category_scores": {"violence": 0.9}}],
}


def client(served) -> openai.OpenAI:
    connections = shared_connections(openai)
    return openai.OpenAI(base_url=served.url + "/v1", api_key="sk-caller", max_retries=0, http_client=connections)


def answering(body: dict[str, Any], status: str = "200 OK") -> Any:
    async def act(up, reader, writer) -> None:
        raw = json.dumps(body).encode()
        writer.write(
            f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n".encode() + raw
        )

    return act


async def test_embeddings_pass_through_and_are_billed(upstream, gateway) -> None:
    dead, up = await upstream(None), await upstream(answering(VECTORS))
    served = await gateway(dead, up)
    made = await asyncio.to_thread(
        client(served).embeddings.create, model="auto", input=["a", "b"], dimensions=2, encoding_format="float"
    )
    assert made.data[0].embedding == [0.1, -0.2]
    assert up.bodies == [{"model": "up", "input": ["a", "b"], "dimensions": 2, "encoding_format": "float"}]
    assert up.heads[0].startswith(b"POST /v1/embeddings ")
    ended = next(r for r in served.records() if isinstance(r, OutcomeRecord))
    assert ended.outcome.cost_usd == 1000 * 1.0 / 1e6
    assert [attempt.target for attempt in ended.attempts] == ["t0", "t1"]


async def test_moderations_pass_through(upstream, gateway) -> None:
    up = await upstream(answering(VERDICT))
    served = await gateway(up)
    made = await asyncio.to_thread(client(served).moderations.create, model="auto", input="Hello there.")
    assert made.results[0].flagged
    assert up.heads[0].startswith(b"POST /v1/moderations ")


async def test_a_target_that_says_it_cannot_is_refused_with_the_reason(gateway) -> None:
    targets = Catalogue([Target(id="chat", provider="p", capabilities=frozenset({"stream"}))])
    engine = Engine(targets, {"p": OpenAICompatibleProvider("http://127.0.0.1:1/v1")})
    served = await gateway(engine=engine)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await asyncio.to_thread(client(served).embeddings.create, model="chat", input="a")
    assert caught.value.body["refusals"] == {"chat": "cannot do: embeddings"}


async def test_an_answer_that_is_none_is_a_bad_gateway(upstream, gateway) -> None:
    served = await gateway(await upstream(answering({"object": "list"})))
    with pytest.raises(openai.InternalServerError) as caught:
        await asyncio.to_thread(client(served).embeddings.create, model="t0", input="a")
    assert caught.value.status_code == 502


async def test_a_provider_that_makes_none_says_so_and_is_not_left_alone_for_it(gateway) -> None:
    """A caller's mistake must not put a target into a cooldown for everybody."""
    engine = Engine(Catalogue([Target(id="m", provider="p")]), {"p": ScriptedProvider({"*": Step(answer="hello")})})
    served = await gateway(engine=engine)

    def run() -> None:
        ours = client(served)
        for _ in range(5):
            for ask in (ours.embeddings.create, ours.moderations.create):
                with pytest.raises(openai.UnprocessableEntityError, match="its provider"):
                    ask(model="m", input="a")

    await asyncio.to_thread(run)
    assert engine.health.cooling_s("m") == 0


@pytest.mark.parametrize("form", ["float", "base64"])
async def test_the_embedded_pool_makes_real_embeddings(gateway, form) -> None:
    targets = Catalogue([Target(id="vectors", provider="e", model="static-embeddings", capabilities=frozenset({"embeddings"}))])
    served = await gateway(engine=Engine(targets, {"e": EmbeddedProvider()}))
    texts = ["A cat sleeps.", "Ein Haus am See"]
    create = client(served).embeddings.create
    made = await asyncio.to_thread(create, model="vectors", input=texts, encoding_format=form)
    if form == "float":
        np.testing.assert_allclose([row.embedding for row in made.data], load_encoder("static").encode(texts), atol=1e-6)
    assert made.usage.prompt_tokens > 5
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        await asyncio.to_thread(create, model="vectors", input="a", dimensions=3)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": "m"}, "input"),
        ({"model": "m", "input": []}, "input"),
        ({"model": "m", "input": ["a", 1]}, "input[1]"),
        ({"model": "m", "input": [[1, 2], [-1]]}, "input[1]"),
        ({"model": "m", "input": ["a"] * 2049}, "input"),
        ({"model": "m", "input": "a", "dimensions": 0}, "dimensions"),
        ({"model": "m", "input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a"}, "model"),
        ({"model": "m", "input": "a", "stream": True}, "stream"),
    ],
)
def test_a_bad_call_names_its_field(body, field) -> None:
    with pytest.raises(RequestError) as caught:
        EmbeddingsWire().parse(json.dumps(body).encode(), "dec-1", (), ANYONE)
    assert caught.value.field == field


def test_inputs_of_every_kind_are_read() -> None:
    def text(wire: Any, given: Any) -> str:
        return wire.parse(json.dumps({"model": "m", "input": given}).encode(), "dec-1", (), ANYONE).request.text

    assert text(EmbeddingsWire(), "a") == "a"
    assert text(EmbeddingsWire(), ["a", "b"]) == "a\nb"
    assert text(EmbeddingsWire(), [1, 2]) == ""
    assert text(ModerationsWire(), [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]) == "a\n"
    with pytest.raises(RequestError, match=r"input\[1\]"):
        text(ModerationsWire(), ["a", {"type": "sound"}])
