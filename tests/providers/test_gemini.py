"""The Gemini provider in front of a fake that checks what it is sent; translation is tested both ways."""

import base64
import json
import struct

import pytest

from junctor.errors import ConfigError, RequestError, UpstreamBroken, UpstreamError, UpstreamGarbage, UpstreamStatus
from junctor.providers.gemini import GeminiProvider
from junctor.providers.gemini_schema import reduced
from junctor.registry import load
from junctor.testing import check_provider
from junctor.types import Limits, Request, Target

from .fakes.anthropic import sign
from .fakes.gemini import KEY, FakeGemini, event, failure, said
from .fakes.serving import Answer
from .fakes.talking import CLOCK, PNG, WEATHER, ask, read_calls, streamed, whole

TARGET = Target(id="gem", model="gemini-2.5-pro")
SSE = {"content-type": "text/event-stream"}


@pytest.fixture
async def fake():
    async with FakeGemini() as server:
        yield server


@pytest.fixture
async def provider(fake):
    made = GeminiProvider.from_settings({"base_url": fake.url, "api_key": KEY})
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
    assert load("provider", "gemini") is GeminiProvider


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
        {"stop": ["and"]},
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
    assert [c[1:] for c in read_calls(found)] == [c[1:] for c in read_calls(choice["message"])]
    assert found.get("reasoning_content") == choice["message"].get("reasoning_content")
    assert found.get("extra_content") == choice["message"].get("extra_content")
    assert found["finish_reason"] == choice["finish_reason"] == stream.finish_reason
    assert found["usage"] == body["usage"]
    assert stream.usage == reply.usage


