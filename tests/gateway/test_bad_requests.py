"""Every bad request gets one line, a typed 4xx and the path of the field; none is a 5xx and none reaches an upstream."""

import asyncio
import contextlib
import io
import json
import string

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.errors import RequestError
from junctor.gateway.wire import parse_chat, parse_feedback

from .conftest import STREAM_HEAD, chunk, event

USER = {"role": "user", "content": "hi"}


def call(**more):
    """A good body with these fields changed."""
    return {"model": "auto", "messages": [USER], **more}


BAD = {
    "no model": ({"messages": [USER]}, "model"),
    "model null": (call(model=None), "model"),
    "model number": (call(model=3), "model"),
    "model empty": (call(model=""), "model"),
    "no messages": ({"model": "auto"}, "messages"),
    "messages empty": (call(messages=[]), "messages"),
    "messages text": (call(messages="hi"), "messages"),
    "message text": (call(messages=["hi"]), "messages[0]"),
    "no role": (call(messages=[USER, {"content": "x"}]), "messages[1].role"),
    "unknown role": (call(messages=[USER, USER, {"role": "wizard", "content": "x"}]), "messages[2].role"),
    "role number": (call(messages=[{"role": 1, "content": "x"}]), "messages[0].role"),
    "content missing": (call(messages=[{"role": "user"}]), "messages[0].content"),
    "content number": (call(messages=[{"role": "user", "content": 5}]), "messages[0].content"),
    "content object": (call(messages=[{"role": "user", "content": {"a": 1}}]), "messages[0].content"),
    "part text": (call(messages=[{"role": "user", "content": ["x"]}]), "messages[0].content[0]"),
    "part without type": (call(messages=[{"role": "user", "content": [{"text": "x"}]}]), "messages[0].content[0]"),
    "part text null": (
        call(messages=[{"role": "user", "content": [{"type": "text", "text": None}]}]),
        "messages[0].content[0].text",
    ),
    "stream text": (call(stream="yes"), "stream"),
    "stream options": (call(stream_options=[]), "stream_options"),
    "max_tokens 0": (call(max_tokens=0), "max_tokens"),
    "max_tokens huge": (call(max_tokens=10**400), "max_tokens"),
    "max_tokens of 64 bits": (call(max_completion_tokens=2**63), "max_completion_tokens"),
    "max_tokens text": (call(max_tokens="9"), "max_tokens"),
    "max_tokens true": (call(max_tokens=True), "max_tokens"),
    "max_completion_tokens -1": (call(max_completion_tokens=-1), "max_completion_tokens"),
    "n 0": (call(n=0), "n"),
    "n half": (call(n=1.5), "n"),
    "n huge": (call(n=10**30), "n"),
    "temperature 3": (call(temperature=3), "temperature"),
    "temperature text": (call(temperature="hot"), "temperature"),
    "top_p -1": (call(top_p=-1), "top_p"),
    "tools object": (call(tools={}), "tools"),
    "tool text": (call(tools=["x"]), "tools[0]"),
    "response_format text": (call(response_format="json"), "response_format"),
    "metadata list": (call(metadata=[1]), "metadata"),
    "negative budget": (call(metadata={"junctor_budget_usd": "-1"}), "metadata.junctor_budget_usd"),
    "budget text": (call(metadata={"junctor_budget_usd": "free"}), "metadata.junctor_budget_usd"),
    "budget true": (call(metadata={"junctor_budget_usd": True}), "metadata.junctor_budget_usd"),
    "deadline 0": (call(metadata={"junctor_deadline_s": 0}), "metadata.junctor_deadline_s"),
    "floor 2": (call(metadata={"junctor_quality_floor": 2}), "metadata.junctor_quality_floor"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_fields_are_named(case):
    """The error names the field and is one line with a fix."""
    body, field = BAD[case]
    with pytest.raises(RequestError) as caught:
        parse_chat(json.dumps(body).encode(), "id")
    assert caught.value.field == field
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    assert caught.value.http_status == 400


def test_unknown_role_lists_the_roles():
    """The fix of an unknown role says which there are."""
    with pytest.raises(RequestError, match=r"assistant.*developer.*system.*tool.*user"):
        parse_chat(json.dumps(call(messages=[{"role": "wizard", "content": "x"}])).encode(), "id")


RAW = {
    "empty": (b"", "is not JSON"),
    "cut": (b'{"model": "auto"', "is not JSON"),
    "two objects": (b"{}{}", "is not JSON"),
    "a list": (b"[]", "is not a JSON object"),
    "text": (b'"hi"', "is not a JSON object"),
    "invalid UTF-8": (b'{"model": "\xff\xfe"}', "is not valid UTF-8"),
    "lone surrogate": (b'{"model": "auto", "x": "\\ud800"}', "is not JSON"),
    "deep lists": (b'{"model": "auto", "x": ' + b"[" * 100_000, "nested too deeply"),
    "deep objects": (b'{"a":' * 100_000, "nested too deeply"),
    "NaN": (b'{"temperature": NaN}', "is not JSON"),
    "1e999": (b'{"temperature": 1e999}', "is not JSON"),
}


@pytest.mark.parametrize("case", RAW)
def test_bytes_that_are_no_request(case):
    """Not JSON, not UTF-8, not an object, too deep: each says so."""
    body, words = RAW[case]
    with pytest.raises(RequestError, match=words) as caught:
        parse_chat(body, "id")
    assert caught.value.field == "body"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-junctor-budget-usd", "-0.5"),
        ("x-junctor-budget-usd", "nan"),
        ("x-junctor-budget-usd", "inf"),
        ("x-junctor-deadline-s", "0"),
        ("x-junctor-deadline-s", "soon"),
        ("x-junctor-quality-floor", "1.01"),
    ],
)
def test_bad_constraint_headers_are_named(header, value):
    """NaN, infinities, negatives and words are refused in the header's own name."""
    with pytest.raises(RequestError) as caught:
        parse_chat(json.dumps(call()).encode(), "id", [(header.encode(), value.encode())])
    assert caught.value.field == header


