"""Upstreams that fail in every way, over real sockets: who answers instead, what the client sees, what the journal holds."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import openai
import pytest

from junctor.engine import Health
from junctor.types import Limits

from .conftest import STREAM_HEAD, answer, chunk, engine_over, event, in_turn, raw, stall, status, whole

ERROR_EVENT = chunk(b'data: {"error": {"message": "gpu fell off"}}\n\n')
HALF_A_STREAM = STREAM_HEAD + chunk(event("")) + chunk(event("po"))

BEFORE_THE_FIRST_BYTE = {
    "refuses": (None, "upstream_refused"),
    "closes at once": (raw(b""), "upstream_broken"),
    "sends HTML": (raw(whole(b"<html>hello</html>", kind="text/html")), "upstream_garbage"),
    "sends JSON of another shape": (raw(whole(b'{"result": 42}')), "upstream_garbage"),
    "sends no HTTP": (raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "upstream_garbage"),
    "answers 500": (status("500 Internal Server Error"), "upstream_status"),
    "answers 503": (status("503 Service Unavailable", extra="retry-after: 1\r\n"), "upstream_status"),
    "answers 429": (status("429 Too Many Requests", extra="retry-after: 1\r\n"), "upstream_status"),
    "redirects": (status("302 Found", b"", "location: http://127.0.0.1:1/\r\n"), "upstream_garbage"),
}
STREAMED_ONLY = {
    "ends before the first event": (raw(STREAM_HEAD + b"0\r\n\r\n"), "upstream_broken"),
    "streams only comments": (raw(STREAM_HEAD + chunk(b": hi\n\n") + b"0\r\n\r\n"), "upstream_broken"),
    "streams no JSON": (raw(STREAM_HEAD + chunk(b"data: <oops>\n\n")), "upstream_garbage"),
    "streams an error first": (raw(STREAM_HEAD + chunk(b'data: {"error": {"message": "full"}}\n\n')), "upstream_broken"),
    "answers a stream with JSON": (raw(whole(b'{"choices": []}')), "upstream_garbage"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", BEFORE_THE_FIRST_BYTE)
async def test_before_the_first_byte_the_fallback_answers(upstream, gateway, case, stream):
    """Every failure before the first byte: the second target answers, and the journal names the first one's error."""
    behaviour, code = BEFORE_THE_FIRST_BYTE[case]
    served = await gateway(await upstream(behaviour), await upstream())
    await _fallback_answers(served, code, stream=stream)


@pytest.mark.parametrize("case", STREAMED_ONLY)
async def test_before_the_first_event_the_fallback_answers(upstream, gateway, case):
    """The same for what only a stream can do wrong."""
    behaviour, code = STREAMED_ONLY[case]
    served = await gateway(await upstream(behaviour), await upstream())
    await _fallback_answers(served, code, stream=True)