@pytest.mark.parametrize("way", [whole, streamed])
async def test_tools_are_called_and_answered_and_signatures_go_back(provider, fake, way):
    """Two calls at once; the first carries a signature that the API wants back, the results go by name."""
    found, _ = await way(provider, ask("weather and clock please", tools=[WEATHER, CLOCK], reasoning_effort="high"))
    said_ = found["choices"][0]["message"] if "choices" in found else {**found, "role": "assistant"}
    calls = said_["tool_calls"]
    assert calls[0]["extra_content"] == {"google": {"thought_signature": sign("weather")}}
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "weather and clock please"},
        said_,
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": '{"sky": "blue"}'},
        {"role": "tool", "tool_call_id": calls[1]["id"], "content": "broken", "is_error": True},
    ]
    body, _ = await whole(provider, ask(messages=turns, tools=[WEATHER, CLOCK]))
    assert body["choices"][0]["message"]["content"] == 'The tools said: {"sky": "blue"}; broken'
    sent = fake.seen[-1].json
    assert sent["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert [c["role"] for c in sent["contents"]] == ["user", "model", "user"]
    assert sent["contents"][1]["parts"][-2]["thoughtSignature"] == sign("weather")
    assert [p["functionResponse"]["response"] for p in sent["contents"][2]["parts"]] == [{"sky": "blue"}, {"error": "broken"}]


async def test_the_signature_of_a_message_goes_back_with_its_text(provider, fake):
    found, _ = await streamed(provider, ask("hi"))
    turn = {"role": "assistant", "content": found["content"], "extra_content": found["extra_content"]}
    await whole(provider, ask(messages=[{"role": "user", "content": "hi"}, turn, {"role": "user", "content": "so?"}]))
    part = fake.seen[-1].json["contents"][1]["parts"]
    assert part == [{"text": "You said: hi", "thoughtSignature": sign("You said: hi")}]


async def test_media_are_shown(provider, fake):
    """By data and by address; the address is the upstream's to fetch."""
    parts = [
        {"type": "text", "text": "Look:", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/a.webp?x=1"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}},
        {"type": "file", "file": {"file_id": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    await whole(provider, ask(parts))
    sent = fake.seen[-1].json["contents"][0]["parts"]
    assert sent == [
        {"text": "Look:"},
        {"inlineData": {"mimeType": "image/png", "data": PNG}},
        {"fileData": {"mimeType": "image/webp", "fileUri": "https://pictures.example/a.webp?x=1"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}},
        {"fileData": {"mimeType": "application/pdf", "fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
        {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}},
    ]


async def test_settings_reach_their_places(provider, fake):
    """And the key travels in a header, never in the URL."""
    more = {
        "temperature": 1.5, "top_p": 0.5, "top_k": 3, "seed": 7, "presence_penalty": 0.5, "frequency_penalty": 0.25,
        "stop": "END", "max_completion_tokens": 99, "safetySettings": [{"category": "X", "threshold": "BLOCK_NONE"}],
    }  # fmt: skip
    await whole(provider, ask(**more))
    sent = fake.seen[-1].json
    assert sent["generationConfig"] == {
        "temperature": 1.5, "topP": 0.5, "topK": 3, "seed": 7, "presencePenalty": 0.5, "frequencyPenalty": 0.25,
        "stopSequences": ["END"], "maxOutputTokens": 99,
    }  # fmt: skip
    assert sent["safetySettings"] == more["safetySettings"]
    assert (fake.seen[-1].query, fake.seen[-1].headers["x-goog-api-key"]) == ("", KEY)
    await whole(provider, ask(), Target(id="g", model="gemini", limits=Limits(output_tokens=50)))
    assert fake.seen[-1].json["generationConfig"] == {"maxOutputTokens": 50}


async def test_reasoning_by_budget_or_by_level(provider, fake):
    await whole(provider, ask(reasoning_effort="none"))
    assert fake.seen[-1].json["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 0}
    await whole(provider, ask(reasoning_effort="low", thinking={"type": "enabled", "budget_tokens": 1500}))
    assert fake.seen[-1].json["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 1500, "includeThoughts": True}
    level = GeminiProvider.from_settings({"base_url": fake.url, "api_key": KEY, "reasoning": "level"})
    body, reply = await whole(level, ask(reasoning_effort="xhigh"))
    assert fake.seen[-1].json["generationConfig"]["thinkingConfig"] == {"thinkingLevel": "high", "includeThoughts": True}
    assert reply.usage.reasoning_tokens > 0
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == reply.usage.reasoning_tokens
    assert reply.usage.output_tokens > reply.usage.reasoning_tokens
    with pytest.raises(RequestError, match="reasoning_effort"):
        await whole(level, ask(reasoning_effort="none"))
    await level.aclose()


PLACE = {"type": "object", "properties": {"name": {"type": "string", "format": "email"}}, "additionalProperties": False}
NESTED = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "$defs": {"Place": PLACE},
    "properties": {
        "place": {"$ref": "#/$defs/Place"},
        "kind": {"const": "city"},
        "note": {"type": ["string", "null"]},
        "either": {"oneOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]},
        "maybe": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]},
    },
    "required": ["place"],
}  # fmt: skip


def test_a_schema_is_reduced_to_what_gemini_knows():
    place = {"type": "OBJECT", "properties": {"name": {"type": "STRING"}}}
    assert reduced(NESTED) == {
        "type": "OBJECT",
        "required": ["place"],
        "properties": {
            "place": place,
            "kind": {"type": "STRING", "format": "enum", "enum": ["city"]},
            "note": {"type": "STRING", "nullable": True},
            "either": {"nullable": True, "anyOf": [{"type": "INTEGER"}, {"type": "STRING"}]},
            "maybe": {**place, "nullable": True},
        },
    }


TREE = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}


@pytest.mark.parametrize(
    "schema",
    [
        TREE,
        {"type": "object", "properties": {"n": {"enum": [1, 2]}}},
        {"type": "object", "properties": {"n": {"not": {"type": "string"}}}},
        {"type": "object", "properties": {"n": {"$ref": "https://else.where/x"}}},
        {"type": "object", "properties": {"n": {"type": ["string", "integer"]}}},
        {"type": "object", "properties": {"n": {"$ref": "#/properties/n"}}},
        {"type": "object", "properties": {"n": True}},
    ],
    ids=str,
)
async def test_what_it_cannot_say_is_sent_as_json_schema(provider, fake, schema):
    """Also one that would never end written out."""
    assert reduced(schema) is None
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    await whole(provider, ask(tools=[tool], response_format=asked))
    sent = fake.seen[-1].json
    assert sent["tools"] == [{"functionDeclarations": [{"name": "f", "parametersJsonSchema": schema}]}]
    assert sent["generationConfig"]["responseJsonSchema"] == schema


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"store": True}, "store"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"messages": [{"role": "tool", "tool_call_id": "1", "content": "x"}]}, "messages[0].name"),
        ({"content": [{"type": "search_result"}]}, "messages[0].content[0]"),
    ],
    ids=str,
)
async def test_what_cannot_be_said_is_refused_by_name(provider, fake, more, field):
    with pytest.raises(RequestError) as caught:
        await whole(provider, ask(**more))
    assert caught.value.field.startswith(field)
    assert fake.seen == []


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("OTHER", "stop"),
    ],
)
@pytest.mark.parametrize("way", [whole, streamed])
async def test_stop_reasons(provider, fake, native, reason, way):
    fake.planned.append(said([{"text": "so"}], native, stream=way is streamed))
    found, reply = await way(provider, ask())
    assert (found["choices"][0] if "choices" in found else found)["finish_reason"] == reply.finish_reason == reason


