"""The provider for OpenAI-compatible upstreams: settings, bodies, usage, events, headers; its failures are in tests/gateway."""

import asyncio
import json
import time
from email.utils import formatdate

import pytest

from junctor.errors import ConfigError, RequestError, UpstreamBroken, UpstreamGarbage, UpstreamRefused, UpstreamTimeout
from junctor.providers.openai_compatible import OpenAICompatibleProvider
from junctor.providers.openai_wire import retry_after_s
from junctor.types import Message, Request, Target

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TARGET = Target(id="gpt@high", settings={"reasoning_effort": "high", "max_tokens": 9})
DELTA = b'{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}'


@pytest.fixture
async def upstream():
    """`await upstream(part, …)` serves these parts, one write each, to every request; returns (provider, bodies)."""
    opened = []

    async def start(*parts, hold=False, **settings):
        bodies = []

        async def serve(reader, writer):
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
                    bodies.append(json.loads(await reader.readexactly(length)) | {"_head": head})
                    for part in parts:
                        writer.write(part)
                        await writer.drain()
                        await asyncio.sleep(0.005)
                    if hold:
                        await reader.read()
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        provider = OpenAICompatibleProvider(f"http://127.0.0.1:{port}/v1", **settings)
        opened.append((server, provider))
        return provider, bodies

    yield start
    for server, provider in opened:
        await provider.aclose()
        server.close()
    await asyncio.sleep(0.02)


def whole(body):
    """A plain response."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def chunked(*events):
    """A stream, one HTTP chunk per event."""
    return [HEAD, *(b"%x\r\n%s\r\n" % (len(e), e) for e in events), b"0\r\n\r\n"]


def data(event):
    """An event."""
    return b"data: " + event + b"\n\n"


async def read(provider, request=Request(text="hi"), target=TARGET):  # noqa: B008 - frozen
    """All events of a stream, and the reply."""
    reply = await provider.stream(request, target, 5.0)
    return [event async for event in reply], reply


async def test_the_target_s_settings_win_and_its_model_is_sent(upstream):
    """`model@setting` sends the model; settings go over what the caller said; stream flags are the engine's affair."""
    provider, bodies = await upstream(whole(b'{"choices":[]}'))
    params = {"model": "auto", "messages": [], "max_tokens": 99, "seed": 1, "stream": True, "stream_options": {}}
    await provider.complete(Request(params=params), TARGET, 5.0)
    sent = bodies[0]
    del sent["_head"]
    assert sent == {"model": "gpt", "messages": [], "max_tokens": 9, "seed": 1, "reasoning_effort": "high"}


async def test_a_request_without_params_becomes_messages(upstream):
    """In-process callers may give messages or just a text."""
    provider, bodies = await upstream(whole(b'{"choices":[]}'))
    await provider.complete(Request(text="hi"), TARGET, 5.0)
    await provider.complete(Request(messages=(Message("system", "s"),)), TARGET, 5.0)
    assert [b["messages"] for b in bodies] == [[{"role": "user", "content": "hi"}], [{"role": "system", "content": "s"}]]


USAGES = {
    "all": (
        {
            "prompt_tokens": 5,
            "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 3},
            "cost": 0.5,
        },
        (5, 7, 2, 3, 0.5),
    ),
    "nulls": ({"prompt_tokens": 5, "completion_tokens": None, "prompt_tokens_details": None}, (5, None, None, None, None)),
    "wrong types": ({"prompt_tokens": "5", "completion_tokens": -1, "cost": "free"}, (None, None, None, None, None)),
    "a list": ([], (None, None, None, None, None)),
    "none": (None, (None, None, None, None, None)),
}


@pytest.mark.parametrize("case", USAGES)
async def test_usage_is_read_and_the_bytes_stay_as_they_are(upstream, case):
    """What the upstream says is taken; what it says wrongly is not known, and costs no answer."""
    said, expected = USAGES[case]
    body = json.dumps({"choices": [{"finish_reason": "length"}], "usage": said, "x": 1}).encode()
    provider, _ = await upstream(whole(body))
    reply = await provider.complete(Request(text="hi"), TARGET, 5.0)
    usage = reply.usage
    found = (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens, reply.cost_usd)
    assert (reply.body, reply.finish_reason, found) == (body, "length", expected)


@pytest.mark.slow
async def test_a_stream_is_cut_into_events_however_it_arrives(upstream):
    """Events split over packets, two in one packet, CRLF, comments: whole events come out, [DONE] last."""
    first, last = data(DELTA), data(DELTA.replace(b"null", b'"stop"'))
    text = b": hello\n\n" + first + first.replace(b"\n", b"\r\n") + b": still here\n\n" + last + b"data: [DONE]\n\n"
    for size in (1, 7, 50, 10_000):
        provider, _ = await upstream(*chunked(*(text[i : i + size] for i in range(0, len(text), size))))
        events, reply = await read(provider)
        assert events == [first, first, b": still here\n\n", last, b"data: [DONE]\n\n"]
        assert reply.finish_reason == "stop"