def test_a_good_request_is_read_whole():
    """Text, needs, labels, constraints and tenant; our own metadata keys go no further, everything else does."""
    body = call(
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {"url": "u"}}]},
            {"role": "assistant", "content": None, "tool_calls": []},
        ],
        stream=True,
        n=2,
        tools=[{"type": "function", "function": {"name": "f"}}],
        response_format={"type": "json_object"},
        metadata={"dataset": "gsm8k", "junctor_budget_usd": "0.5"},
        unheard_of=[1, {"x": None}],
    )
    headers = [(b"x-junctor-deadline-s", b"2.5"), (b"x-junctor-tenant", b"acme"), (b"x-junctor-other", b"1")]
    request, model, stream = parse_chat(json.dumps(body).encode(), "dec-1", headers)
    assert (request.id, model, stream, request.text, request.tenant) == ("dec-1", "auto", True, "what", "acme")
    assert request.needs == {"vision", "n", "tools", "json"}
    assert request.labels == {"dataset": "gsm8k"}
    assert (request.constraints.budget_usd, request.constraints.deadline_s) == (0.5, 2.5)
    assert request.params["metadata"] == {"dataset": "gsm8k"}
    assert request.params["unheard_of"] == [1, {"x": None}]


def test_a_header_goes_before_metadata():
    """Both name a budget: the header counts."""
    body = json.dumps(call(metadata={"junctor_budget_usd": 1})).encode()
    request = parse_chat(body, "id", [(b"x-junctor-budget-usd", b"2")]).request
    assert request.constraints.budget_usd == 2


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(string.printable),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["model", "messages", "stream", "n", "tools", "metadata", "response_format", "max_tokens", "top_p", "z"]
)


def read_or_refused(body):
    """The parsed call, or the RequestError; anything else fails the test."""
    try:
        return parse_chat(body, "id")
    except RequestError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(FIELDS, JSON_VALUES, max_size=6), st.booleans())
