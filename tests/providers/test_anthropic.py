"""The Anthropic provider in front of a fake that checks what it is sent; translation is tested both ways."""

import json

import pytest

from junctor.errors import ConfigError, RequestError, UpstreamBroken, UpstreamError, UpstreamGarbage, UpstreamStatus
from junctor.providers.anthropic import AnthropicProvider
from junctor.registry import load
from junctor.testing import check_provider
from junctor.types import Limits, Target

from .fakes.anthropic import KEY, FakeAnthropic, event, failure, message, said, sign, stream_of
from .fakes.serving import Answer
from .fakes.talking import CLOCK, PNG, WEATHER, ask, joined, read_calls, streamed, whole

TARGET = Target(id="claude", model="claude-sonnet-4-5")


@pytest.fixture
async def fake():
    async with FakeAnthropic() as server:
        yield server


@pytest.fixture
async def provider(fake):
    made = AnthropicProvider.from_settings({"base_url": fake.url, "api_key": KEY})
    yield made
    await made.aclose()


async def test_it_keeps_the_contract_of_a_provider(provider):
    await check_provider(provider, TARGET, ask())


async def test_connections_are_used_again_and_given_up(provider, fake):
    """Whole answers and streams read to their end give their connection back; a stream given up closes it."""
    for _ in range(2):
        await whole(provider, ask(), TARGET)
        await streamed(provider, ask(), TARGET)
    assert fake.connections == 1
    stream = await provider.stream(ask("a long story " * 2000), TARGET, 5.0)
    await stream.aclose()
    await whole(provider, ask(), TARGET)
    assert fake.connections == 2


def test_it_is_registered():
    assert load("provider", "anthropic") is AnthropicProvider


async def test_tools_are_called_and_answered(provider, fake):
    """Two calls at once, arguments whole; their results come back, and the assistant's turn with them."""
    body, reply = await whole(provider, ask("weather and clock please", tools=[WEATHER, CLOCK]))
    calls = body["choices"][0]["message"]["tool_calls"]
    assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls] == [
        ("weather", {"city": "Paris", "days": 7}),
        ("clock", {}),
    ]
    assert (body["choices"][0]["finish_reason"], reply.finish_reason) == ("tool_calls", "tool_calls")
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "weather and clock please"},
        body["choices"][0]["message"],
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "sunny"},
        {"role": "tool", "tool_call_id": calls[1]["id"], "content": [{"type": "text", "text": "noon"}], "is_error": True},
        {"role": "user", "content": "Well?"},
    ]
    body, _ = await whole(provider, ask(messages=turns, tools=[WEATHER, CLOCK]))
    assert body["choices"][0]["message"]["content"] == "The tools said: sunny; noon"
    sent = fake.seen[-1].json
    assert sent["system"] == [{"type": "text", "text": "Be brief."}]
    assert [m["role"] for m in sent["messages"]] == ["user", "assistant", "user"]
    assert [b["type"] for b in sent["messages"][2]["content"]] == ["tool_result", "tool_result", "text"]
    assert sent["messages"][2]["content"][1]["is_error"] is True


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tools": [WEATHER, CLOCK]},
        {"tools": [WEATHER, CLOCK], "tool_choice": "required", "parallel_tool_calls": False},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "low", "tools": [WEATHER]},
        {"response_format": {"type": "json_object"}},
        {"stop": "and"},
        {"max_tokens": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [0, 1])
async def test_a_stream_adds_up_to_the_whole_answer(provider, fake, more, size):
    """However its bytes arrive."""
    fake.piece_bytes = size
    request = ask("weather and clock — très bien", stream_options={"include_usage": True}, **more)
    body, reply = await whole(provider, request)
    found, stream = await streamed(provider, request)
    choice = body["choices"][0]
    assert found["content"] == (choice["message"]["content"] or "")
    assert read_calls(found) == read_calls(choice["message"])
    assert found.get("reasoning_content") == choice["message"].get("reasoning_content")
    assert found["thinking_blocks"] == choice["message"].get("thinking_blocks", [])
    assert found["finish_reason"] == choice["finish_reason"] == stream.finish_reason
    assert found["usage"] == body["usage"]
    assert stream.usage == reply.usage


async def test_thinking_blocks_go_back_as_they_came(provider, fake):
    """Signed thoughts before the call of a tool are taken by an API that checks their signature."""
    request = ask("weather please", tools=[WEATHER], reasoning_effort="high")
    for way in (whole, streamed):
        found, _ = await way(provider, request)
        message_ = found["choices"][0]["message"] if "choices" in found else {**found, "role": "assistant"}
        assert message_["reasoning_content"] == "Let me see: weather please"
        assert message_["thinking_blocks"][0]["signature"] == sign("Let me see: weather please")
        turns = [
            {"role": "user", "content": "weather please"},
            message_,
            {"role": "tool", "tool_call_id": message_["tool_calls"][0]["id"], "content": "rain"},
        ]
        body, _ = await whole(provider, ask(messages=turns, tools=[WEATHER], reasoning_effort="high"))
        assert body["choices"][0]["message"]["content"] == "The tools said: rain"
        assert fake.seen[-1].json["messages"][1]["content"][0]["type"] == "thinking"