@pytest.mark.parametrize("way", [whole, streamed])
async def test_a_blocked_prompt_is_an_empty_answer_by_the_filter(provider, fake, way):
    """The API answers 200 without a candidate."""
    blocked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 4}}
    fake.planned.append(
        Answer(headers=SSE, pieces=[event(blocked)]) if way is streamed else Answer(body=json.dumps(blocked).encode())
    )
    found, reply = await way(provider, ask())
    message = found["choices"][0]["message"] if "choices" in found else found
    assert (message["content"], reply.finish_reason, reply.usage.input_tokens) == ("", "content_filter", 4)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_malformed_call_is_no_answer(provider, fake, stream):
    """It can be tried elsewhere."""
    fake.planned.append(said([], "MALFORMED_FUNCTION_CALL", stream=stream))
    with pytest.raises(UpstreamGarbage, match="MALFORMED"):
        await (streamed if stream else whole)(provider, ask())


@pytest.mark.parametrize(
    ("status", "kind", "seen", "details", "wait_s"),
    [
        (400, "INVALID_ARGUMENT", 400, None, None),
        (403, "PERMISSION_DENIED", 502, None, None),
        (404, "NOT_FOUND", 404, None, None),
        (429, "RESOURCE_EXHAUSTED", 429, [{"retryDelay": "21.5s"}], 21.5),
        (429, "RESOURCE_EXHAUSTED", 429, [5, {"retryDelay": "soon"}], None),
        (500, "INTERNAL", 502, "odd", None),
        (503, "UNAVAILABLE", 502, None, None),
    ],
)
@pytest.mark.parametrize("way", [whole, streamed])
async def test_error_statuses(provider, fake, status, kind, seen, details, wait_s, way):
    fake.planned.append(failure(status, kind, f"words with {KEY} in them", details))
    with pytest.raises(UpstreamStatus) as caught:
        await way(provider, ask())
    error = caught.value
    assert (error.upstream_status, error.http_status, error.retry_after_s) == (status, seen, wait_s)
    assert KEY not in str(error) + error.body.decode()


async def test_a_wrong_key_is_the_gateway_s_own_fault(fake):
    """The API answers 400; the caller must not think that the request was wrong, nor see the key."""
    provider = GeminiProvider.from_settings({"base_url": fake.url, "api_key": "wrong-secret"})
    with pytest.raises(UpstreamStatus) as caught:
        await whole(provider, ask())
    assert (caught.value.upstream_status, caught.value.http_status) == (401, 502)
    assert "wrong-secret" not in str(caught.value) + repr(provider) + caught.value.body.decode()
    await provider.aclose()


HELLO = event({"candidates": [{"content": {"parts": [{"text": "Hel"}]}}], "responseId": "r", "modelVersion": "m"})
OVERLOADED = event({"error": {"code": 503, "message": f"overloaded {KEY}", "status": "UNAVAILABLE"}})


