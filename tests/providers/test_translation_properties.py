"""Translation both ways, for whatever can be said: calls out, answers in, whole and in any portions, damaged or not."""

import base64
import contextlib
import copy
import itertools
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from junctor.errors import RequestError, UpstreamError
from junctor.providers import answers
from junctor.providers.anthropic import AnthropicProvider
from junctor.providers.bedrock import BedrockProvider
from junctor.providers.gemini import GeminiProvider
from junctor.types import Request, Target

from .fakes import anthropic as fake_anthropic
from .fakes import bedrock as fake_bedrock
from .fakes import gemini as fake_gemini
from .fakes import reading
from .fakes.talking import joined, read_calls

APIS = {
    "anthropic": (AnthropicProvider.from_settings({}), fake_anthropic.check_body, reading.anthropic),
    "gemini": (GeminiProvider.from_settings({}), fake_gemini.check_body, reading.gemini),
    "bedrock": (BedrockProvider.from_settings({"region": "eu-central-1"}), fake_bedrock.check_body, reading.bedrock),
}
TARGET = Target(id="t", model="m-1")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(lambda t: t.strip() == t)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(TEXT, JSON, max_size=3)
NAME = st.from_regex(r"[a-z][a-z0-9_]{0,15}", fullmatch=True)
PICTURE = st.tuples(st.sampled_from(["image/png", "image/jpeg", "image/webp"]), st.binary(min_size=1, max_size=12))
API = pytest.mark.parametrize("api", APIS)
EXAMPLES = int(os.environ.get("JUNCTOR_EXAMPLES", "20"))
"""More of them in the long form."""
QUICK = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def conversations(draw, api):
    """(messages, the plain form that they mean)."""
    messages, turns = [], []

    def say(role, items):
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(items)
        else:
            turns.append((role, list(items)))

    for number in range(draw(st.integers(1, 4))):
        parts, items = [], []
        for _ in range(draw(st.integers(1, 3))):
            part, item = draw(part_of_user(api))
            parts.append(part)
            items.append(item)
        plain = len(parts) == 1 and items[0][0] == "text" and draw(st.booleans())
        messages.append({"role": "user", "content": items[0][1] if plain else parts})
        say("user", items)
        if draw(st.booleans()):
            said, heard = draw(exchange_of_tools(number))
            messages += [said, *(message for message, _ in heard)]
            text = [("text", said["content"])] if said["content"] else []
            calls = [("call", c["function"]["name"], json.loads(c["function"]["arguments"])) for c in said["tool_calls"]]
            say("assistant", text + calls)
            say("user", [item for _, item in heard])
        elif draw(st.booleans()):
            words = draw(TEXT)
            messages.append({"role": "assistant", "content": words})
            say("assistant", [("text", words)])
    if turns[-1][0] == "assistant":
        messages.append({"role": "user", "content": "go on"})
        say("user", [("text", "go on")])
    return messages, turns


@st.composite
def part_of_user(draw, api):
    kind = draw(st.sampled_from(["text", "data"] if api == "bedrock" else ["text", "data", "url"]))
    if kind == "text":
        words = draw(TEXT)
        return {"type": "text", "text": words}, ("text", words)
    if kind == "url":
        url = "https://pictures.example/" + draw(NAME) + ".png"
        return {"type": "image_url", "image_url": {"url": url}}, ("url", url)
    type_, data = draw(PICTURE)
    coded = base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{type_};base64,{coded}"}}, ("data", type_, coded)


@st.composite
def exchange_of_tools(draw, number):
    calls, heard = [], []
    for place in range(draw(st.integers(1, 3))):
        id_, arguments = f"call_{number}_{place}", draw(ARGUMENTS)
        function = {"name": draw(NAME), "arguments": json.dumps(arguments)}
        calls.append({"id": id_, "type": "function", "function": function})
        words, failed = draw(TEXT.filter(lambda t: not t.startswith("{"))), draw(st.booleans())
        message = {"role": "tool", "tool_call_id": id_, "content": words, **({"is_error": True} if failed else {})}
        heard.append((message, ("result", words, failed)))
    content = draw(st.none() | TEXT)
    return {"role": "assistant", "content": content, "tool_calls": calls}, heard