async def test_reasoning_effort_becomes_a_budget_within_the_limit(provider, fake):
    """The default limit grows with it; the caller's own is kept, and one too small is refused with a reason."""
    sent = []
    for more in ({}, {"max_tokens": 3000}, {"thinking": {"type": "adaptive"}}):
        await whole(provider, ask(reasoning_effort="medium", **more))
        sent.append((fake.seen[-1].json["max_tokens"], fake.seen[-1].json["thinking"]))
    assert sent == [
        (8192 + 4096, {"type": "enabled", "budget_tokens": 8192}),
        (3000, {"type": "enabled", "budget_tokens": 2999}),
        (4096, {"type": "adaptive"}),
    ]
    with pytest.raises(RequestError, match="max_completion_tokens"):
        await whole(provider, ask(reasoning_effort="medium", max_tokens=500))
    small = Target(id="s", limits=Limits(output_tokens=2000))
    await whole(provider, ask(reasoning_effort="high"), small)
    assert (fake.seen[-1].json["max_tokens"], fake.seen[-1].json["thinking"]["budget_tokens"]) == (2000, 1999)


async def test_adaptive_reasoning_says_effort(fake):
    provider = AnthropicProvider.from_settings({"base_url": fake.url, "api_key": KEY, "reasoning": "adaptive"})
    await whole(provider, ask(reasoning_effort="high"))
    assert fake.seen[-1].json["thinking"] == {"type": "adaptive"}
    assert fake.seen[-1].json["output_config"] == {"effort": "high"}
    await provider.aclose()


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False}
ASKED = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}


async def test_a_json_schema_is_asked_for_natively_or_through_a_tool(provider, fake):
    """Newer models have structured output; older ones are made to call a tool, and nobody sees it."""
    body, _ = await whole(provider, ask(response_format=ASKED))
    assert json.loads(body["choices"][0]["message"]["content"]) == {"city": "Paris"}
    assert fake.seen[-1].json["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    older = AnthropicProvider.from_settings({"base_url": fake.url, "api_key": KEY, "structured": "tool"})
    for way in (whole, streamed):
        found, reply = await way(older, ask(response_format=ASKED))
        text = found["choices"][0]["message"]["content"] if "choices" in found else found["content"]
        assert json.loads(text) == {"city": "Paris"}
        assert reply.finish_reason == "stop"
    with pytest.raises(RequestError, match="response_format"):
        await whole(older, ask(response_format=ASKED, reasoning_effort="low"))
    await older.aclose()


async def test_pictures_and_documents_are_shown(provider, fake):
    """By data and by address; the address is the upstream's to fetch."""
    parts = [
        {"type": "text", "text": "Look:", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png", "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,aGVsbG8="}},
    ]
    body, reply = await whole(provider, ask(parts))
    blocks = fake.seen[-1].json["messages"][0]["content"]
    assert [b["type"] for b in blocks] == ["text", "image", "image", "document", "document"]
    assert blocks[0]["cache_control"] == {"type": "ephemeral"}
    assert blocks[1]["source"] == {"type": "base64", "media_type": "image/png", "data": PNG}
    assert blocks[2]["source"] == {"type": "url", "url": "https://pictures.example/a.png"}
    assert blocks[3]["title"] == "a.pdf"
    assert blocks[4]["source"] == {"type": "text", "media_type": "text/plain", "data": "hello"}
    usage = body["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 30, "cache_write_tokens": 100}
    assert usage["prompt_tokens"] == reply.usage.input_tokens
    assert (reply.usage.cached_tokens, reply.usage.cache_write_tokens) == (30, 100)
    assert reply.usage.input_tokens > 130


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"seed": 0}, "seed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"store": True}, "store"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"temperature": 1.5}, "temperature"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"tool_choice": {"type": "custom"}, "tools": [WEATHER]}, "tool_choice"),
        ({"stop": 5}, "stop"),
        ({"content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]}, "messages[0].content[0]"),
        ({"content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}, "messages[0].content[0].image_url"),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}}]}, "messages[0].content[0]"),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,A!"}}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "x", "name": "bob"}]}, "messages[0].name"),
        ({"messages": [{"role": "function", "content": "x", "name": "f"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]}]},
         "messages[0].tool_calls[0].function.arguments"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_cannot_be_said_is_refused_by_name(provider, fake, more, field):
    """Nothing is dropped in silence, and nobody is called."""
    with pytest.raises(RequestError) as caught:
        await whole(provider, ask(**more))
    assert caught.value.field.startswith(field)
    assert fake.seen == []


