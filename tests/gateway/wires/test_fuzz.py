"""Whatever arrives is read or refused by name; whatever an upstream says is passed on or told as its failure."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.errors import RequestError, UpstreamError
from junctor.gateway.wires.chat import ChatWire
from junctor.gateway.wires.every import every_wire
from junctor.gateway.wires.messages import MessagesWire, estimated_tokens
from junctor.gateway.wires.response_store import MemoryStore
from junctor.gateway.wires.responses import ResponsesWire
from junctor.providers.openai_wire import chat_body
from junctor.tenancy.contracts import ANYONE
from junctor.types import Target

from .conftest import completion

FEW = settings(max_examples=30, deadline=None)
WORDS = sorted(
    {
        *("text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking", "base64", "url", "file"),
        *("auto", "any", "tool", "none", "function", "json_schema", "json_object", "enabled", "adaptive", "user", "assistant"),
        *("system", "message", "function_call", "function_call_output", "reasoning", "input_text", "input_image", "input_file"),
        *("input_audio", "output_text", "refusal", "required", "custom", "disabled", "developer", "junctor-1.W10="),
    }
)
FIELDS = sorted(
    {
        *("type", "text", "source", "data", "media_type", "url", "id", "name", "input", "content", "tool_use_id", "thinking"),
        *("signature", "role", "call_id", "arguments", "output", "summary", "encrypted_content", "image_url", "file_data"),
        *("input_schema", "parameters", "strict", "budget_tokens", "format", "schema", "effort", "cache_control", "title"),
        *("citations", "is_error", "input_audio", "filename", "detail", "context", "user_id", "refusal", "function"),
    }
)
TOP = sorted(
    {
        *("messages", "input", "instructions", "system", "tools", "tool_choice", "thinking", "stop_sequences", "metadata"),
        *("max_tokens", "max_output_tokens", "output_config", "output_format", "text", "reasoning", "include", "truncation"),
        *("previous_response_id", "store", "stream", "temperature", "service_tier", "top_logprobs", "background"),
        *("response_format", "logit_bias", "modalities", "web_search_options", "functions", "n", "dimensions"),
    }
)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3000)
    | st.floats(allow_nan=False)
    | st.sampled_from(WORDS)
    | st.text(max_size=3)
)
ANYTHING = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=12,
)
WIRES = every_wire(MemoryStore())
PLAIN: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "x"}],
    "input": "x",
}


def read_or_refused(wire: Any, body: dict[str, Any]) -> Any:
    """The call, or None where it was refused with the name of a field."""
    refused: RequestError
    try:
        return wire.parse(json.dumps(body).encode(), "dec-1", (), ANYONE)
    except RequestError as error:
        refused = error
    assert refused.http_status in (400, 404)
    assert refused.field
    return None


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.path)
@FEW
@given(st.dictionaries(st.sampled_from(TOP), ANYTHING, max_size=4))
def test_any_fields_are_read_or_refused(wire, fields) -> None:
    asked = read_or_refused(wire, PLAIN | fields)
    if asked is not None and wire.ask is None:
        chat_body(asked.request, Target(id="m"), stream=asked.stream, usage=True)
        estimated_tokens(asked.request.params)


@pytest.mark.parametrize("wire", [MessagesWire(), ResponsesWire(MemoryStore()), ChatWire()], ids=lambda wire: wire.path)
@FEW
@given(st.lists(ANYTHING, max_size=3))
def test_any_content_is_read_or_refused(wire, content) -> None:
    for role in ("user", "assistant", "system"):
        turns = [{"role": role, "content": content}]
        read_or_refused(wire, PLAIN | {"messages": turns, "input": [*turns, *content]})


REPLY_FIELDS = st.sampled_from(["content", "refusal", "reasoning_content", "thinking_blocks", "tool_calls", "role"])
DELTAS = st.dictionaries(REPLY_FIELDS, ANYTHING, max_size=3)


@pytest.mark.parametrize("wire", [MessagesWire(), ResponsesWire(MemoryStore())], ids=lambda wire: wire.path)
@FEW
@given(DELTAS, ANYTHING, ANYTHING)
def test_any_reply_is_passed_on_or_told_as_a_failure(wire, message, usage, reason) -> None:
    asked = wire.parse(json.dumps(PLAIN).encode(), "dec-1", (), ANYONE)
    body = completion(message, reason)
    body["usage"] = usage
    with suppress(UpstreamError):
        assert json.loads(wire.whole(asked, json.dumps(body).encode()))["id"]


@pytest.mark.parametrize("wire", [MessagesWire(), ResponsesWire(MemoryStore())], ids=lambda wire: wire.path)
@FEW
@given(st.lists(DELTAS | ANYTHING, max_size=5), ANYTHING)
def test_any_stream_is_passed_on_or_told_as_a_failure(wire, deltas, usage) -> None:
    asked = wire.parse(json.dumps(PLAIN).encode(), "dec-1", (), ANYONE)
    writer = wire.writer(asked)
    events = [{"choices": [{"index": 0, "delta": delta}], "usage": usage} for delta in deltas]
    failure = None
    try:
        for event in events:
            writer.push(b"data: " + json.dumps(event).encode() + b"\n\n")
        assert writer.push(b"data: [DONE]\n\n")
    except UpstreamError as error:
        failure = error
    assert failure is None or writer.broken(failure)


def test_deep_and_long_things_are_bounded() -> None:
    for wire in WIRES:
        deep = b'{"model":"m","max_tokens":1,"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        with pytest.raises(RequestError, match="deep"):
            wire.parse(deep, "dec-1", (), ANYONE)
    many = PLAIN | {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}] * 20_000}
    assert len(MessagesWire().parse(json.dumps(many).encode(), "dec-1", (), ANYONE).request.messages) == 20_000
