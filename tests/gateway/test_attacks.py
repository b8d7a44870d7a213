"""What somebody tries who wants to get past the gateway, wear it out, or be taken for another."""

from __future__ import annotations

import asyncio
import io
import itertools
import json

import pytest

from junctor.config import parse_config
from junctor.gateway import serve_async
from junctor.gateway.assembly import assemble
from junctor.gateway.reloading import _close_later
from junctor.gateway.replies import header_text

from .conftest import Served
from .test_bad_requests import call
from .test_keys import bearer, keyed, spent

__all__ = ["keyed"]

CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


async def connect(served: Served):
    return await asyncio.open_connection("127.0.0.1", int(served.url.rsplit(":", 1)[1]))


async def said(served: Served, data: bytes) -> bytes:
    """What comes back until the connection ends."""
    reader, writer = await connect(served)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def posted(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (lines, len(body), body)


# the wire

AMBIGUOUS = {
    "two lengths": b"content-length: 1\r\ncontent-length: 2\r\n\r\nxx",
    "a list of lengths": b"content-length: 1, 1\r\n\r\nx",
    "a signed length": b"content-length: +1\r\n\r\nx",
    "a length that overflows": b"content-length: 99999999999999999999999\r\n\r\nx",
    "length and chunks": b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks that are none": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks, then more": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunks twice": b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "a blank before the colon": b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded header": b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "lines that end too early": b"x-a: b\nx-c: d\r\n\r\n",
    "a return in a value": b"x-a: b\rx-c: d\r\n\r\n",
    "a zero in a value": b"x-a: b\0c\r\n\r\n",
    "a hexadecimal prefix": b"transfer-encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
    "a chunk that overflows": b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff1\r\nx\r\n0\r\n\r\n",
    "chunks that end too early": b"transfer-encoding: chunked\r\n\r\n1\nx\n0\n\n",
}


@pytest.mark.slow
async def test_what_two_servers_could_read_differently_is_refused(upstream, gateway) -> None:
    """Each is one typed 400 and the end of the connection; nothing behind it is taken for a request."""
    up = await upstream()
    served = await gateway(up)
    behind = posted(json.dumps(call()).encode())
    cases = [b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + rest + behind for rest in AMBIGUOUS.values()]
    cases.append(b"POST /v1/chat/completions HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + behind)
    for case, answer in zip(cases, await asyncio.gather(*(said(served, case) for case in cases)), strict=True):
        assert answer.startswith(b"HTTP/1.1 400 "), case
        assert answer.count(b"\r\ndate: ") == 1, case
    assert up.bodies == []


async def test_what_stands_behind_a_body_is_no_header(upstream, gateway) -> None:
    """Trailers say nothing: not who calls, and not what he may."""
    served = await gateway(await upstream())
    body = json.dumps(call()).encode()
    reader, writer = await connect(served)
    writer.write(CHUNKED + b"%x\r\n%b\r\n0\r\nx-junctor-tenant: theirs\r\nx-junctor-budget-usd: no\r\n\r\n" % (len(body), body))
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert served.records()[0].tenant == ""


@pytest.mark.parametrize("start", [b"0\r\n", b"0\r\nx: ", b"1;"], ids=["trailers", "one trailer", "extension"])
async def test_what_is_no_body_is_bounded_behind_the_head_too(upstream, gateway, start) -> None:
    """Neither trailers nor extensions of chunks fill the memory."""
    served = await gateway(await upstream())
    reader, writer = await connect(served)
    writer.write(CHUNKED + start)
    for number in range(40):
        writer.write(b"x%d: %b\r\n" % (number, b"y" * 9000) if start == b"0\r\n" else b"y" * 9000)
        await asyncio.sleep(0)
    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 431 ")
    writer.close()


async def test_large_bodies_in_small_chunks_are_no_attack(upstream, gateway) -> None:
    """A bound on what is no body does not hit those who send much, slowly and in many pieces."""
    up = await upstream()
    served = await gateway(up)
    body = json.dumps(call(messages=[{"role": "user", "content": "word " * 40_000}])).encode()
    reader, writer = await connect(served)
    writer.write(CHUNKED)
    for at in range(0, len(body), 50_000):
        pieces = [body[i : i + 20] for i in range(at, min(at + 50_000, len(body)), 20)]
        writer.write(b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces))
        await writer.drain()
        await asyncio.sleep(0.01)
    writer.write(b"0\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert len(up.bodies[0]["messages"][0]["content"]) == 200_000


@pytest.mark.parametrize("pieces", [1, 2, 3])
async def test_a_client_that_offers_http_2_is_served(upstream, gateway, pieces) -> None:
    """The HTTP client of Java asks for h2c with every POST in clear; its body is no second request."""
    up = await upstream()
    served = await gateway(up)
    offer = (b"connection: Upgrade, HTTP2-Settings", b"http2-settings: AAEAAEAAAAIAAAAB", b"upgrade: h2c")
    data = posted(json.dumps(call(user="GET /v1/models HTTP/1.1\r\n\r\n")).encode(), *offer)
    head = data.index(b"\r\n\r\n") + 4
    cuts = [0, len(data)] if pieces == 1 else [0, head, len(data)] if pieces == 2 else [0, head + 9, head + 20, len(data)]
    reader, writer = await connect(served)
    for start, end in itertools.pairwise(cuts):
        writer.write(data[start:end])
        await asyncio.sleep(0.02)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"\r\ndate: ") == 1
    assert len(up.bodies) == 1
    assert (await said(served, b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nxx")).startswith(b"HTTP/1.1 404 ")


# pages of other sites, shown by a browser of this machine


@pytest.fixture
async def open_to_neighbours(upstream, tmp_path):
    """A gateway without keys, from a configuration, as `junctor serve` puts it together."""
    up = await upstream()
    config = parse_config(
        {
            "journal": {"path": ""},
            "providers": {"up": {"kind": "openai_compatible", "base_url": up.url}},
            "targets": {"t0": {"provider": "up", "model": "up"}},
            "telemetry": {"dashboard_hosts": ["gateway.example"]},
        },
        folder=tmp_path,
    )
    assembled = assemble(config)
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve_async(assembled.gateway, port=0, on_ready=lambda _, port: ready.set_result(port), until=stop)
    )
    yield await ready, up
    stop.set()
    await serving


FOREIGN = [
    (b"host: evil.example:8080",),
    (b"host: 127.0.0.1.evil.example",),
    (b"host: 127.0.0.1:8080", b"origin: https://evil.example"),
    (b"host: localhost", b"origin: null"),
    (b"host: localhost", b"origin: https://localhost.evil.example"),
    (b"host: localhost", b"origin: http://localhost@evil.example"),
    (b"host: [::2]",),
]
NEAR = [
    (b"host: 127.0.0.1:8080",),
    (b"host: localhost", b"origin: http://localhost:3000"),
    (b"host: [::1]:8080",),
    (b"host: host.docker.internal:8080",),
    (b"host: GATEWAY.example",),
    (),
]


async def test_without_keys_no_other_site_may_ask_through_a_browser(open_to_neighbours) -> None:
    """Neither a page that sends blindly, nor one whose name was pointed at this address: it could spend, and read prompts."""
    port, up = open_to_neighbours

    async def status(headers: tuple[bytes, ...], path: bytes = b"POST /v1/chat/completions", body: bytes = b"") -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = b"".join(line + b"\r\n" for line in headers)
        writer.write(b"%b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b" % (path, lines, len(body), body))
        found = int((await asyncio.wait_for(reader.readline(), 10)).split()[1])
        writer.close()
        return found

    body = json.dumps(call(model="t0")).encode()
    for headers in FOREIGN:
        assert await status((*headers, b"content-type: text/plain"), body=body) == 403, headers
        assert await status(headers, b"GET /v1/models") == 403, headers
    assert up.bodies == []
    for headers in NEAR:
        assert await status(headers, body=body) == 200, headers
    assert await status(FOREIGN[0], b"GET /healthz") == 200


@pytest.mark.parametrize("value", [b"a\x9b31mred", b"a\tb", b"x\xa0y"])
async def test_names_that_callers_make_up_are_printable(upstream, gateway, value) -> None:
    """They are shown in terminals and on pages."""
    served = await gateway(await upstream())
    body = json.dumps(call()).encode()
    for name in (b"x-junctor-tenant", b"x-junctor-session"):
        answer = await said(served, posted(body, name + b": " + value, b"connection: close"))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["param"] == name.decode()


# figures and keys


HUGE = 10**400


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/chat/completions", {"max_tokens": HUGE}),
        ("/v1/chat/completions", {"max_completion_tokens": HUGE}),
        ("/v1/chat/completions", {"seed": HUGE, "top_k": HUGE, "logit_bias": {"1": HUGE}}),
        ("/v1/chat/completions", {"metadata": {"junctor_budget_usd": HUGE}}),
        ("/v1/chat/completions", {"metadata": {"junctor_deadline_s": HUGE}}),
        ("/v1/messages", {"max_tokens": HUGE}),
        ("/v1/messages", {"max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": HUGE}}),
        ("/v1/responses", {"max_output_tokens": HUGE, "input": "hi"}),
        ("/v1/embeddings", {"dimensions": HUGE, "input": "hi"}),
        ("/v1/feedback", {"quality": HUGE, "decision_id": "x"}),
        ("/v1/feedback", {"cost_usd": -HUGE, "decision_id": "x"}),
    ],
)
async def test_a_figure_that_no_machine_holds_is_the_callers_mistake(keyed, upstream, path, more) -> None:
    """Neither a bug of ours, nor more than the budget, nor a hold that overflows."""
    served, keeper = await keyed(await upstream())
    record, key = await keeper.create({"budget_usd": 1.0, "tokens_per_minute": 1000})
    body = more if "decision_id" in more else {"model": "auto", "messages": [{"role": "user", "content": "hi"}], **more}
    reply = await served.session.post(served.url + path, json=body, headers=bearer(key))
    assert reply.status != 500, await reply.text()
    assert (await spent(keeper, record))[1] == 0.0