@API
@QUICK
@given(data=st.data())
def test_a_call_says_the_same_in_the_other_api(api, data):
    """Roles, texts, pictures, tool calls and results, stops and tools; and the API's own rules hold."""
    provider, check, read = APIS[api]
    messages, turns = data.draw(conversations(api))
    system = data.draw(st.lists(TEXT, max_size=2))
    stops = data.draw(st.lists(TEXT, max_size=3))
    tools = data.draw(st.lists(NAME, max_size=3, unique=True)) or ["tool"]
    params = {
        "messages": [{"role": "system", "content": text} for text in system] + messages,
        "stop": stops,
        "tools": [
            {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"x": {}}}}}
            for name in tools
        ],
    }
    kept = copy.deepcopy(params)
    for stream in (False, True):
        body = json.loads(provider.exchange(Request(params=params), TARGET, stream=stream).body)
        check(body)
        assert read(body) == (system, turns, stops, tools)
    assert params == kept


def anthropic_answer(text, thought, calls, usage, stream):
    blocks = [{"type": "thinking", "thinking": thought, "signature": "s"}] if thought else []
    blocks += [{"type": "text", "text": text}] if text else []
    blocks += [{"type": "tool_use", "id": f"c{i}", "name": name, "input": args} for i, (name, args) in enumerate(calls)]
    fresh, made, read, written = usage
    said = {
        "input_tokens": fresh,
        "output_tokens": made,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
    }
    stop = "tool_use" if calls else "end_turn"
    return fake_anthropic.said({"model": "m", "stream": stream}, blocks, stop, usage=said)


def gemini_answer(text, thought, calls, usage, stream):
    parts = [{"text": thought, "thought": True}] if thought else []
    parts += [{"text": text}] if text else []
    parts += [{"functionCall": {"id": f"c{i}", "name": name, "args": args}} for i, (name, args) in enumerate(calls)]
    fresh, made, read, written = usage
    said = {"promptTokenCount": fresh + read + written, "candidatesTokenCount": made, "cachedContentTokenCount": read}
    return fake_gemini.said(parts, "STOP", usage=said, stream=stream)


def bedrock_answer(text, thought, calls, usage, stream):
    blocks = [{"reasoningContent": {"reasoningText": {"text": thought, "signature": "s"}}}] if thought else []
    blocks += [{"text": text}] if text else []
    blocks += [{"toolUse": {"toolUseId": f"c{i}", "name": name, "input": args}} for i, (name, args) in enumerate(calls)]
    fresh, made, read, written = usage
    said = {"inputTokens": fresh, "outputTokens": made, "cacheReadInputTokens": read, "cacheWriteInputTokens": written}
    return fake_bedrock.said(blocks, "tool_use" if calls else "end_turn", usage=said, stream=stream)


ANSWERS = {"anthropic": anthropic_answer, "gemini": gemini_answer, "bedrock": bedrock_answer}
ASKED = Request(params={"messages": [{"role": "user", "content": "x"}], "stream_options": {"include_usage": True}})
COUNT = st.integers(0, 10**6)
SAID = st.tuples(
    st.just("") | st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.just("") | TEXT,
    st.lists(st.tuples(NAME, ARGUMENTS), max_size=3),
    st.tuples(COUNT, COUNT, COUNT, COUNT),
)