@pytest.mark.slow
def test_whatever_comes_is_read_or_refused(fields, complete):
    """No JSON object makes the parser fail in any other way than with a RequestError."""
    body = json.dumps({**(call() if complete else {}), **fields}).encode()
    read = read_or_refused(body)
    if isinstance(read, RequestError):
        assert "\n" not in str(read)
    else:
        assert read.model
        assert isinstance(read.request.text, str)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "tool", "x"]), "content": JSON_VALUES}), max_size=3))
def test_whatever_messages_come_are_read_or_refused(messages):
    """The same inside messages."""
    read = read_or_refused(json.dumps(call(messages=messages)).encode())
    assert not isinstance(read, RequestError) or read.field.startswith("messages")


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({}, "decision_id"),
        ({"decision_id": 5}, "decision_id"),
        ({"decision_id": "d", "quality": "good"}, "quality"),
        ({"decision_id": "d", "quality": True}, "quality"),
        ({"decision_id": "d", "comment": 5}, "comment"),
        ({"decision_id": "d", "score": 1}, "score"),
    ],
)
def test_bad_feedback_is_named(said, field):
    """Feedback knows its fields and their types."""
    with pytest.raises(RequestError) as caught:
        parse_feedback(json.dumps(said).encode())
    assert caught.value.field == field


async def _error(reply):
    found = await reply.json()
    assert set(found["error"]) >= {"message", "type", "param", "code"}
    assert "\n" not in found["error"]["message"]
    assert "Traceback" not in found["error"]["message"]
    return reply.status, found["error"]["code"], found["error"]["param"]


async def test_errors_over_http_have_the_openai_shape(upstream, gateway):
    """Status, type, param and code for each way to go wrong; no upstream is asked and nothing is journalled."""
    up = await upstream()
    served = await gateway(up, max_body_bytes=2_000_000)
    post, get, url = served.session.post, served.session.get, served.url
    chat = url + "/v1/chat/completions"
    assert await _error(await served.chat("nope")) == (404, "model_not_found", "model")
    assert await _error(await post(chat, data=b"\xff")) == (400, "invalid_request", "body")
    assert await _error(await post(chat, data=b'{"a":' * 100_000)) == (400, "invalid_request", "body")
    assert await _error(await post(chat, json=call(messages=[]))) == (400, "invalid_request", "messages")
    assert await _error(await served.chat(headers={"x-junctor-budget-usd": "-1"})) == (
        400,
        "invalid_request",
        "x-junctor-budget-usd",
    )
    assert await _error(await post(chat, data=io.BytesIO(b"x" * 2_000_001))) == (413, "request_too_large", "body")
    assert await _error(await get(chat)) == (405, "method_not_allowed", "method")
    assert await _error(await post(url + "/v1/models")) == (405, "method_not_allowed", "method")
    assert await _error(await get(url + "/v1/nothing")) == (404, "not_found", "path")
    assert await _error(await get(url + "/v1/decisions/dec-none")) == (404, "decision_not_found", "decision_id")
    assert await _error(await get(url + "/v1/decisions/")) == (404, "decision_not_found", "decision_id")
    said = {"decision_id": "dec-none", "quality": 1}
    assert await _error(await post(url + "/v1/feedback", json=said)) == (404, "decision_not_found", "decision_id")
    assert await _error(await post(url + "/v1/feedback", json={**said, "quality": 1.5})) == (400, "invalid_request", "quality")
    assert await _error(await post(url + "/v1/feedback", json={"decision_id": "x"})) == (400, "invalid_request", "quality")
    assert up.bodies == []
    assert served.records() == []


async def test_a_body_in_chunks_is_measured_while_it_comes(upstream, gateway):
    """Without content-length the limit still holds, and the client gets its 413."""
    served = await gateway(await upstream(), max_body_bytes=100_000)

    async def endless():
        for _ in range(100):
            yield b"x" * 10_000

    reply = await served.session.post(served.url + "/v1/chat/completions", data=endless())
    assert await _error(reply) == (413, "request_too_large", "body")