async def test_a_key_in_the_address_opens_nothing(keyed, upstream, caplog) -> None:
    """And is written nowhere."""
    caplog.set_level("DEBUG")
    served, keeper = await keyed(await upstream())
    _, key = await keeper.create({})
    for query in (f"key={key}", f"api_key={key}", f"access_token={key}", f"authorization=Bearer%20{key}"):
        reply = await served.session.post(f"{served.url}/v1/chat/completions?{query}", json=call())
        assert reply.status == 401
        assert key not in await reply.text()
    assert key not in caplog.text


async def test_the_first_key_counts_and_an_empty_one_is_none(keyed, upstream) -> None:
    served, keeper = await keyed(await upstream())
    _, key = await keeper.create({})
    good, bad, empty = b"Authorization: Bearer " + key.encode(), b"authorization: Bearer jk-bad", b"authorization: Bearer "
    body = json.dumps(call()).encode()
    for headers, status in (
        ((good, bad), 200),
        ((bad, good), 401),
        ((empty, good), 401),
        ((empty,), 401),
        ((b"AUTHORIZATION: bEARER " + key.encode(),), 200),
        ((b"authorization: Basic x", b"X-API-KEY: " + key.encode()), 200),
        ((b"authorization: Bearer\x09" + key.encode(),), 401),
    ):
        answer = await said(served, posted(body, *headers, b"connection: close"))
        assert answer.startswith(b"HTTP/1.1 %d " % status), headers


