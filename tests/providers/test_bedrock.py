"""The Bedrock provider in front of a fake that verifies signatures and checks shapes; translation is tested both ways."""

import json

import pytest

from junctor.errors import ConfigError, RequestError, UpstreamBroken, UpstreamError, UpstreamGarbage, UpstreamStatus
from junctor.providers.bedrock import BedrockProvider
from junctor.registry import load
from junctor.testing import check_provider
from junctor.types import Limits, Target

from .fakes.anthropic import sign
from .fakes.bedrock import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, FakeBedrock, event, exception, failure, said
from .fakes.serving import Answer
from .fakes.talking import CLOCK, PNG, WEATHER, ask, joined, read_calls, streamed, whole

TARGET = Target(id="bed", model="anthropic.claude-sonnet-4-20250514-v1:0")
STREAM = {"content-type": "application/vnd.amazon.eventstream"}
KEYS = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
SECRETS = (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)


def settings(fake, **more):
    return {"region": fake.region, "base_url": fake.url, **KEYS, "session_token": SESSION_TOKEN, **more}


@pytest.fixture
async def fake():
    async with FakeBedrock() as server:
        yield server


@pytest.fixture
async def provider(fake):
    made = BedrockProvider.from_settings(settings(fake))
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
    assert load("provider", "bedrock") is BedrockProvider


async def test_requests_are_signed_and_the_secret_stays_here(provider, fake):
    """The fake has verified the signature; a wrong secret is found out, and nothing of it is shown."""
    await whole(provider, ask(), TARGET)
    seen = fake.seen[-1]
    assert seen.path == "/model/anthropic.claude-sonnet-4-20250514-v1%3A0/converse"
    assert SECRET_KEY not in str(seen.headers)
    wrong = BedrockProvider.from_settings(settings(fake, secret_access_key="wrong-secret"))
    with pytest.raises(UpstreamStatus) as caught:
        await whole(wrong, ask(), TARGET)
    assert (caught.value.upstream_status, caught.value.http_status) == (403, 502)
    shown = str(caught.value) + repr(wrong) + repr(vars(wrong)) + caught.value.body.decode()
    assert not any(secret in shown for secret in (*SECRETS, "wrong-secret"))
    await wrong.aclose()
    bearer = BedrockProvider.from_settings({"region": fake.region, "base_url": fake.url, "api_key": "bedrock-api-key"})
    await whole(bearer, ask(), TARGET)
    await bearer.aclose()


async def test_a_path_before_the_model_is_signed_too(fake):
    made = BedrockProvider.from_settings(settings(fake, base_url=fake.url + "/private"))
    with pytest.raises(UpstreamStatus, match="Unknown operation"):
        await whole(made, ask(), TARGET)
    await made.aclose()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tools": [WEATHER, CLOCK]},
        {"tools": [WEATHER, CLOCK], "tool_choice": {"type": "function", "function": {"name": "clock"}}},
        {"tools": [WEATHER, CLOCK], "tool_choice": "none"},
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
    body, reply = await whole(provider, request, TARGET)
    found, stream = await streamed(provider, request, TARGET)
    choice = body["choices"][0]
    assert found["content"] == (choice["message"]["content"] or "")
    assert read_calls(found) == read_calls(choice["message"])
    assert found.get("reasoning_content") == choice["message"].get("reasoning_content")
    assert found["thinking_blocks"] == choice["message"].get("thinking_blocks", [])
    assert found["finish_reason"] == choice["finish_reason"] == stream.finish_reason
    assert found["usage"] == body["usage"]
    assert stream.usage == reply.usage


@pytest.mark.parametrize("way", [whole, streamed])
async def test_tools_are_called_and_answered_and_thoughts_go_back(provider, fake, way):
    found, _ = await way(provider, ask("weather and clock please", tools=[WEATHER, CLOCK], reasoning_effort="high"), TARGET)
    said_ = found["choices"][0]["message"] if "choices" in found else {**found, "role": "assistant"}
    calls = said_["tool_calls"]
    assert said_["thinking_blocks"][0]["signature"] == sign("Let me see: weather and clock pl"[:32])
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "weather and clock please"},
        said_,
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "sunny"},
        {"role": "tool", "tool_call_id": calls[1]["id"], "content": [{"type": "text", "text": "noon"}], "is_error": True},
    ]
    body, _ = await whole(provider, ask(messages=turns, tools=[WEATHER, CLOCK], reasoning_effort="high"), TARGET)
    assert body["choices"][0]["message"]["content"] == "The tools said: sunny; noon"
    sent = fake.seen[-1].json
    assert sent["system"] == [{"text": "Be brief."}]
    assert "reasoningContent" in sent["messages"][1]["content"][0]
    assert [b["toolResult"].get("status") for b in sent["messages"][2]["content"]] == [None, "error"]


