"""Streams put together again: whatever a stream said, the whole answer says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.caching.collecting import Collector, whole_of
from junctor.engine.buffered import Buffered
from junctor.errors import UpstreamGarbage
from junctor.providers.base import Reply, StreamReply, Usage
from junctor.types import Request


class Told(StreamReply):
    usage = Usage(input_tokens=3, output_tokens=2)

    async def __aiter__(self):
        for event in ():
            yield event


def events(*choices: Any, done: bool = True, **more: Any) -> bytes:
    chunks = [
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [c], **more} for c in choices
    ]
    return b"".join(b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks) + (b"data: [DONE]\n\n" if done else b"")


def delta(finish: str | None = None, logprobs: Any = None, **said: Any) -> dict[str, Any]:
    return {"index": 0, "delta": said, "finish_reason": finish, "logprobs": logprobs}


def call(index: int, **said: Any) -> dict[str, Any]:
    return {"index": index, **said}


def test_text_tool_calls_logprobs_and_usage() -> None:
    found = whole_of(
        events(
            delta(role="assistant", content=""),
            delta(content="po", logprobs={"content": [{"token": "po", "logprob": -0.1}], "refusal": None}),
            delta(content="ng", logprobs={"content": [{"token": "ng", "logprob": -0.2}], "refusal": None}),
            delta(tool_calls=[call(0, id="a", type="function", function={"name": "f", "arguments": ""})]),
            delta(tool_calls=[call(0, function={"arguments": '{"x":'})]),
            delta(tool_calls=[call(1, id="b", type="function", function={"name": "g", "arguments": "{}"})]),
            delta(tool_calls=[call(0, function={"arguments": "1}"})]),
            delta("tool_calls"),
        ),
        Told(),
    )
    body = json.loads(found.body)
    choice = body["choices"][0]
    assert body["object"] == "chat.completion"
    assert (body["id"], body["model"]) == ("c", "m")
    assert choice["message"] == {
        "role": "assistant",
        "content": "pong",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }
    assert choice["finish_reason"] == found.finish_reason == "tool_calls"
    assert [t["token"] for t in choice["logprobs"]["content"]] == ["po", "ng"]
    assert body["usage"]["total_tokens"] == 5


@pytest.mark.parametrize(
    "garbage",
    [
        events(delta(content="x"), delta("stop"), done=False),
        events(delta(content="x")),
        events(delta(content="x"), {"index": 1, "delta": {}, "finish_reason": "stop"}),
        b"data: {\n\n" + events(delta("stop")),
        b'data: {"error": {"message": "m"}}\n\n' + events(delta("stop")),
    ],
)
def test_what_is_not_one_complete_answer_is_refused(garbage: bytes) -> None:
    with pytest.raises(UpstreamGarbage):
        whole_of(garbage, Told())


def test_a_stream_that_is_too_long_is_let_go_and_passes() -> None:
    given: list[Reply | None] = []
    collector = Collector(Told(), 100, given.append)
    said = events(delta(content="x" * 200), delta("stop"))
    assert collector.push(said) + collector.end() == said
    assert given == [None]


texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)
tools = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text("abc123", min_size=1, max_size=5),
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": st.text("fgh", min_size=1, max_size=4), "arguments": texts}),
        }
    ),
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(texts, tools, st.booleans())
def test_whole_to_stream_to_whole(content: str, calls: list[dict[str, Any]], logprobs: bool) -> None:
    message: dict[str, Any] = {"role": "assistant", "content": content or None}
    if calls:
        message["tool_calls"] = calls
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
    if logprobs:
        choice["logprobs"] = {"content": [{"token": "t", "logprob": -0.5}]}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    body = {"id": "c", "created": 1, "model": "m", "object": "chat.completion", "choices": [choice], "usage": usage}
    reply = Reply(body=json.dumps(body).encode(), finish_reason="stop")
    request = Request(params={"stream_options": {"include_usage": True}})

    async def streamed() -> bytes:
        return b"".join([piece async for piece in Buffered(request, reply).pieces()])

    assert json.loads(whole_of(asyncio.run(streamed()), Told()).body) == body
