"""The real OpenAI client against a running gateway: chat and responses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from junctor.errors import RequestError
from junctor.gateway.wires.response_store import MemoryStore
from junctor.gateway.wires.responses import ResponsesWire
from junctor.tenancy.contracts import ANYONE

from .conftest import CALL, OTHER_CALL, THOUGHT, completion, shared_connections

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "name": "get_weather", "description": "The weather.", "parameters": PARAMETERS, "strict": True}
EVERYTHING = {"content": "It is warm.", "thinking_blocks": [THOUGHT], "tool_calls": [CALL, OTHER_CALL]}


class Weather(BaseModel):
    """An answer with a shape."""

    city: str
    degrees: int


def client(served, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=served.url + "/v1", api_key="sk-caller", max_retries=0, http_client=shared_connections(openai), **more
    )


async def test_a_response_with_everything_in_it(saying, gateway) -> None:
    up = await saying(completion(EVERYTHING, "tool_calls"))
    served = await gateway(up)
    made = await asyncio.to_thread(
        client(served).responses.create,
        model="auto",
        input="ping",
        instructions="Be short.",
        tools=[TOOL],
        tool_choice={"type": "function", "name": "get_weather"},
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
        max_output_tokens=100,
        temperature=0.5,
        metadata={"team": "blue"},
    )
    assert [item.type for item in made.output] == ["reasoning", "message", "function_call", "function_call"]
    assert made.output[0].content[0].text == THOUGHT["thinking"]
    assert made.output_text == "It is warm."
    assert (made.output[2].call_id, made.output[2].name) == ("call_1", "get_weather")
    assert made.output[2].arguments == CALL["function"]["arguments"]
    assert made.status == "completed"
    assert made.id.startswith("resp_")
    assert made.model == "up"
    assert made.usage.input_tokens == 20
    assert made.usage.output_tokens == 9
    assert made.usage.total_tokens == 29
    assert made.usage.input_tokens_details.cached_tokens == 7
    assert made.usage.output_tokens_details.reasoning_tokens == 4
    assert made.metadata == {"team": "blue"}
    assert made.instructions == "Be short."
    sent = up.bodies[0]
    assert sent["messages"] == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "ping"}]
    function = {"name": "get_weather", "description": "The weather.", "parameters": PARAMETERS, "strict": True}
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert (sent["reasoning_effort"], sent["max_completion_tokens"], sent["parallel_tool_calls"]) == ("low", 100, False)
    assert {"input", "instructions", "store", "max_output_tokens", "previous_response_id"}.isdisjoint(sent)


async def test_a_stream_says_the_same_as_the_whole_response(saying, gateway) -> None:
    served = await gateway(await saying(completion(EVERYTHING, "tool_calls")))

    def run() -> tuple[Any, list[Any], Any]:
        ours = client(served)
        whole = ours.responses.create(model="auto", input="ping")
        with ours.responses.stream(model="auto", input="ping") as stream:
            events = list(stream)
            return whole, events, stream.get_final_response()

    whole, events, final = await asyncio.to_thread(run)
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 4
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "It is warm."
    assert final.output_text == whole.output_text

    def plain(response: Any) -> list[dict[str, Any]]:
        keep = {"type", "text", "content", "name", "arguments", "call_id", "status", "encrypted_content", "role"}
        found = [{k: v for k, v in item.to_dict().items() if k in keep} for item in response.output]
        for part in found[1]["content"]:
            part.pop("parsed", None)  # the client's own
        return found

    assert plain(final) == plain(whole)
    assert final.usage == whole.usage


async def test_a_tool_call_goes_on_from_the_response_before(saying, gateway) -> None:
    first = completion({"thinking_blocks": [THOUGHT], "tool_calls": [CALL]}, "tool_calls")
    up = await saying(first, completion({"content": "18 degrees."}), completion({"content": "Bye."}))
    served = await gateway(up)

    def run() -> Any:
        ours = client(served).responses
        asked = ours.create(model="auto", input="How warm is it?", tools=[TOOL], instructions="Only once.")
        result: Any = [{"type": "function_call_output", "call_id": asked.output[-1].call_id, "output": "18"}]
        told = ours.create(model="auto", input=result, previous_response_id=asked.id)
        with ours.stream(model="auto", input="Thanks.", previous_response_id=told.id) as stream:
            return told, stream.get_final_response()

    told, last = await asyncio.to_thread(run)
    assert told.output_text == "18 degrees."
    assert last.output_text == "Bye."
    assert last.previous_response_id == told.id
    turns = up.bodies[2]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "assistant", "user"]
    assert turns[1]["tool_calls"][0]["id"] == "call_1"
    assert turns[2] == {"role": "tool", "tool_call_id": "call_1", "content": "18"}


async def test_reasoning_comes_back_in_the_caller_s_own_items(saying, gateway) -> None:
    """Without the store: the caller sends the output items back, signed reasoning and all."""
    first = completion({"content": "Hm.", "thinking_blocks": [THOUGHT], "tool_calls": [CALL]}, "tool_calls")
    up = await saying(first)
    served = await gateway(up)

    def run() -> None:
        ours = client(served).responses
        asked = ours.create(model="auto", input="ping", store=False, include=["reasoning.encrypted_content"])
        assert asked.store is False
        items: Any = [{"role": "user", "content": "ping"}, *[item.to_dict() for item in asked.output]]
        items.append({"type": "function_call_output", "call_id": "call_1", "output": "18"})
        ours.create(model="auto", input=items, store=False)
        with pytest.raises(openai.NotFoundError):
            ours.retrieve(asked.id)

    await asyncio.to_thread(run)
    _, spoken, result = up.bodies[1]["messages"]
    assert spoken["content"] == "Hm."
    assert spoken["tool_calls"][0]["id"] == "call_1"
    assert result["role"] == "tool"


async def test_a_kept_response_can_be_read_and_deleted(saying, gateway) -> None:
    served = await gateway(await saying(completion({"content": "pong"})))

    def run() -> None:
        ours = client(served).responses
        made = ours.create(model="auto", input="ping")
        assert ours.retrieve(made.id).output_text == "pong"
        ours.delete(made.id)
        with pytest.raises(openai.NotFoundError) as gone:
            ours.retrieve(made.id)
        assert gone.value.code == "response_not_found"
        with pytest.raises(openai.NotFoundError):
            ours.create(model="auto", input="ping", previous_response_id=made.id)

    await asyncio.to_thread(run)


async def test_somebody_else_s_response_is_not_there(saying, gateway) -> None:
    served = await gateway(await saying(completion({"content": "pong"})))

    def run() -> None:
        mine = client(served, default_headers={"x-junctor-tenant": "a"}).responses
        other = client(served, default_headers={"x-junctor-tenant": "b"}).responses
        made = mine.create(model="auto", input="ping")
        for ask in (
            lambda: other.retrieve(made.id),
            lambda: other.delete(made.id),
            lambda: other.create(model="auto", input="x", previous_response_id=made.id),
        ):
            with pytest.raises(openai.NotFoundError):
                ask()
        assert mine.retrieve(made.id).id == made.id

    await asyncio.to_thread(run)


async def test_structured_output_of_both_apis(saying, gateway) -> None:
    up = await saying(completion({"content": '{"city": "Bern", "degrees": 18}'}))
    served = await gateway(up)

    def run() -> tuple[Any, Any]:
        ours = client(served)
        response = ours.responses.parse(model="auto", input="ping", text_format=Weather)
        turns: Any = [{"role": "user", "content": "ping"}]
        chat = ours.chat.completions.parse(model="auto", messages=turns, response_format=Weather)
        return response.output_parsed, chat.choices[0].message.parsed

    assert await asyncio.to_thread(run) == (Weather(city="Bern", degrees=18),) * 2
    formats = [body["response_format"] for body in up.bodies]
    assert formats[0]["json_schema"]["schema"] == formats[1]["json_schema"]["schema"]
    assert formats[0]["json_schema"]["name"] == "Weather"
    assert formats[0]["json_schema"]["strict"] is True


async def test_images_and_files_are_carried(saying, gateway) -> None:
    up = await saying(completion({"content": "A cat."}))
    served = await gateway(up)
    content: Any = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
    ]
    await asyncio.to_thread(client(served).responses.create, model="auto", input=[{"role": "user", "content": content}])
    assert up.bodies[0]["messages"][0]["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}},
    ]


async def test_an_answer_that_was_cut_off_is_incomplete(saying, gateway) -> None:
    served = await gateway(await saying(completion({"content": "It is"}, "length")))

    def run() -> tuple[Any, Any]:
        ours = client(served).responses
        whole = ours.create(model="auto", input="ping")
        with ours.stream(model="auto", input="ping") as stream:
            return whole, list(stream)[-1]

    whole, last = await asyncio.to_thread(run)
    assert whole.status == "incomplete"
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert last.type == "response.incomplete"
    assert last.response.output[0].status == "incomplete"


async def test_a_dead_primary_is_passed_over_whole_and_streamed(upstream, saying, gateway) -> None:
    served = await gateway(await upstream(None), await saying(completion({"content": "pong"})))

    def run() -> tuple[str, str]:
        ours = client(served).responses
        whole = ours.create(model="auto", input="ping").output_text
        with ours.stream(model="auto", input="ping") as stream:
            return whole, stream.get_final_response().output_text

    assert await asyncio.to_thread(run) == ("pong", "pong")


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": [{"type": "computer_call_output"}]}, "input[0].type"),
        ({"input": []}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
    ],
)
def test_what_is_not_there_is_refused_by_name(broken, field) -> None:
    body = json.dumps({"model": "auto", "input": "ping"} | broken).encode()
    with pytest.raises(RequestError) as caught:
        ResponsesWire(MemoryStore()).parse(body, "dec-1", (), ANYONE)
    assert caught.value.field == field


async def test_a_refusal_reaches_the_client_with_its_field(saying, gateway) -> None:
    served = await gateway(await saying(completion({"content": "pong"})))
    with pytest.raises(openai.BadRequestError) as caught:
        await asyncio.to_thread(client(served).responses.create, model="auto", input="ping", background=True)
    assert caught.value.param == "background"


async def test_chat_passes_every_field_and_part_untouched(saying, gateway) -> None:
    up = await saying(completion({"content": None, "refusal": "No.", "tool_calls": [CALL, OTHER_CALL]}, "tool_calls"))
    served = await gateway(up)
    turns: Any = [
        {"role": "developer", "content": "Be short."},
        {
            "role": "user",
            "name": "ann",
            "content": [
                {"type": "text", "text": "Look."},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "high"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_id": "file-1"}},
            ],
        },
    ]
    more: Any = {
        "logprobs": True,
        "top_logprobs": 2,
        "n": 2,
        "parallel_tool_calls": False,
        "prediction": {"type": "content", "content": "x"},
        "seed": 7,
        "modalities": ["text", "audio"],
        "audio": {"voice": "ash", "format": "wav"},
        "web_search_options": {},
        "reasoning_effort": "high",
        "logit_bias": {"5": 1},
    }
    made = await asyncio.to_thread(client(served).chat.completions.create, model="t0", messages=turns, **more)
    assert made.choices[0].message.refusal == "No."
    assert len(made.choices[0].message.tool_calls) == 2
    assert up.bodies[0]["messages"] == turns
    assert {name: up.bodies[0][name] for name in more} == more