async def test_media_and_cache_points(provider, fake):
    """Bytes, not addresses; each document has a name of its own; a mark becomes a point behind what it marks."""
    parts = [
        {"type": "text", "text": "Look:", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "file", "file": {"filename": "my_report  v1.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
        {"type": "file", "file": {"file_data": "data:text/csv;base64,YSxi"}},
        {"type": "video_url", "video_url": {"url": "s3://bucket/film.mp4"}},
    ]
    body, reply = await whole(provider, ask(parts), TARGET)
    blocks = fake.seen[-1].json["messages"][0]["content"]
    assert blocks == [
        {"text": "Look:"},
        {"cachePoint": {"type": "default", "ttl": "1h"}},
        {"image": {"format": "png", "source": {"bytes": PNG}}},
        {"document": {"format": "pdf", "source": {"bytes": "JVBERi0="}, "name": "my report v1 1"}},
        {"document": {"format": "csv", "source": {"bytes": "YSxi"}, "name": "document 2"}},
        {"video": {"format": "mp4", "source": {"s3Location": {"uri": "s3://bucket/film.mp4"}}}},
    ]
    assert (reply.usage.cached_tokens, reply.usage.cache_write_tokens) == (30, 100)
    assert body["usage"]["prompt_tokens"] == reply.usage.input_tokens > 130


async def test_fields_reach_their_places(provider, fake):
    """Converse's own stay at the top, a model's own go among its fields."""
    guard = {"guardrailIdentifier": "g", "guardrailVersion": "1"}
    more = {"guardrailConfig": guard, "top_k": 5, "additionalModelRequestFields": {"x": 1}, "stop": ["END"], "top_p": 0.5}
    await whole(provider, ask(**more), Target(id="t", model="m", limits=Limits(output_tokens=77)))
    sent = fake.seen[-1].json
    assert sent["guardrailConfig"] == guard
    assert sent["additionalModelRequestFields"] == {"x": 1, "top_k": 5}
    assert sent["inferenceConfig"] == {"maxTokens": 77, "topP": 0.5, "stopSequences": ["END"]}


async def test_reasoning_and_structure_as_the_models_want_them(fake):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    asked = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    for reasoning, structured in (("effort", "native"), ("field", "tool")):
        made = BedrockProvider.from_settings(settings(fake, reasoning=reasoning, structured=structured))
        body, reply = await whole(made, ask(reasoning_effort="low", response_format=asked), TARGET)
        assert json.loads(body["choices"][0]["message"]["content"]) == {"city": "Paris"}
        assert reply.finish_reason == "stop"
        sent = fake.seen[-1].json
        found, stream = await streamed(made, ask(response_format=asked), TARGET)
        assert (json.loads(found["content"]), stream.finish_reason) == ({"city": "Paris"}, "stop")
        if reasoning == "effort":
            assert sent["outputConfig"]["effort"] == "low"
        else:
            assert sent["additionalModelRequestFields"] == {"reasoning_effort": "low"}
        await made.aclose()


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"n": 2}, "n"),
        ({"seed": 1}, "seed"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"temperature": 1.5}, "temperature"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"reasoning_effort": "low", "max_tokens": 100}, "max_completion_tokens"),
        ({"reasoning_effort": "low", "response_format": {"type": "json_object"}}, "response_format"),
        ({"content": [{"type": "image_url", "image_url": {"url": "https://x/a.png"}}]}, "messages[0].content[0]"),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}}]}, "messages[0].content[0]"),
        ({"tools": [WEATHER], "tool_choice": "none", "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "weather", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "x"}]}, "tool_choice"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_cannot_be_said_is_refused_by_name(provider, fake, more, field):
    with pytest.raises(RequestError) as caught:
        await whole(provider, ask(**more), TARGET)
    assert caught.value.field.startswith(field)
    assert fake.seen == []


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
    ],
)
@pytest.mark.parametrize("way", [whole, streamed])
async def test_stop_reasons_and_the_trace_of_a_guardrail(provider, fake, native, reason, way):
    fake.planned.append(said([{"text": "so"}], native, stream=way is streamed, trace={"guardrail": {"actionReason": "x"}}))
    found, reply = await way(provider, ask(), TARGET)
    assert (found["choices"][0] if "choices" in found else found)["finish_reason"] == reply.finish_reason == reason
    message = found["choices"][0]["message"] if "choices" in found else found
    assert message["extra_content"] == {"bedrock": {"trace": {"guardrail": {"actionReason": "x"}}}}


@pytest.mark.parametrize("stream", [False, True])
async def test_malformed_output_is_no_answer(provider, fake, stream):
    fake.planned.append(said([], "malformed_tool_use", stream=stream))
    with pytest.raises(UpstreamGarbage, match="malformed"):
        await (streamed if stream else whole)(provider, ask(), TARGET)