async def test_an_error_in_a_stream(provider, fake):
    """Before the first word it is a status, after it the stream is broken; cut short it never ends properly."""
    fake.planned += [Answer(headers=SSE, pieces=[OVERLOADED]), Answer(headers=SSE, pieces=[HELLO, OVERLOADED])]
    fake.planned.append(Answer(headers=SSE, pieces=[HELLO]))
    with pytest.raises(UpstreamStatus) as caught:
        await streamed(provider, ask())
    assert (caught.value.upstream_status, KEY in str(caught.value)) == (503, False)
    with pytest.raises(UpstreamBroken, match=r"overloaded \*\*\*"):
        await streamed(provider, ask())
    with pytest.raises(UpstreamBroken, match="early"):
        await streamed(provider, ask())


GARBAGE = [
    b"", b"{", b"[]", b"null", b"<html>", b"\xff\xfe", b"{}", b'{"candidates":{}}', b'{"candidates":[5]}', b'{"candidates":[]}',
    b'{"candidates":[{"content":{"parts":["x"]}}]}', b'{"candidates":[{"content":{"parts":[{"text":5}]}}]}',
    b'{"candidates":[{"content":{"parts":[{"functionCall":{}}]}}]}', b"[" * 100_000, b'{"promptFeedback":[]}',
]  # fmt: skip


@pytest.mark.parametrize("raw", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_is_told_as_such(provider, fake, raw):
    fake.planned += [Answer(body=raw), Answer(headers=SSE, pieces=[b"data: " + raw + b"\n\n"]), Answer(body=raw)]
    with pytest.raises(UpstreamGarbage):
        await provider.complete(ask(), TARGET, 5.0)
    with pytest.raises(UpstreamError):
        await streamed(provider, ask())
    with pytest.raises(UpstreamGarbage):
        await provider.embed(Request(params={"input": "x"}), TARGET, 5.0)


@pytest.mark.parametrize(
    "usage", [[], "many", {"promptTokenCount": "5", "candidatesTokenCount": -1}, {"promptTokenCount": 2.5}]
)
@pytest.mark.parametrize("way", [whole, streamed])
async def test_lying_usage_is_not_known(provider, fake, usage, way):
    fake.planned.append(said([{"text": "hi"}], "STOP", usage=usage, stream=way is streamed))
    _, reply = await way(provider, ask())
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (None, None)


async def test_pictures_that_were_made_and_other_parts(provider, fake):
    code = {"executableCode": {"language": "PYTHON", "code": "1"}}
    picture = {"inlineData": {"mimeType": "image/png", "data": PNG}}
    for way in (whole, streamed):
        fake.planned.append(said([code, picture], "STOP", stream=way is streamed))
        found, _ = await way(provider, ask())
        message = found["choices"][0]["message"] if "choices" in found else found
        assert message["images"] == [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]
        assert message["extra_content"] == {"google": {"parts": [code]}}


async def test_embeddings(provider, fake):
    reply = await provider.embed(Request(params={"input": ["ab", "c"], "dimensions": 2}), Target(id="e", model="embed-1"), 5.0)
    assert [row["embedding"] for row in json.loads(reply.body)["data"]] == [[0.5, 2.0], [0.5, 1.0]]
    assert fake.seen[-1].json["requests"][0]["outputDimensionality"] == 2
    reply = await provider.embed(
        Request(params={"input": "ab", "encoding_format": "base64"}), Target(id="e", model="embed-1"), 5.0
    )
    packed = json.loads(reply.body)["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == (0.5, 2.0)
    for params, field in (({"input": [1, 2]}, "input"), ({"input": "x", "brand_new": 1}, "brand_new")):
        with pytest.raises(RequestError, match=field):
            await provider.embed(Request(params=params), TARGET, 5.0)


def test_wrong_settings_are_config_errors_that_show_no_value():
    for settings, field in (
        ({"api_key": "a\nsecret"}, "api_key"),
        ({"reasoning": "secret"}, "reasoning"),
        ({"base_url": "file:///secret"}, "base_url"),
    ):
        with pytest.raises(ConfigError) as caught:
            GeminiProvider.from_settings(settings)
        assert field in str(caught.value)
        assert "secret" not in str(caught.value)


def test_a_model_s_name_cannot_leave_its_place():
    """A slash in it is quoted."""
    made = GeminiProvider.from_settings({})
    call = made.exchange(ask(), Target(id="x", model="../../v1/files?x#y"), stream=False)
    assert call.path == "/models/..%2F..%2Fv1%2Ffiles%3Fx%23y:generateContent"
