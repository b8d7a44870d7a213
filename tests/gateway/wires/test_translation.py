"""Properties: what is said in one API comes out the same on the other side, whole and in pieces."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.engine.buffered import Buffered
from junctor.gateway.wires.messages import MessagesWire
from junctor.gateway.wires.messages_stream import MessagesWriter
from junctor.gateway.wires.reading import StreamReader
from junctor.gateway.wires.response_store import MemoryStore
from junctor.gateway.wires.responses import ResponsesWire
from junctor.gateway.wires.responses_call import input_turns
from junctor.providers.anthropic_answers import MessageStream, read_message
from junctor.providers.anthropic_wire import Style, message_body
from junctor.providers.base import Reply
from junctor.tenancy.contracts import ANYONE
from junctor.types import Request, Target

from .conftest import chunks, completion, pieces

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
IDS = st.text("abcXYZ019_-", min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
COUNTS = st.integers(0, 10_000)
FEW = settings(max_examples=25, deadline=None)


def block(kind: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind), **fields}, optional={"cache_control": st.just({"type": "ephemeral"})})


TEXT = block("text", text=TEXTS)
SOURCE = st.one_of(
    st.just({"type": "base64", "media_type": "image/png", "data": "AAAA"}),
    st.just({"type": "url", "url": "https://example.com/a.png"}),
)
IMAGE = block("image", source=SOURCE)
FILE = st.just({"type": "base64", "media_type": "application/pdf", "data": "AAAA"})
DOCUMENT = block("document", source=FILE, title=TEXTS)
RESULT = block("tool_result", tool_use_id=IDS, content=st.lists(TEXT | IMAGE, min_size=1, max_size=2))
THINKING = st.one_of(
    st.builds(lambda text, seal: {"type": "thinking", "thinking": text, "signature": seal}, TEXTS, IDS),
    st.builds(lambda data: {"type": "redacted_thinking", "data": data}, IDS),
)
CALL = st.fixed_dictionaries({"type": st.just("tool_use"), "id": IDS, "name": IDS, "input": OBJECTS})


@st.composite
def in_order(draw: Any, *kinds: st.SearchStrategy[Any]) -> list[Any]:
    """Blocks in the order of their kinds, at least one."""
    found = [one for kind in kinds for one in draw(st.lists(kind, max_size=2))]
    return found or [draw(kinds[-1] if len(kinds) == 1 else kinds[1])]


ASSISTANT = in_order(THINKING, TEXT, CALL)
USER = in_order(RESULT, TEXT | IMAGE | DOCUMENT)
SCHEMA = st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(TEXTS, st.just({"type": "string"}))})
TOOL = st.fixed_dictionaries({"name": IDS, "input_schema": SCHEMA}, optional={"description": TEXTS})
CHOICE = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["auto", "any"]), "disable_parallel_tool_use": st.just(True)}),
    st.just({"type": "any"}),
    st.just({"type": "none"}),
    st.fixed_dictionaries({"type": st.just("tool"), "name": IDS}),
)


@st.composite
def calls(draw: Any) -> dict[str, Any]:
    """A call of the Messages API, in the plainest of its forms."""
    turns = []
    for place in range(draw(st.integers(1, 4))):
        role, content = (("user", USER), ("assistant", ASSISTANT))[place % 2]
        turns.append({"role": role, "content": draw(content)})
    call = {"model": "m", "max_tokens": draw(st.integers(2000, 9000)), "messages": turns}
    optional = {
        "system": st.lists(TEXT, min_size=1, max_size=2),
        "stop_sequences": st.lists(TEXTS, min_size=1, max_size=2, unique=True),
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(1, 50),
        "metadata": st.fixed_dictionaries({"user_id": IDS}),
    }
    call |= draw(st.fixed_dictionaries({}, optional=optional))
    if draw(st.booleans()):
        call["tools"] = draw(st.lists(TOOL, min_size=1, max_size=2))
        call |= draw(st.fixed_dictionaries({}, optional={"tool_choice": CHOICE}))
    elif draw(st.booleans()):
        call["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    return call


def raw(found: Any) -> bytes:
    return json.dumps(found).encode()


@FEW
@given(calls())
def test_a_call_comes_out_as_it_came_in(call) -> None:
    """In through our Messages API, out through the Anthropic provider."""
    asked = MessagesWire().parse(raw(call), "dec-1", (), ANYONE)
    assert message_body(asked.request, Target(id="m"), Style(), stream=False) == call


USAGE = st.fixed_dictionaries(
    {
        "input_tokens": COUNTS,
        "cache_creation_input_tokens": COUNTS,
        "cache_read_input_tokens": COUNTS,
        "output_tokens": COUNTS,
    }
)
REASONS = st.sampled_from(["end_turn", "max_tokens", "refusal"])


@st.composite
def replies(draw: Any) -> dict[str, Any]:
    """An answer of the Messages API; neighbouring texts are one."""
    content = draw(st.lists(THINKING, max_size=2)) + draw(
        st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=1)
    )
    used = draw(st.lists(CALL, max_size=2))
    reason = "tool_use" if used else draw(REASONS)
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content + used}
    return message | {"stop_reason": reason, "stop_sequence": None, "usage": draw(USAGE)}


def asked_for(**more: Any) -> Any:
    call = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], **more}
    return MessagesWire().parse(raw(call), "dec-1", (), ANYONE)


@FEW
@given(replies())
def test_a_reply_comes_out_as_it_came_in(reply) -> None:
    """In through the Anthropic provider, out through our Messages API."""
    body = read_message(raw(reply), "m").body
    assert json.loads(MessagesWire().whole(asked_for(), body)) == reply


def test_the_stop_sequence_is_told() -> None:
    reply = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "a"}],
        "stop_reason": "stop_sequence",
        "stop_sequence": "END",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    made = json.loads(MessagesWire().whole(asked_for(stop_sequences=["END"]), read_message(raw(reply), "m").body))
    assert (made["stop_reason"], made["stop_sequence"]) == ("stop_sequence", "END")


@st.composite
def completions(draw: Any) -> dict[str, Any]:
    """A chat.completion with whatever may be in one."""
    message: dict[str, Any] = {"content": draw(st.none() | TEXTS)}
    thoughts = draw(st.lists(THINKING, max_size=2))
    if thoughts:
        message["thinking_blocks"] = thoughts
    elif draw(st.booleans()):
        message["reasoning_content"] = draw(TEXTS)
    arguments = draw(st.lists(OBJECTS, max_size=3))
    if arguments:
        message["tool_calls"] = [
            {"id": f"call_{i}", "type": "function", "function": {"name": draw(IDS), "arguments": json.dumps(found)}}
            for i, found in enumerate(arguments)
        ]
    prompt, cached, written = draw(COUNTS) + 20_000, draw(COUNTS), draw(COUNTS)
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": draw(COUNTS),
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": draw(COUNTS)},
    }
    reason = "tool_calls" if arguments else draw(st.sampled_from(["stop", "length", "content_filter"]))
    return completion(message, reason, usage)


def grouped(events: list[bytes], cuts: list[int]) -> list[bytes]:
    """The same events, several in one piece."""
    places = sorted({0, len(events), *(cut % (len(events) + 1) for cut in cuts)})
    return [b"".join(events[a:b]) for a, b in pairwise(places)]


def messages_of(out: bytes) -> dict[str, Any]:
    """What a client of the Messages API puts together from its events, which must be in order."""
    message: dict[str, Any] = {}
    parts: list[str] = []
    ended = False
    for part in out.split(b"\n\n")[:-1]:
        assert not ended
        name, data = part.split(b"\n")
        event = json.loads(data[6:])
        assert name == b"event: " + event["type"].encode()
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
            case "content_block_delta":
                assert event["index"] == len(message["content"]) - 1
                last, delta = message["content"][-1], dict(event["delta"])
                kind = delta.pop("type")
                ((field, text),) = delta.items()
                if kind == "input_json_delta":
                    parts.append(text)
                else:
                    last[field] += text
            case "content_block_stop":
                if message["content"][-1]["type"] == "tool_use":
                    message["content"][-1]["input"] = json.loads("".join(parts) or "{}")
                    parts.clear()
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
            case "message_stop":
                ended = True
    assert ended
    return message


@FEW
@given(completions(), st.integers(1, 7), st.lists(st.integers(0, 99), max_size=5))
def test_the_pieces_of_a_message_make_the_whole(body, size, cuts) -> None:
    writer = MessagesWriter("msg_1", "auto", [], lambda error: {})
    out = b"".join(writer.push(events) for events in grouped(chunks(body, size), cuts))
    assert messages_of(out) == json.loads(MessagesWire().whole(asked_for(), raw(body)))


@FEW
@given(completions(), st.integers(1, 7), st.integers(1, 50))
def test_a_stream_through_both_apis_makes_the_whole(body, size, cut) -> None:
    """Chat chunks -> Messages events -> the Anthropic provider -> chat chunks -> Messages events."""
    first = MessagesWriter("msg_1", "auto", [], lambda error: {})
    events = b"".join(first.push(piece) for piece in chunks(body, size))
    reader = MessageStream("m", with_usage=True)
    again = [reader.feed(events[i : i + cut]) for i in range(0, len(events), cut)]
    second = MessagesWriter("msg_1", "auto", [], lambda error: {})
    out = b"".join(second.push(piece) for piece in again if piece)
    whole, made = messages_of(events), messages_of(out)
    assert made["content"] == whole["content"]
    assert made["usage"] == whole["usage"]
    assert made["stop_reason"] == whole["stop_reason"]


def responses_call(**more: Any) -> tuple[ResponsesWire, Any]:
    wire = ResponsesWire(MemoryStore())
    return wire, wire.parse(raw({"model": "m", "input": "x", **more}), "dec-1", (), ANYONE)


@FEW
@given(completions(), st.integers(1, 7), st.lists(st.integers(0, 99), max_size=5))
def test_the_pieces_of_a_response_make_the_whole(body, size, cuts) -> None:
    wire, asked = responses_call()
    whole = json.loads(wire.whole(asked, raw(body)))
    kept = wire.store.find(asked.memo.owner, whole["id"])
    writer = wire.writer(asked)
    out = b"".join(writer.push(events) for events in grouped(chunks(body, size), cuts))
    events = [json.loads(part.split(b"\n")[1][6:]) for part in out.split(b"\n\n")[:-1]]
    made = events[-1]["response"]
    when = {"completed_at": 0}
    assert made | when == whole | when
    assert wire.store.find(asked.memo.owner, whole["id"]).turns == kept.turns
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for kind, field in (("output_text", "text"), ("reasoning_text", "text")):
        said = "".join(e["delta"] for e in events if e["type"] == f"response.{kind}.delta")
        parts = [p[field] for item in made["output"] for p in item.get("content") or () if p["type"] == kind]
        assert said == "".join(parts)
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert [item["id"] for item in done] == [item["id"] for item in made["output"]]


@FEW
@given(completions())
def test_a_response_goes_back_as_the_turn_that_it_was(body) -> None:
    wire, asked = responses_call()
    whole = json.loads(wire.whole(asked, raw(body)))
    message = body["choices"][0]["message"]
    turns = input_turns(whole["output"]) if whole["output"] else []
    assert len(turns) == bool(whole["output"])
    for turn in turns:
        assert turn["role"] == "assistant"
        assert turn["content"] == message["content"]
        assert turn.get("tool_calls") == message.get("tool_calls")
        assert turn.get("thinking_blocks") == message.get("thinking_blocks")


@FEW
@given(st.lists(OBJECTS, min_size=2, max_size=3), st.randoms(use_true_random=False))
def test_tool_calls_whose_pieces_are_mixed_come_out_one_after_the_other(arguments, random) -> None:
    left = [
        [{"index": i, "id": f"call_{i}", "function": {"name": f"f{i}", "arguments": ""}}]
        + [{"index": i, "function": {"arguments": text}} for text in pieces(json.dumps(found), 2)]
        for i, found in enumerate(arguments)
    ]
    reader, steps = StreamReader(), []
    while any(left):
        piece = random.choice([found for found in left if found]).pop(0)
        chunk = {"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]}
        steps += reader.push(b"data: " + raw(chunk) + b"\n\n")
    steps += reader.push(b"data: [DONE]\n\n")
    made: dict[str, str] = {}
    for step in steps:
        if step.kind == "tool":
            current = step.text
            made[current] = ""
        else:
            made[current] += step.text
    assert {name: json.loads(text) for name, text in made.items()} == {f"call_{i}": a for i, a in enumerate(arguments)}


@FEW
@given(completions())
def test_a_kept_answer_as_a_stream_makes_the_whole(body) -> None:
    """What a cache or a cascade gives as a stream: the order of the blocks is the answer's."""

    async def run() -> bytes:
        writer = MessagesWriter("msg_1", "auto", [], lambda error: {})
        asked = Request(params={"stream_options": {"include_usage": True}})
        return b"".join([writer.push(event) async for event in Buffered(asked, Reply(body=raw(body)))])

    assert messages_of(asyncio.run(run())) == json.loads(MessagesWire().whole(asked_for(), raw(body)))