async def test_a_large_prompt_works(upstream, gateway):
    """Over a megabyte of prompt is no problem, by alias and direct, and arrives whole."""
    up = await upstream()
    served = await gateway(up)
    text = "word " * 300_000
    for model in ("auto", "t0"):
        reply = await served.chat(model, messages=[{"role": "user", "content": text}])
        assert reply.status == 200, await reply.text()
    assert all(body["messages"][0]["content"] == text for body in up.bodies)


async def test_content_type_and_unicode_do_not_matter(upstream, gateway):
    """Clients that forget the content type are served; any text survives."""
    up = await upstream()
    served = await gateway(up)
    text = "żółć 漢字 🚀 \u0000 \u2028"
    body = json.dumps(call(messages=[{"role": "user", "content": text}])).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        reply = await served.session.post(served.url + "/v1/chat/completions", data=body, headers={"content-type": kind})
        assert (await reply.json())["object"] == "chat.completion"
        assert reply.status == 200, await reply.text()
    assert up.bodies[-1]["messages"][0]["content"] == text


async def test_n_over_one_is_refused_by_targets_that_cannot(upstream, gateway):
    """n=2 goes through to an upstream whose abilities are not known, and is a clear 4xx where they are."""
    import msgspec

    up = await upstream()
    served = await gateway(up)
    assert (await served.chat("t0", n=2)).status == 200
    assert up.bodies[-1]["n"] == 2
    plain = msgspec.structs.replace(served.engine.catalogue[0], capabilities=frozenset({"stream"}))
    engine = type(served.engine)(served.engine.catalogue.of([plain]), served.engine.providers)
    other = await gateway(engine=engine)
    reply = await other.chat("t0", n=2)
    assert await _error(reply) == (422, "no_target", "n")
    assert (await reply.json())["error"]["refusals"] == {"t0": "cannot do: n"}


async def test_a_bug_is_a_500_without_details(upstream, gateway, monkeypatch, caplog):
    """The process boundary: neither client nor log sees the message, which may hold a prompt."""
    served = await gateway(await upstream())

    prompt = "se" + "cret"

    def broken(*_):
        raise KeyError(prompt)

    monkeypatch.setattr(served.engine.aliases["auto"].policy, "decide", broken)
    reply = await served.chat()
    status, code, _ = await _error(reply)
    assert (status, code) == (500, "error")
    assert "secret" not in await reply.text()
    assert "secret" not in caplog.text
    assert "KeyError" in caplog.text