async def test_what_the_operator_ignores_is_left_out(fake):
    provider = AnthropicProvider.from_settings({"base_url": fake.url, "api_key": KEY, "ignore": ["seed", "name"]})
    await whole(provider, ask(messages=[{"role": "user", "content": "x", "name": "bob"}], seed=5))
    assert "seed" not in fake.seen[-1].json
    await provider.aclose()


async def test_defaults_said_aloud_and_unknown_fields(provider, fake):
    """A default is no demand; what is not the chat API's own goes through and is the upstream's to judge."""
    await whole(provider, ask(n=1, logprobs=False, frequency_penalty=0, seed=None, store=False, user="u1", top_k=5))
    sent = fake.seen[-1].json
    assert set(sent) == {"model", "messages", "max_tokens", "metadata", "top_k"}
    assert (sent["metadata"], sent["model"], sent["max_tokens"]) == ({"user_id": "u1"}, "some-model", 4096)
    with pytest.raises(UpstreamStatus, match="brand_new: Extra inputs"):
        await whole(provider, ask(brand_new=1))


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_stop_reasons(provider, fake, stop, reason, stream):
    """OpenAI's word, and the API's own beside it."""
    more = {"stop_details": {"type": "refusal", "explanation": "No."}} if stop == "refusal" else {}
    body = {"model": "m", "stream": stream, "stop_sequences": ["#"]}
    fake.planned.append(said(body, [{"type": "text", "text": "so"}], stop, **more))
    if stream:
        reply = await provider.stream(ask(), TARGET, 5.0)
        events = [e async for e in reply]
        choice = next(c for e in events[:-1] for c in json.loads(e[6:])["choices"] if c["finish_reason"])
        assert (b'"refusal":"No."' in b"".join(events)) == bool(more)
    else:
        found, reply = await whole(provider, ask())
        choice = found["choices"][0]
        assert choice["message"]["refusal"] == ("No." if more else None)
    assert (choice["finish_reason"], choice["native_finish_reason"], reply.finish_reason) == (reason, stop, reason)
    assert choice.get("stop_reason") == ("#" if stop == "stop_sequence" else None)


@pytest.mark.parametrize(
    ("status", "kind", "retryable", "seen"),
    [
        (400, "invalid_request_error", False, 400),
        (401, "authentication_error", False, 502),
        (403, "permission_error", False, 502),
        (404, "not_found_error", False, 404),
        (413, "request_too_large", False, 413),
        (429, "rate_limit_error", True, 429),
        (500, "api_error", True, 502),
        (529, "overloaded_error", True, 502),
    ],
)
@pytest.mark.parametrize("way", [whole, streamed])
async def test_error_statuses(provider, fake, status, kind, retryable, seen, way):
    """Each with its words in OpenAI's shape, unless they are about our key; Retry-After is read."""
    fake.planned.append(failure(status, kind, f"words with {KEY} in them", retry_after="7"))
    with pytest.raises(UpstreamStatus) as caught:
        await way(provider, ask())
    error = caught.value
    assert (error.upstream_status, error.retryable, error.http_status, error.retry_after_s) == (status, retryable, seen, 7.0)
    assert KEY not in str(error) + error.body.decode()
    if status not in (401, 403):
        said_ = json.loads(error.body)["error"]
        assert (said_["message"], said_["code"]) == ("words with *** in them", kind)


async def test_secrets_in_headers_are_not_shown_either(fake):
    """What a proxy on the way wants, for example."""
    headers = {"x-proxy-authorization": "Bearer hush-hush", "x-team": "blue"}
    made = AnthropicProvider.from_settings({"base_url": fake.url, "api_key": KEY, "headers": headers})
    fake.planned.append(failure(400, "invalid_request_error", "hush-hush of blue"))
    with pytest.raises(UpstreamStatus, match=r"\*\*\* of blue"):
        await whole(made, ask())
    assert fake.seen[-1].headers["x-proxy-authorization"] == "Bearer hush-hush"
    await made.aclose()


async def test_a_wrong_key_is_not_shown(fake):
    provider = AnthropicProvider.from_settings({"base_url": fake.url, "api_key": "sk-wrong-secret"})
    with pytest.raises(UpstreamStatus) as caught:
        await whole(provider, ask())
    assert "sk-wrong" not in str(caught.value) + repr(provider) + caught.value.body.decode()
    await provider.aclose()


def start(**more):
    return event("message_start", message=message({}, [], None, **more))


HELLO = [
    start(),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hel"}),
]
OVERLOADED = event("error", error={"type": "overloaded_error", "message": f"Overloaded {KEY}"})
SSE = {"content-type": "text/event-stream"}