@pytest.mark.parametrize(
    ("status", "kind", "seen", "retryable"),
    [
        (400, "ValidationException", 400, False),
        (403, "AccessDeniedException", 502, False),
        (404, "ResourceNotFoundException", 404, False),
        (408, "ModelTimeoutException", 408, True),
        (424, "ModelErrorException", 502, True),
        (429, "ThrottlingException", 429, True),
        (500, "InternalServerException", 502, True),
        (503, "ServiceUnavailableException", 502, True),
    ],
)
@pytest.mark.parametrize("way", [whole, streamed])
async def test_error_statuses(provider, fake, status, kind, seen, retryable, way):
    fake.planned.append(failure(status, kind, f"words with {SESSION_TOKEN} in them", retry_after="3"))
    with pytest.raises(UpstreamStatus) as caught:
        await way(provider, ask(), TARGET)
    error = caught.value
    assert (error.http_status, error.retryable, error.retry_after_s) == (seen, retryable, 3.0)
    assert SESSION_TOKEN not in str(error) + error.body.decode()
    if status != 403:
        assert json.loads(error.body)["error"]["code"] == kind


THROTTLED = exception("throttlingException", f"Too many {SESSION_TOKEN}")
HELLO = [event("messageStart", role="assistant"), event("contentBlockDelta", contentBlockIndex=0, delta={"text": "Hel"})]


async def test_exceptions_in_a_stream(provider, fake):
    """Before the first word a status, after it a broken stream; what was said before is given out."""
    fake.planned += [
        Answer(headers=STREAM, pieces=[HELLO[0], THROTTLED]),
        Answer(headers=STREAM, pieces=[b"".join([*HELLO, THROTTLED])]),
    ]
    fake.planned.append(Answer(headers=STREAM, pieces=HELLO))
    with pytest.raises(UpstreamStatus) as caught:
        await streamed(provider, ask(), TARGET)
    assert (caught.value.upstream_status, SESSION_TOKEN in str(caught.value)) == (429, False)
    reply = await provider.stream(ask(), TARGET, 5.0)
    seen = []

    async def read():
        async for one in reply:
            seen.append(one)

    with pytest.raises(UpstreamBroken, match=r"Too many \*\*\*"):
        await read()
    assert joined(seen)["content"] == "Hel"
    with pytest.raises(UpstreamBroken, match="early"):
        await streamed(provider, ask(), TARGET)


GARBAGE = [
    b"", b"{", b"[]", b"null", b"<html>", b"\xff\xfe", b"{}", b'{"output":{}}', b"[" * 100_000,
    b'{"output":{"message":{"content":[5]}},"stopReason":"x"}', b'{"output":{"message":{"content":[]}}}',
    b'{"output":{"message":{"content":[{"text":5}]}},"stopReason":"end_turn"}',
]  # fmt: skip


@pytest.mark.parametrize("raw", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_is_told_as_such(provider, fake, raw):
    fake.planned += [
        Answer(body=raw),
        Answer(headers=STREAM, pieces=[raw * 20]),
        Answer(headers=STREAM, pieces=[*HELLO, raw + b"x" * 30]),
    ]
    with pytest.raises(UpstreamGarbage):
        await provider.complete(ask(), TARGET, 5.0)
    for _ in range(2):
        with pytest.raises(UpstreamError):
            await streamed(provider, ask(), TARGET)


@pytest.mark.parametrize("usage", [[], "many", {"inputTokens": "5", "outputTokens": -1}, {"inputTokens": 2.5}])
@pytest.mark.parametrize("way", [whole, streamed])
async def test_lying_usage_is_not_known(provider, fake, usage, way):
    fake.planned.append(said([{"text": "hi"}], "end_turn", usage=usage, stream=way is streamed))
    _, reply = await way(provider, ask(), TARGET)
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (None, None)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"region": "eu central"}, "region"),
        ({"region": "x.evil.example/"}, "region"),
        ({"secret_access_key": ""}, "secret_access_key"),
        ({"api_key": "hush"}, "api_key"),
        ({"session_token": "a\nhush"}, "session_token"),
        ({"base_url": "gopher://hush"}, "base_url"),
        ({"reasoning": "hush"}, "reasoning"),
    ],
)
def test_wrong_settings_are_config_errors_that_show_no_value(more, field):
    with pytest.raises(ConfigError) as caught:
        BedrockProvider.from_settings({"region": "eu-central-1", **KEYS, **more})
    assert field in str(caught.value)
    assert "hush" not in str(caught.value)
    assert SECRET_KEY not in str(caught.value)


def test_the_address_follows_from_the_region():
    assert (
        repr(BedrockProvider.from_settings({"region": "us-east-1"}))
        == "BedrockProvider('https://bedrock-runtime.us-east-1.amazonaws.com')"
    )