async def _talk(served, *parts, pause_s=0.02):
    """Send raw bytes, one write each; everything that comes back until the connection closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rsplit(":", 1)[1]))
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause_s)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.slow
async def test_a_body_that_does_not_come_is_a_408(upstream, gateway):
    """A client that declares a body and goes silent is told so, and its connection closed."""
    served = await gateway(await upstream(), body_timeout_s=0.3)
    said = await _talk(served, POST + b"content-length: 50\r\n\r\n{")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


@pytest.mark.slow
async def test_what_is_no_http_is_refused_in_the_same_shape(upstream, gateway):
    """Binary noise, two lengths, a length and chunks at once, a head that does not end: each a typed error and a close."""
    served = await gateway(await upstream())
    smuggled = POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    for bad in (b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", smuggled, POST + b"content-length: x\r\n\r\n"):
        said = await _talk(served, bad)
        assert said.startswith(b"HTTP/1.1 400 "), bad
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["param"] == "request"
    endless = await _talk(served, POST, *[b"x-%d: %s\r\n" % (i, b"y" * 9000) for i in range(9)])
    assert endless.startswith(b"HTTP/1.1 431 ")


async def test_pipelined_and_http_1_0_clients_are_served(upstream, gateway):
    """Requests in one packet are answered in order; HTTP/1.0 closes, and its stream ends with the connection."""
    served = await gateway(await upstream())
    one = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    text = await _talk(served, one + one.replace(b"/healthz", b"/v1/models?a=b") + b"GET /healthz HTTP/1.0\r\n\r\n")
    assert [text.count(b'{"status":"ok"}'), text.count(b'"object": "list"')] == [2, 1]
    assert text.index(b"ok") < text.index(b"list") < text.rindex(b"ok")
    body = json.dumps(call(stream=True)).encode()
    old = POST.replace(b"1.1", b"1.0") + b"content-length: %d\r\n\r\n" % len(body) + body
    said = await _talk(served, old)
    assert b"transfer-encoding" not in said
    assert said.endswith(b"\r\n\r\n" + said.partition(b"\r\n\r\n")[2])
    assert said.endswith(b"data: [DONE]\n\n")


async def test_slow_pipelined_requests_keep_their_order(upstream, gateway):
    """A second request that comes while the first is being answered waits for it."""
    up = await upstream()
    served = await gateway(up)
    bodies = [json.dumps(call(model="t0", seed=i)).encode() for i in range(3)]
    parts = [POST + b"content-length: %d\r\n\r\n" % len(body) + body for body in bodies]
    said = await _talk(served, b"".join(parts), b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert said.count(b"pong") == 3
    assert [body["seed"] for body in up.bodies] == [0, 1, 2]
    assert said.endswith(b'{"status":"ok"}')


async def test_small_print_of_http(upstream, gateway):
    """100-continue is answered, HEAD has no body, an upgrade is ignored, bodies may come in chunks and pieces."""
    served = await gateway(await upstream())
    body = json.dumps(call()).encode()
    length = b"content-length: %d\r\nconnection: close\r\n" % len(body)
    said = await _talk(served, POST + length + b"expect: 100-continue\r\n\r\n", body[:5], body[5:])
    assert said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    said = await _talk(served, b"HEAD /healthz HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 405 ")
    assert said.endswith(b"\r\n\r\n")
    said = await _talk(served, b"GET /healthz HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    assert said.endswith(b'{"status":"ok"}')
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head = POST + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    said = await _talk(served, head, *(chunks[i : i + 40] for i in range(0, len(chunks), 40)))
    assert b"pong" in said


async def test_a_client_that_does_not_read_is_cut_off_at_its_deadline(upstream, gateway):
    """A stream larger than every buffer, and nobody reads: the upstream is released at the deadline."""
    large = chunk(event("x" * 60_000))

    async def flood(up, reader, writer):
        writer.write(STREAM_HEAD)
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(large)
                await writer.drain()
        up.gone.set()

    up = await upstream(flood)
    served = await gateway(up)
    _, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rsplit(":", 1)[1]), limit=1024)
    body = json.dumps(call(stream=True, metadata={"junctor_deadline_s": 0.5})).encode()
    writer.write(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
    await asyncio.wait_for(up.gone.wait(), 10)
    assert served.records()[-1].error == "deadline_exceeded"
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_idle_connections_are_closed(upstream, gateway):
    """Keep-alive is not for ever."""
    from junctor.gateway.http import Server

    served = await gateway(await upstream())

    async def app(exchange):
        exchange.reply(200, [], b"")

    server = Server(app, keep_alive_s=0.1)
    listening = await asyncio.get_running_loop().create_server(server.connection, "127.0.0.1", 0)
    sweeping = asyncio.create_task(server.sweep())
    served.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        with contextlib.suppress(ConnectionError):
            await _talk(served, b"GET / HTTP/1.1\r\n\r\n")
        assert not server.connections
    finally:
        sweeping.cancel()
        listening.close()


async def test_port_in_use_is_a_typed_error(upstream, gateway):
    """The second gateway on a port gets a ConfigError that names it."""
    from junctor.errors import ConfigError
    from junctor.gateway import serve_async

    served = await gateway(await upstream())
    port = int(served.url.rsplit(":", 1)[1])
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*address already in use") as caught:
        await serve_async(served.engine, port=port)
    assert caught.value.field == "gateway.port"
    async with aiohttp.ClientSession() as session, session.get(served.url + "/healthz") as reply:
        assert reply.status == 200, await reply.text()