async def test_an_error_before_the_first_word_is_a_status(provider, fake):
    """The stream had begun, but nobody has heard anything: another target can still take it."""
    fake.planned.append(Answer(headers=SSE, pieces=[start(), event("ping"), OVERLOADED]))
    with pytest.raises(UpstreamStatus) as caught:
        await provider.stream(ask(), TARGET, 5.0)
    assert (caught.value.upstream_status, caught.value.retryable) == (529, True)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("joined_up", [False, True])
async def test_an_error_after_the_first_word_breaks_the_stream(provider, fake, joined_up):
    """What was said before it is given out."""
    pieces = [*HELLO, OVERLOADED]
    fake.planned.append(Answer(headers=SSE, pieces=[b"".join(pieces)] if joined_up else pieces))
    reply = await provider.stream(ask(), TARGET, 5.0)
    seen = []

    async def read():
        async for e in reply:
            seen.append(e)

    with pytest.raises(UpstreamBroken, match=r"Overloaded \*\*\*"):
        await read()
    assert joined(seen)["content"] == "Hel"


@pytest.mark.parametrize("kept", range(1, 8))
async def test_a_stream_cut_short_is_broken(provider, fake, kept):
    """Never a proper end."""
    events = stream_of(message({}, [{"type": "text", "text": "Hello"}], "end_turn"))
    assert len(events) == 7
    fake.planned.append(Answer(headers=SSE, pieces=events[:kept]))
    if kept == 7:
        await streamed(provider, ask())
        return
    with pytest.raises(UpstreamBroken):
        await streamed(provider, ask())


GARBAGE = [
    b"", b"{", b"[]", b"null", b'"x"', b"<html>", b"\xff\xfe", b'{"type":"message"}', b'{"id":1,"type":"message"}',
    b'{"id":"m","type":"error","model":"c","content":[]}', b'{"id":"m","type":"message","model":"c","content":[{}]}',
    b'{"id":"m","type":"message","model":"c","content":[5]}', b'{"id":"m","type":"message","model":"c","content":"hi"}',
    b'{"id":"m","type":"message","model":"c","content":[{"type":"text","text":"\xff"}]}', b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("raw", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_is_told_as_such(provider, fake, raw):
    fake.planned += [Answer(body=raw), Answer(headers=SSE, pieces=[b"data: " + raw + b"\n\n"]), Answer(body=raw)]
    with pytest.raises(UpstreamGarbage):
        await provider.complete(ask(), TARGET, 5.0)
    with pytest.raises(UpstreamError):
        await streamed(provider, ask())
    with pytest.raises(UpstreamGarbage, match="not one"):
        await provider.stream(ask(), TARGET, 5.0)


@pytest.mark.parametrize("usage", [None, [], "many", {"input_tokens": "5", "output_tokens": -1}, {"input_tokens": 2.5}])
async def test_lying_usage_is_not_known(provider, fake, usage):
    """And costs no answer."""
    for stream in (False, True):
        whole_ = message({}, [{"type": "text", "text": "hi"}], "end_turn") | {"usage": usage}
        if stream:
            events = stream_of({**whole_, "usage": {"output_tokens": None}})
            events[0] = event("message_start", message={**whole_, "content": []})
            fake.planned.append(Answer(headers=SSE, pieces=events))
            _, reply = await streamed(provider, ask())
        else:
            fake.planned.append(Answer(body=json.dumps(whole_).encode()))
            _, reply = await whole(provider, ask())
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == (None, None)


async def test_blocks_of_other_kinds_are_carried(provider, fake):
    """Server tools and citations have no place in a chat completion, so they come beside it."""
    search = {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "x"}}
    fake.planned.append(said({"model": "m"}, [search, {"type": "text", "text": "hi"}], "end_turn"))
    body, _ = await whole(provider, ask())
    assert body["choices"][0]["message"]["extra_content"] == {"anthropic": {"blocks": [search]}}


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"base_url": 5}, "base_url"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "http://user:hush-secret@x"}, "base_url"),
        ({"base_url": "http://x?key=hush-secret"}, "base_url"),
        ({"api_key": "sk\nsecret"}, "api_key"),
        ({"api_key": "schlüssel-secret"}, "api_key"),
        ({"headers": {"a": "b\r\nc: secret"}}, "headers"),
        ({"structured": "maybe"}, "structured"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"connect_timeout_s": 0}, "connect_timeout_s"),
        ({"key": "secret"}, "key"),
    ],
    ids=str,
)
def test_wrong_settings_are_config_errors_that_show_no_value(settings, field):
    with pytest.raises(ConfigError) as caught:
        AnthropicProvider.from_settings(settings)
    assert field in str(caught.value)
    assert "secret" not in str(caught.value)