@pytest.mark.parametrize("name", ["a\r\nset-cookie: x=1", "a\nb", "é\u2028", "x" * 1000, "\x00\x7f"])
def test_no_name_breaks_a_header(name) -> None:
    """Targets, policies and what guards say stand in headers."""
    shown = header_text(name)
    assert shown.isascii()
    assert not set(shown) & {0, 10, 13, 127}
    assert len(shown) <= 200


@pytest.mark.parametrize("depth", [150, 250, 960, 970, 2000, 5000])
async def test_json_that_can_be_read_can_be_written_again(keyed, upstream, depth) -> None:
    """Deep JSON is either carried through or refused: it never breaks on its way."""
    up = await upstream()
    served, keeper = await keyed(up)
    _, key = await keeper.create({"budget_usd": 1.0})
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    chat = b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "%b": [{"b": %b}]}'
    for path, body in (
        ("/v1/chat/completions", chat % (b"tools", deep)),
        ("/v1/chat/completions", chat % (b"extra", deep)),
        ("/v1/messages", chat % (b"tools", deep)),
        ("/v1/embeddings", b'{"model": "t0", "input": "x", "extra": %b}' % deep),
        ("/v1/responses", b'{"model": "auto", "input": [{"role": "user", "content": "x", "extra": %b}]}' % deep),
    ):
        reply = await served.session.post(served.url + path, data=io.BytesIO(body), headers=bearer(key))
        assert reply.status == 400 if depth > 200 else reply.status != 500, (path, await reply.text())
    assert depth <= 200 or up.bodies == []


async def test_an_old_configuration_lives_as_long_as_its_longest_call(upstream, gateway) -> None:
    """Else a call with a long deadline would be cut off by a reload, and not be booked."""
    served = await gateway(await upstream(), default_deadline_s=0.02)
    reply = await served.chat(metadata={"junctor_deadline_s": 0.05})
    assert reply.status == 200
    assert served.engine.longest_deadline_s == 0.05
    closed: list[float] = []
    loop = asyncio.get_running_loop()

    class Old:
        engine = served.engine

        async def aclose(self) -> None:
            closed.append(loop.time())

    began = loop.time()
    closing = asyncio.create_task(_close_later(Old()))
    await asyncio.sleep(0)
    served.engine.longest_deadline_s = 0.2  # one that waited in line
    await asyncio.wait_for(closing, 10)
    assert closed[0] - began >= 0.19