async def test_a_body_that_breaks_off_is_not_an_answer(upstream, gateway):
    """A whole answer of which only a part arrives: the fallback answers."""
    served = await gateway(await upstream(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{")), await upstream())
    await _fallback_answers(served, "upstream_broken", stream=False)


async def _fallback_answers(served, code, *, stream):
    reply = await served.chat(stream=stream)
    text = await reply.text()
    assert reply.status == 200, text
    assert (reply.headers["x-junctor-target"], reply.headers["x-junctor-attempts"]) == ("t1", "2")
    assert text.endswith("data: [DONE]\n\n") if stream else "pong" in text
    ended = served.records()[-1]
    assert [(a.target, a.error) for a in ended.attempts] == [("t0", code), ("t1", "")]
    assert (ended.target, ended.error) == ("t1", "")
    assert served.records()[0].decision.target == "t0", "the decision keeps the intention"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_stalled_upstream_leaves_time_for_its_fallback(upstream, gateway, stream):
    """Silence before the first byte takes at most half of the deadline, then the fallback answers within it."""
    silent = await upstream(stall)
    served = await gateway(silent, await upstream())
    started = time.monotonic()
    reply = await served.chat(stream=stream, headers={"x-junctor-deadline-s": "1.0"})
    await reply.read()
    assert time.monotonic() - started < 1.0
    assert reply.headers["x-junctor-target"] == "t1"
    assert served.records()[-1].attempts[0].error == "upstream_timeout"
    await asyncio.wait_for(silent.gone.wait(), 5)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_nothing_hangs_past_its_deadline(upstream, gateway, stream):
    """When everybody is silent the client gets a typed 504 at the deadline."""
    served = await gateway(await upstream(stall), await upstream(stall))
    started = time.monotonic()
    reply = await served.chat(stream=stream, headers={"x-junctor-deadline-s": "0.4"})
    error = (await reply.json())["error"]
    assert 0.3 < time.monotonic() - started < 2
    assert (reply.status, error["code"]) == (504, "deadline_exceeded")
    ended = served.records()[-1]
    assert ended.error == "deadline_exceeded"
    assert [a.error for a in ended.attempts] == ["upstream_timeout", "upstream_timeout"]


async def test_a_target_s_own_timeout_bounds_its_attempt(upstream, gateway, tmp_path):
    """`limits.timeout_s` is shorter than the share of the deadline, so it is what ends the attempt."""
    import msgspec

    engine = engine_over([await upstream(stall)], tmp_path)
    quick = msgspec.structs.replace(engine.catalogue[0], limits=Limits(timeout_s=0.1))
    engine = type(engine)(engine.catalogue.of([quick]), engine.providers, journal=engine.ledger.journal)
    served = await gateway(engine=engine)
    started = time.monotonic()
    reply = await served.chat("t0")
    assert (reply.status, (await reply.json())["error"]["code"]) == (504, "upstream_timeout")
    assert time.monotonic() - started < 2


AFTER_THE_FIRST_BYTE = {
    "killed": (raw(HALF_A_STREAM), "upstream_broken"),
    "ends without DONE": (raw(HALF_A_STREAM + b"0\r\n\r\n"), "upstream_broken"),
    "reports an error": (in_turn(HALF_A_STREAM, ERROR_EVENT), "upstream_broken"),
    "turns to garbage": (in_turn(HALF_A_STREAM, chunk(b"<html>\n\n")), "upstream_garbage"),
    "goes silent": (raw(HALF_A_STREAM, then="stall"), "deadline_exceeded"),
}


@pytest.mark.parametrize("case", AFTER_THE_FIRST_BYTE)
async def test_after_the_first_byte_the_client_sees_an_error_event(upstream, gateway, case):
    """No second target is tried; the stream ends with a well-formed error event and without [DONE]; the journal agrees."""
    behaviour, code = AFTER_THE_FIRST_BYTE[case]
    spare = await upstream()
    served = await gateway(await upstream(behaviour), spare)
    reply = await served.chat(stream=True, headers={"x-junctor-deadline-s": "0.5"})
    events = (await reply.text()).strip().split("\n\n")
    assert reply.status == 200
    assert '"po"' in events[1]
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == (code, "server_error")
    assert "[DONE]" not in events
    assert spare.bodies == []
    ended = served.records()[-1]
    assert (ended.error, ended.target, [a.target for a in ended.attempts]) == (code, "t0", ["t0"])


async def test_the_openai_client_raises_on_a_broken_stream(upstream, gateway):
    """The public client does not take half an answer for a whole one."""
    served = await gateway(await upstream(raw(HALF_A_STREAM)))
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client:
        got = []

        async def read():
            turns = [{"role": "user", "content": "x"}]
            async for piece in await client.chat.completions.create(model="auto", messages=turns, stream=True):
                got.append(piece.choices[0].delta.content)

        with pytest.raises(openai.APIError, match=r"ended|closed"):
            await read()
        assert got == ["", "po"]


async def test_a_client_error_of_the_upstream_is_passed_on_and_not_retried(upstream, gateway):
    """400 is the caller's: status and the upstream's own words come back, the fallback is not asked, health is unharmed."""
    body = b'{"error":{"message":"bad temperature","type":"invalid_request_error","param":"temperature","code":null}}'
    spare = await upstream()
    served = await gateway(await upstream(status("400 Bad Request", body)), spare)
    reply = await served.chat()
    assert (reply.status, await reply.read()) == (400, body)
    assert spare.bodies == []
    assert not served.engine.health
    assert served.records()[-1].error == "upstream_status"


async def test_a_status_that_nobody_knows_is_passed_on_too(upstream, gateway):
    """Upstreams make up their own 4xx."""
    served = await gateway(await upstream(status("499 Whatever", b"{}")))
    reply = await served.chat()
    assert (reply.status, (await reply.json())["error"]["code"]) == (499, "upstream_status")


async def test_a_refused_key_is_a_bad_gateway_that_tells_nothing(upstream, gateway):
    """401 speaks of the gateway's key: 502, and neither the key nor the upstream's words about it reach the client."""
    body = b'{"error":{"message":"Incorrect API key: sk-secret"}}'
    served = await gateway(await upstream(status("401 Unauthorized", body)))
    reply = await served.chat("t0")
    text = await reply.text()
    assert reply.status == 502
    assert "sk-secret" not in text
    assert "Incorrect" not in text
    assert "sk-secret" not in served.journal.read_text()
    assert served.engine.health, "a target whose key is refused is not healthy"


async def test_an_upstream_that_echoes_the_key_is_redacted(upstream, gateway):
    """A 400 that quotes our key comes back without it."""
    body = b'{"error":{"message":"your header was Bearer sk-secret"}}'
    served = await gateway(await upstream(status("400 Bad Request", body)))
    text = await (await served.chat("t0")).text()
    assert "***" in text
    assert "sk-secret" not in text


async def test_too_many_requests_comes_back_with_retry_after(upstream, gateway):
    """One target, 429: the client gets 429 and when to come again."""
    served = await gateway(await upstream(status("429 Too Many Requests", extra="retry-after: 7\r\n")))
    reply = await served.chat("t0")
    assert (reply.status, reply.headers["retry-after"]) == (429, "7")
    assert 6 < served.engine.health.cooling_s("t0") <= 7


async def test_retry_after_keeps_the_target_out_until_it_is_over(upstream, gateway):
    """After a 429 with Retry-After the alias goes straight to the other target and the journal says why."""
    limited = await upstream(status("429 Too Many Requests", extra="retry-after: 30\r\n"))
    served = await gateway(limited, await upstream(), health=Health(cap_s=60))
    await (await served.chat()).read()
    reply = await served.chat()
    assert (reply.headers["x-junctor-target"], reply.headers["x-junctor-attempts"]) == ("t1", "1")
    assert len(limited.bodies) == 1
    assert served.records()[-2].refusals["t0"].startswith("cooling down")


async def test_three_failures_in_a_row_cool_a_target_down_and_it_comes_back(upstream, gateway):
    """After the third failure the target is left alone for the cooldown, and asked again afterwards."""
    bad = await upstream(status("500 Internal Server Error"))
    served = await gateway(bad, await upstream(), health=Health(threshold=3, base_s=0.3))
    for _ in range(5):
        assert (await served.chat()).status == 200
    assert len(bad.bodies) == 3
    await asyncio.sleep(0.35)
    await served.chat()
    assert len(bad.bodies) == 4


async def test_when_all_targets_cool_down_they_are_tried_all_the_same(upstream, gateway):
    """A last try is better than a refusal; the decision says so."""
    served = await gateway(
        await upstream(status("429 Too Many Requests", extra="retry-after: 30\r\n")), health=Health(cap_s=60)
    )
    await served.chat()
    reply = await served.chat()
    assert reply.status == 429
    assert "cooling down" in served.records()[-2].decision.reasons[-1]


async def test_a_client_that_leaves_a_stream_frees_the_upstream(upstream, gateway):
    """Half-way through a stream the client hangs up: the upstream connection closes and the journal says cancelled."""
    up = await upstream(raw(HALF_A_STREAM, then="stall"))
    served = await gateway(up)
    reply = await served.chat(stream=True)
    await reply.content.readany()
    reply.close()
    await asyncio.wait_for(up.gone.wait(), 5)
    for _ in range(100):
        if len(served.records()) == 2:
            break
        await asyncio.sleep(0.02)
    assert served.records()[-1].error == "cancelled"


UPSTREAM_PROCESS = """
import asyncio, sys
HEAD = b"HTTP/1.1 200 OK\\r\\ncontent-type: text/event-stream\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n"
DATA = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\\n\\n'
async def serve(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    if sys.argv[1] == "stream":
        writer.write(HEAD + b"%x\\r\\n%s\\r\\n" % (len(DATA), DATA))
    await asyncio.sleep(60)
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@pytest.mark.parametrize("mode", ["whole", "stream"])
async def test_kill_9_of_an_upstream_process_mid_request(upstream, gateway, mode):
    """A process that dies: before its first byte the fallback answers, after it the client sees an error event."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", UPSTREAM_PROCESS, mode, stdout=asyncio.subprocess.PIPE)
    port = int(await process.stdout.readline())
    victim = await upstream(None)
    victim.port = port
    served = await gateway(victim, await upstream(answer))
    call = asyncio.create_task(served.chat(stream=mode == "stream"))
    if mode == "stream":
        reply = await call
        await reply.content.readany()
        os.kill(process.pid, signal.SIGKILL)
        tail = await asyncio.wait_for(reply.text(), 5)
        assert json.loads(tail.strip().split("\n\n")[-1].removeprefix("data: "))["error"]["code"] == "upstream_broken"
    else:
        await asyncio.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        reply = await asyncio.wait_for(call, 5)
        assert reply.headers["x-junctor-target"] == "t1"
    await process.wait()
    process._transport.close()
    assert served.records()[-1].attempts[0].error == "upstream_broken"


async def test_a_stop_lets_an_answer_finish(upstream, gateway):
    """A gateway that is told to stop answers what it has begun and takes nothing new."""
    go = asyncio.Event()

    async def slow(up, reader, writer):
        await go.wait()
        await answer(up, reader, writer)

    up = await upstream(slow)
    served = await gateway(up)
    call = asyncio.create_task(served.chat())
    await up.asked.wait()
    served.stop.set()
    await asyncio.sleep(0.3)
    go.set()
    reply = await call
    assert "pong" in await reply.text()
    with pytest.raises(OSError, match=r".+"):
        await served.chat()


async def test_a_stop_does_not_wait_for_ever(upstream, gateway):
    """An answer that does not come is given up after `shutdown_s`."""
    up = await upstream(stall)
    served = await gateway(up, shutdown_s=1)
    call = asyncio.create_task(served.chat())
    await up.asked.wait()
    started = time.monotonic()
    served.stop.set()
    await asyncio.wait_for(asyncio.gather(call, return_exceptions=True), 10)
    assert time.monotonic() - started < 8


@pytest.mark.slow
async def test_sigterm_ends_the_process_with_0_after_the_answer(upstream, tmp_path: Path):
    """A real process: SIGTERM while a request is in flight; the answer comes, the exit status is 0."""
    import aiohttp

    go = asyncio.Event()

    async def slow(up, reader, writer):
        await go.wait()
        await answer(up, reader, writer)

    up = await upstream(slow)
    code = f"""
import asyncio
from junctor.engine import Engine
from junctor.gateway import serve
from junctor.providers.openai_compatible import OpenAICompatibleProvider
from junctor.types import Catalogue, Target
engine = Engine(Catalogue([Target(id="t0", provider="p")]), {{"p": OpenAICompatibleProvider({up.url!r})}})
serve(engine, port=0, on_ready=lambda host, port: print(port, flush=True))
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    port = int(await process.stdout.readline())
    body = {"model": "t0", "messages": [{"role": "user", "content": "x"}]}
    async with aiohttp.ClientSession() as session:
        call = asyncio.create_task(session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body))
        await asyncio.wait_for(up.asked.wait(), 10)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        go.set()
        assert "pong" in await (await call).text()
    assert await asyncio.wait_for(process.wait(), 15) == 0
    assert await process.stderr.read() == b""
    process._transport.close()
