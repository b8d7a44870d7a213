"""The real Anthropic client against a running gateway."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from .conftest import CALL, OTHER_CALL, THOUGHT, completion, shared_connections

TOOL = {
    "name": "get_weather",
    "description": "The weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
HELLO: list[Any] = [{"role": "user", "content": "ping"}]


def client(served, **more: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=served.url, api_key="sk-caller", max_retries=0, http_client=shared_connections(anthropic), **more
    )


async def test_a_message_with_everything_in_it(saying, gateway) -> None:
    said = {"content": "It is warm.", "thinking_blocks": [THOUGHT], "tool_calls": [CALL, OTHER_CALL]}
    up = await saying(completion(said, "tool_calls"))
    served = await gateway(up)
    made = await asyncio.to_thread(
        client(served).messages.create,
        model="auto",
        max_tokens=100,
        system=[{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}],
        messages=HELLO,
        tools=[TOOL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        stop_sequences=["END"],
        extra_body={"temperature": 0.5},
        metadata={"user_id": "u1"},
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    assert [block.type for block in made.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert made.content[0].thinking == THOUGHT["thinking"]
    assert made.content[0].signature == THOUGHT["signature"]
    assert made.content[1].text == "It is warm."
    assert made.content[2].id == "call_1"
    assert made.content[2].input == {"city": "Bern", "days": [1, 2]}
    assert made.stop_reason == "tool_use"
    assert made.id.startswith("msg_")
    assert made.model == "up"
    usage = made.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (10, 7, 3)
    assert usage.output_tokens == 9
    sent = up.bodies[0]
    assert sent["messages"][0]["role"] == "system"
    assert sent["messages"][1] == HELLO[0]
    assert sent["tools"][0]["function"] == {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": TOOL["input_schema"],
    }
    assert sent["tool_choice"] == "required"
    assert sent["parallel_tool_calls"] is False
    assert sent["stop"] == ["END"]
    assert sent["user"] == "u1"
    assert sent["reasoning_effort"] == "low"
    assert sent["max_tokens"] == 100
    assert sent["temperature"] == 0.5


async def test_a_stream_says_the_same_as_the_whole_message(saying, gateway) -> None:
    said = {"content": "It is warm.", "thinking_blocks": [THOUGHT], "tool_calls": [CALL, OTHER_CALL]}
    served = await gateway(await saying(completion(said, "tool_calls")))

    def run() -> tuple[Any, list[str], Any]:
        ours = client(served)
        whole = ours.messages.create(model="auto", max_tokens=100, messages=HELLO)
        with ours.messages.stream(model="auto", max_tokens=100, messages=HELLO) as stream:
            kinds = [event.type for event in stream]
            return whole, kinds, stream.get_final_message()

    whole, kinds, final = await asyncio.to_thread(run)
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 4
    assert {"thinking", "signature", "text", "input_json"} <= set(kinds)
    plain = {"exclude": {"id"}, "exclude_none": True}
    assert [b.model_dump(exclude_none=True) for b in final.content] == [b.model_dump(exclude_none=True) for b in whole.content]
    assert final.stop_reason == whole.stop_reason
    assert final.usage.model_dump(**plain) == whole.usage.model_dump(**plain)


async def test_a_tool_is_used_and_its_result_and_the_reasoning_go_back(saying, gateway) -> None:
    first = completion({"thinking_blocks": [THOUGHT], "tool_calls": [CALL]}, "tool_calls")
    up = await saying(first, completion({"content": "18 degrees."}))
    served = await gateway(up)

    def run() -> Any:
        ours = client(served)
        asked = ours.messages.create(model="auto", max_tokens=100, messages=HELLO, tools=[TOOL])
        call = asked.content[-1]
        result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "18"}], "is_error": False}
        turns = [*HELLO, {"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
        return ours.messages.create(model="auto", max_tokens=100, messages=turns, tools=[TOOL])

    made = await asyncio.to_thread(run)
    assert made.content[0].text == "18 degrees."
    assert made.stop_reason == "end_turn"
    _, spoken, result = up.bodies[1]["messages"]
    assert spoken["tool_calls"][0]["id"] == "call_1"
    assert spoken["content"] is None
    assert result == {"role": "tool", "tool_call_id": "call_1", "content": "18"}


@pytest.mark.parametrize("knows", [False, True])
async def test_what_only_this_api_knows_reaches_upstreams_that_say_they_know_it(saying, gateway, knows) -> None:
    """Others get it in words that they know, or not at all where it is a hint."""
    turns: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "ping", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [THOUGHT, {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Bern"}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "no", "is_error": True}]},
    ]
    up = await saying(completion({"content": "pong"}))
    served = await gateway(up)
    served.engine.providers["p0"].extras = knows
    tools = [TOOL | {"cache_control": {"type": "ephemeral"}}]
    await asyncio.to_thread(client(served).messages.create, model="auto", max_tokens=9, messages=turns, tools=tools)
    _, second, third = up.bodies[0]["messages"]
    said = json.dumps(up.bodies[0])
    assert ("cache_control" in said, "thinking_blocks" in said, "is_error" in said) == (knows,) * 3
    assert third["content"] == ("no" if knows else "Error: no")
    assert second["tool_calls"][0]["function"]["arguments"] == '{"city":"Bern"}'
    assert (second.get("thinking_blocks") == [THOUGHT]) == knows


async def test_images_and_documents_are_carried(saying, gateway) -> None:
    up = await saying(completion({"content": "A cat."}))
    served = await gateway(up)
    data = base64.b64encode(b"png").decode()
    content = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}},
        {"type": "document", "title": "a.pdf", "source": {"type": "base64", "media_type": "application/pdf", "data": data}},
        {"type": "document", "title": "Notes", "source": {"type": "text", "media_type": "text/plain", "data": "cats"}},
        {"type": "text", "text": "What is it?"},
    ]
    turns = [{"role": "user", "content": content}]
    await asyncio.to_thread(client(served).messages.create, model="auto", max_tokens=9, messages=turns)
    parts = up.bodies[0]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "file", "text", "text"]
    assert parts[0]["image_url"]["url"] == f"data:image/png;base64,{data}"
    assert parts[1]["image_url"]["url"] == "https://example.com/cat.png"
    assert parts[2]["file"] == {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{data}"}
    assert parts[3]["text"] == "Notes\ncats"


async def test_structured_output(saying, gateway) -> None:
    class Weather(BaseModel):
        city: str
        degrees: int

    up = await saying(completion({"content": '{"city": "Bern", "degrees": 18}'}))
    served = await gateway(up)
    made = await asyncio.to_thread(
        client(served).messages.parse, model="auto", max_tokens=100, messages=HELLO, output_format=Weather
    )
    assert made.parsed_output == Weather(city="Bern", degrees=18)
    assert up.bodies[0]["response_format"]["json_schema"]["schema"]["required"] == ["city", "degrees"]


async def test_a_dead_primary_is_passed_over_whole_and_streamed(upstream, saying, gateway) -> None:
    dead = await upstream(None)
    served = await gateway(dead, await saying(completion({"content": "pong"})))

    def run() -> tuple[str, str]:
        ours = client(served)
        whole = ours.messages.create(model="auto", max_tokens=9, messages=HELLO).content[0].text
        with ours.messages.stream(model="auto", max_tokens=9, messages=HELLO) as stream:
            return whole, stream.get_final_text()

    assert await asyncio.to_thread(run) == ("pong", "pong")


async def test_tokens_are_counted_as_an_estimate(saying, gateway) -> None:
    served = await gateway(await saying(completion({"content": "pong"})))

    def run() -> tuple[int, int]:
        count = client(served).messages.count_tokens
        short = count(model="auto", messages=HELLO).input_tokens
        long = count(model="auto", messages=[{"role": "user", "content": "ping " * 100}], tools=[TOOL], system="Be kind.")
        return short, long.input_tokens

    short, long = await asyncio.to_thread(run)
    assert 1 <= short <= 10
    assert 100 < long < 200


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        ({"max_tokens": 0}, anthropic.BadRequestError),
        ({"model": "nobody"}, anthropic.NotFoundError),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, anthropic.BadRequestError),
    ],
)
async def test_what_is_wrong_is_said_in_this_apis_words(saying, gateway, broken, kind) -> None:
    served = await gateway(await saying(completion({"content": "pong"})))
    asked = {"model": "auto", "max_tokens": 9, "messages": HELLO} | broken
    with pytest.raises(kind) as caught:
        await asyncio.to_thread(client(served).messages.create, **asked)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] in ("invalid_request_error", "not_found_error")
    assert next(iter(broken)) in caught.value.body["error"]["message"]
