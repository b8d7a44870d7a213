"""What a call needs of a target: a hard filter with a reason; of a target of which nothing is known, a try."""

from __future__ import annotations

import json
from typing import Any

import pytest

from junctor.engine import Engine
from junctor.errors import NoTarget, RequestError
from junctor.gateway.wires.chat import ChatWire
from junctor.gateway.wires.messages import MessagesWire
from junctor.gateway.wires.response_store import MemoryStore
from junctor.gateway.wires.responses import ResponsesWire
from junctor.providers.scripted import ScriptedProvider, Step
from junctor.tenancy.contracts import ANYONE
from junctor.types import Catalogue, Target

TURN = {"role": "user", "content": "x"}


def part(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


CASES: list[tuple[dict[str, Any], set[str]]] = [
    ({}, set()),
    ({"seed": 7, "prediction": {"type": "content", "content": "x"}, "frequency_penalty": 1}, set()),
    ({"parallel_tool_calls": False, "logprobs": False, "logit_bias": {}, "tools": []}, set()),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {"tools"}),
    ({"functions": [{"name": "f"}]}, {"tools"}),
    ({"logprobs": True, "top_logprobs": 3}, {"logprobs"}),
    ({"logit_bias": {"5": 1}}, {"logit_bias"}),
    ({"modalities": ["text", "audio"]}, {"audio_out"}),
    ({"modalities": ["text"]}, set()),
    ({"web_search_options": {}}, {"web_search"}),
    ({"reasoning_effort": "high"}, {"reasoning"}),
    ({"reasoning_effort": "none"}, set()),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"json"}),
    ({"n": 2}, {"n"}),
    (part(type="image_url", image_url={"url": "x"}), {"vision"}),
    (part(type="input_audio", input_audio={}), {"audio"}),
    (part(type="video_url", video_url={}), {"video"}),
    (part(type="file", file={}), {"files"}),
]


@pytest.mark.parametrize(("fields", "needs"), CASES)
def test_the_needs_of_a_chat(fields, needs) -> None:
    body = {"model": "m", "messages": [TURN], **fields}
    assert ChatWire().parse(json.dumps(body).encode(), "dec-1", (), ANYONE).request.needs == needs


def test_the_other_apis_need_the_same() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    document = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
    body = {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": [image, document]}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "thinking": {"type": "enabled", "budget_tokens": 9000},
        "output_config": {"format": {"type": "json_schema", "schema": {}}},
    }
    asked = MessagesWire().parse(json.dumps(body).encode(), "dec-1", (), ANYONE)
    assert asked.request.needs == {"vision", "files", "tools", "reasoning", "json"}
    assert asked.request.api == "messages"
    found = {
        "model": "m",
        "input": "x",
        "reasoning": {"effort": "low"},
        "top_logprobs": 2,
        "text": {"format": {"type": "text"}},
    }
    asked = ResponsesWire(MemoryStore()).parse(json.dumps(found).encode(), "dec-1", (), ANYONE)
    assert asked.request.needs == {"reasoning", "logprobs"}


@pytest.mark.parametrize("fields", [{"reasoning_effort": 3}, {"modalities": "audio"}, {"web_search_options": True}])
def test_what_is_wrong_is_named(fields) -> None:
    with pytest.raises(RequestError) as caught:
        ChatWire().parse(json.dumps({"model": "m", "messages": [TURN], **fields}).encode(), "dec-1", (), ANYONE)
    assert caught.value.field in fields


async def test_a_need_that_nobody_can_do_is_refused_with_every_reason() -> None:
    plain = Target(id="plain", provider="p", capabilities=frozenset({"stream"}))
    eyes = Target(id="eyes", provider="p", capabilities=frozenset({"vision"}))
    unknown = Target(id="unknown", provider="p")
    provider = ScriptedProvider({"*": Step(answer="hello")})
    engine = Engine(Catalogue([plain, eyes, unknown]), {"p": provider})
    body = {"model": "plain", "messages": [TURN], "logprobs": True, "reasoning_effort": "low"}
    asked = ChatWire().parse(json.dumps(body).encode(), "dec-1", (), ANYONE)
    with pytest.raises(NoTarget) as caught:
        await engine.complete(asked.request, "plain")
    assert caught.value.refusals == {"plain": "cannot do: logprobs, reasoning"}
    assert (await engine.complete(asked.request, "unknown")).target.id == "unknown"
    await engine.aclose()


async def test_the_first_words_are_not_held_back() -> None:
    """The first event that comes makes the first events that go."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"He"}}]}\n\n'
    for wire, body in (
        (MessagesWire(), {"model": "m", "max_tokens": 9, "messages": [TURN], "stream": True}),
        (ResponsesWire(MemoryStore()), {"model": "m", "input": "x", "stream": True}),
    ):
        asked = wire.parse(json.dumps(body).encode(), "dec-1", (), ANYONE)
        assert asked.request.params["stream_options"] == {"include_usage": True}
        assert b'"He"' in wire.writer(asked).push(event)