async def test_pieces_hold_whole_events_and_done_comes_alone(upstream):
    """What arrives together is passed on together."""
    provider, _ = await upstream(*chunked(data(DELTA), data(DELTA) + data(DELTA) + b"data: [DONE]\n\n"))
    reply = await provider.stream(Request(text="hi"), TARGET, 5.0)
    pieces = [piece async for piece in reply.pieces()]
    assert b"".join(pieces) == data(DELTA) * 3 + b"data: [DONE]\n\n"
    assert pieces[-1] == b"data: [DONE]\n\n"


async def test_done_inside_the_text_is_only_text(upstream):
    """A model that writes about this protocol does not end its own stream."""
    event = data(DELTA.replace(b'"x"', b'"it ends with data: [DONE]"'))
    provider, _ = await upstream(*chunked(event, event, b"data: [DONE]\n\n"))
    events, _ = await read(provider)
    assert events == [event, event, b"data: [DONE]\n\n"]


async def test_the_last_usage_counts_and_nothing_else_is_lost(upstream):
    """Upstreams that repeat a growing usage in every chunk: the last one is taken, the chunks pass."""
    growing = [data(b'{"choices":[{"index":0}],"usage":{"prompt_tokens":3,"completion_tokens":%d}}' % n) for n in (1, 2)]
    usage = data(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":3}}')
    provider, _ = await upstream(*chunked(b"".join([data(DELTA), *growing, usage, b"data: [DONE]\n\n"])))
    events, reply = await read(provider)
    assert events == [data(DELTA), *growing, b"data: [DONE]\n\n"]
    assert reply.usage.output_tokens == 3


async def test_usage_of_a_stream_is_asked_for_and_shown_only_to_who_asked(upstream):
    """It is always read; the event is passed on only when the caller had asked, and not asked for when it is switched off."""
    usage = data(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}')
    parts = chunked(data(DELTA), usage, b"data: [DONE]\n\n")
    provider, bodies = await upstream(*parts)
    events, reply = await read(provider)
    assert usage not in events
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (3, 4)
    asked = Request(text="hi", params={"stream_options": {"include_usage": True, "other": 1}})
    events, _ = await read(provider, asked)
    assert usage in events
    assert [b["stream_options"] for b in bodies] == [{"include_usage": True}, {"include_usage": True, "other": 1}]
    quiet, bodies = await upstream(*parts, stream_usage=False)
    events, _ = await read(quiet)
    assert usage in events
    assert "stream_options" not in bodies[0]


async def test_connections_are_used_again(upstream):
    """Whole answers and finished streams give their connection back."""
    provider, _ = await upstream(*chunked(data(DELTA), b"data: [DONE]\n\n"))
    for _ in range(3):
        await read(provider)
    assert len(provider.upstream._idle) == len(provider.upstream._open) == 1


async def test_a_stream_given_up_closes_its_connection(upstream):
    """`aclose` does not leave an unfinished answer on a connection."""
    provider, _ = await upstream(HEAD, b"%x\r\n%s\r\n" % (len(data(DELTA)), data(DELTA)), hold=True)
    reply = await provider.stream(Request(text="hi"), TARGET, 5.0)
    await reply.aclose()
    await asyncio.sleep(0)
    assert not provider.upstream._idle
    assert not provider.upstream._open


async def test_an_event_without_end_is_garbage(upstream, monkeypatch):
    """An event may not grow for ever."""
    monkeypatch.setattr("junctor.providers.openai_compatible.EVENT_BYTES", 100)
    provider, _ = await upstream(*chunked(data(DELTA), b"data: " + b"x" * 200))
    reply = await provider.stream(Request(text="hi"), TARGET, 5.0)
    with pytest.raises(UpstreamGarbage, match="over 100 bytes"):
        [event async for event in reply]


async def test_silence_is_a_timeout_whole_and_streamed(upstream):
    """`timeout_s` bounds the whole answer, or the time to the first event; `read_timeout_s` every silence."""
    provider, _ = await upstream(hold=True)
    with pytest.raises(UpstreamTimeout):
        await provider.complete(Request(text="hi"), TARGET, 0.05)
    with pytest.raises(UpstreamTimeout):
        await provider.stream(Request(text="hi"), TARGET, 0.05)
    halting, _ = await upstream(HEAD, b"%x\r\n%s\r\n" % (len(data(DELTA)), data(DELTA)), hold=True, read_timeout_s=0.05)
    reply = await halting.stream(Request(text="hi"), TARGET, 5.0)
    with pytest.raises(UpstreamTimeout):
        [event async for event in reply]


async def test_nobody_there_is_refused():
    """A closed port; the error names the target and not the key."""
    provider = OpenAICompatibleProvider("http://127.0.0.1:1/v1", api_key="sk-secret")
    with pytest.raises(UpstreamRefused) as caught:
        await provider.complete(Request(text="hi"), TARGET, 5.0)
    assert caught.value.target == "gpt@high"
    assert "sk-secret" not in repr(provider) + str(caught.value)
    await provider.aclose()
    await provider.aclose()


async def test_an_error_in_the_stream_is_told_without_the_key(upstream):
    """The upstream's own words, redacted."""
    error = data(b'{"error":{"message":"bad\\nkey sk-secret"}}')
    provider, _ = await upstream(*chunked(data(DELTA), error), api_key="sk-secret")
    reply = await provider.stream(Request(text="hi"), TARGET, 5.0)
    with pytest.raises(UpstreamBroken, match=r"bad key \*\*\*"):
        [event async for event in reply]


async def test_headers_and_key_are_sent(upstream):
    """Configured headers go along; the key travels as a bearer token."""
    provider, bodies = await upstream(whole(b'{"choices":[]}'), api_key="sk-secret", headers={"x-team": "blue"})
    await provider.complete(Request(text="hi"), TARGET, 5.0)
    head = bodies[0]["_head"].lower()
    assert b"authorization: bearer sk-secret" in head
    assert b"x-team: blue" in head


async def test_what_is_no_json_cannot_be_sent(upstream):
    """In-process callers hear of it as their own mistake."""
    provider, _ = await upstream()
    with pytest.raises(RequestError):
        await provider.complete(Request(params={"messages": [], "x": object()}), TARGET, 5.0)


async def test_a_new_event_loop_gets_new_connections(upstream):
    """A session belongs to one loop; another loop makes its own."""
    provider, _ = await upstream(whole(b'{"choices":[]}'))
    await provider.complete(Request(text="hi"), TARGET, 5.0)
    assert provider.upstream._idle

    def elsewhere():
        async def run():
            with pytest.raises(UpstreamRefused):
                await OpenAICompatibleProvider.complete(provider, Request(text="hi"), TARGET, 5.0)
            assert not provider.upstream._idle
            await provider.aclose()

        provider.upstream.port = 1
        asyncio.run(run())

    connection = provider.upstream._idle[0]
    await asyncio.to_thread(elsewhere)
    connection.abort()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({}, "base_url"),
        ({"base_url": 5}, "base_url"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "nonsense"}, "base_url"),
        ({"base_url": "http://user:hush-secret@x/v1"}, "base_url"),
        ({"base_url": "http://x", "timeout": 5}, "timeout"),
        ({"base_url": "http://x", "headers": {"a": 1}}, "headers"),
        ({"base_url": "http://x", "connect_timeout_s": 0}, "connect_timeout_s"),
        ({"base_url": "http://x", "read_timeout_s": -1}, "read_timeout_s"),
        ({"base_url": "http://x", "headers": {"a": "b\r\nc: d"}}, "headers"),
        ({"base_url": "http://x", "api_key": "sk\nsecret"}, "api_key"),
    ],
)
def test_wrong_settings_are_config_errors_that_show_no_value(settings, field):
    """The key is named, its value never."""
    with pytest.raises(ConfigError) as caught:
        OpenAICompatibleProvider.from_settings(settings)
    assert field in str(caught.value)
    assert "secret" not in str(caught.value)


def test_good_settings_make_a_provider():
    """All keys at once."""
    made = OpenAICompatibleProvider.from_settings(
        {
            "base_url": "https://host/v1/",
            "api_key": "k",
            "headers": {"a": "b"},
            "connect_timeout_s": 1,
            "read_timeout_s": 2,
            "stream_usage": False,
        }
    )
    assert repr(made) == "OpenAICompatibleProvider('https://host/v1')"
    assert (made.upstream.connect_timeout_s, made.upstream.read_timeout_s, made.stream_usage) == (1, 2, False)


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), (" 1.5 ", 1.5), ("", None), ("soon", None), ("-3", None)])
def test_retry_after_in_seconds(value, seconds):
    """A number of seconds, or nothing."""
    assert retry_after_s(value) == seconds


def test_retry_after_as_a_date():
    """An HTTP date counts from now; one that has passed is zero."""
    assert 50 < retry_after_s(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