def fed(reader, data, cuts):
    """Everything that comes out when the bytes come in portions."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    out = b"".join(reader.feed(data[a:b]) for a, b in itertools.pairwise(places))
    if reader.failure is not None:
        raise reader.failure
    return out if reader.done else out + reader.end()


@API
@QUICK
@given(said=SAID, cuts=st.lists(st.integers(0, 5000), max_size=30))
def test_an_answer_says_the_same_whole_and_in_any_portions(api, said, cuts):
    """Text, reasoning, tool calls, stop reason and usage."""
    text, thought, calls, (fresh, made, read, written) = said
    provider = APIS[api][0]
    call = provider.exchange(ASKED, TARGET, stream=True)
    reply = call.read(ANSWERS[api](*said, False).body)
    body = json.loads(reply.body)
    message = body["choices"][0]["message"]
    assert (message["content"] or "", message.get("reasoning_content", "")) == (text, thought)
    assert [(name, args) for _, name, args in read_calls(message)] == [tuple(one) for one in calls]
    assert reply.finish_reason == body["choices"][0]["finish_reason"] == ("tool_calls" if calls else "stop")
    usage = reply.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (fresh + read + written, made, read)
    assert body["usage"]["total_tokens"] == fresh + read + written + made
    reader = call.reader()
    out = fed(reader, b"".join(ANSWERS[api](*said, True).pieces), cuts)
    events = [event + b"\n\n" for event in out.split(b"\n\n") if event]
    assert events[-1] == answers.DONE
    found = joined(events[:-1])
    assert (found["content"], found.get("reasoning_content", "")) == (text, thought)
    assert read_calls(found) == read_calls(message)
    assert found["thinking_blocks"] == message.get("thinking_blocks", [])
    assert found["finish_reason"] == reader.finish_reason == reply.finish_reason
    assert (reader.usage, found["usage"]) == (usage, body["usage"])


@API
@QUICK
@given(said=SAID, data=st.data())
def test_damage_is_an_upstream_error_or_nothing(api, said, data):
    """Bytes cut out, changed or put in, anywhere: no other exception, never a proper end out of a stream cut short."""
    provider = APIS[api][0]
    for stream in (False, True):
        made = ANSWERS[api](*said, stream)
        good = b"".join(made.pieces) if stream else made.body
        place, size = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 20))
        bad = good[:place] + data.draw(st.binary(max_size=8)) + good[place + size :]
        call = provider.exchange(ASKED, TARGET, stream=stream)
        with contextlib.suppress(UpstreamError):
            if stream:
                fed(call.reader(), bad, [place])
            else:
                call.read(bad)


@API
@QUICK
@given(said=SAID, data=st.data())
def test_any_json_in_the_place_of_any_value_is_read_or_refused(api, said, data):
    """Also lying usage: what is counted is a whole number of 0 or more, or not known."""
    provider = APIS[api][0]
    whole = json.loads(ANSWERS[api](*said, False).body)
    spoil(whole, data)
    call = provider.exchange(ASKED, TARGET, stream=False)
    try:
        usage = call.read(json.dumps(whole).encode()).usage
    except UpstreamError:
        return
    for figure in (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.cache_write_tokens):
        assert figure is None or (type(figure) is int and figure >= 0)


def spoil(tree, data):
    """Put anything in the place of a value somewhere in it."""
    while True:
        if not tree:
            return
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(tree[key], (dict, list)) and data.draw(st.integers(0, 3)):
            tree = tree[key]
        else:
            tree[key] = data.draw(JSON | st.floats(allow_nan=False, allow_infinity=False) | st.just(-1))
            return


RICH = {
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "format": "x"}}]},
        {
            "role": "user",
            "content": [{"type": "file", "file": {"file_data": "data:text/plain;base64,AAAA", "filename": "a.b"}}],
        },
        {
            "role": "assistant",
            "content": "t",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra_content": {}}],
            "thinking_blocks": [{"type": "thinking", "thinking": "x", "signature": "s"}],
            "extra_content": {"google": {"thought_signature": "x"}},
            "cache_control": {"type": "ephemeral"},
        },
        {"role": "tool", "tool_call_id": "1", "name": "f", "content": [{"type": "text", "text": "r"}], "is_error": True},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "properties": {}}}},
    "metadata": {"user_id": "u"},
    "stop": ["x"],
    "max_tokens": 5000,
    "temperature": 0.5,
    "top_p": 0.5,
    "stream_options": {"include_usage": True},
    "output_config": {"effort": "low"},
    "generationConfig": {"topK": 3},
    "additionalModelRequestFields": {"x": 1},
    "outputConfig": {"effort": "low"},
    "service_tier": "auto",
}


@API
@QUICK
@given(data=st.data(), effort=st.booleans())
def test_any_json_in_the_place_of_any_value_of_a_call_is_written_or_refused(api, data, effort):
    """A client's mistake is a RequestError, never another exception."""
    params = copy.deepcopy(RICH)
    if effort:
        params["reasoning_effort"] = "low"
        del params["response_format"], params["tool_choice"]
    for _ in range(data.draw(st.integers(1, 3))):
        spoil(params, data)
    for style in ({}, {"structured": "tool"}):
        provider = APIS[api][0]
        if api != "gemini":
            provider = type(provider).from_settings({**({"region": "x"} if api == "bedrock" else {}), **style})
        with contextlib.suppress(RequestError):
            assert isinstance(json.loads(provider.exchange(Request(params=params), TARGET, stream=False).body), dict)
