"""Deployments, retries, hedges, queue and drain as `junctor serve` has them: from a configuration, over real sockets."""

import asyncio
import json

import pytest
from tests.gateway.conftest import STREAM_HEAD, answer, chunk, engine_over, event, stall, status

from junctor.build import build_service
from junctor.config import parse_config
from junctor.engine import Health
from junctor.errors import ConfigError, UpstreamRefused
from junctor.journal import OutcomeRecord
from junctor.service import Service
from junctor.service.queueing import Queue

pytestmark = pytest.mark.slow  # as a whole: `make check` is an inner loop


def config_of(ups, tmp_path, **sections):
    """One target `m` with a deployment per upstream, the alias `auto` over it, and more sections."""
    target = sections.pop("target", {})
    alias = sections.pop("alias", {})
    tree = {
        "journal": {"path": "j.journal", "fsync": "never"},
        "providers": {f"p{i}": {"kind": "openai_compatible", "base_url": up.url} for i, up in enumerate(ups)},
        "targets": {
            "m": {"deployments": [{"id": f"d{i}", "provider": f"p{i}", "model": f"m-{i}"} for i in range(len(ups))], **target}
        },
        "policies": {"one": {"use": "fixed", "settings": {"target": "m"}}},
        "aliases": {"auto": {"policy": "one", **alias}},
        **sections,
    }
    return parse_config(tree, tmp_path)


def outcomes(served):
    return [record for record in served.records() if isinstance(record, OutcomeRecord)]


async def test_deployments_of_a_configuration_share_the_work(upstream, gateway, tmp_path):
    """Two deployments, each asked for its own name of the model; the journal says which one answered."""
    ups = [await upstream(), await upstream()]
    served = await gateway(engine=build_service(config_of(ups, tmp_path)))
    for _ in range(6):
        reply = await served.chat()
        assert (reply.status, reply.headers["x-junctor-target"]) == (200, "m")
    assert [{body["model"] for body in up.bodies} for up in ups] == [{"m-0"}, {"m-1"}]
    assert [len(up.bodies) for up in ups] == [3, 3]
    assert sorted({record.attempts[0].deployment for record in outcomes(served)}) == ["d0", "d1"]


async def test_a_deployment_that_is_gone_costs_no_request(upstream, gateway, tmp_path):
    """One refuses connections: every request is answered by the other, and after three nobody goes there."""
    ups = [await upstream(None), await upstream()]
    served = await gateway(engine=build_service(config_of(ups, tmp_path, health={"base_s": 60.0})))
    for streamed in (False, True) * 6:
        reply = await served.chat(stream=streamed)
        assert reply.status == 200
        assert "ng" in await reply.text()
    failed = [a for record in outcomes(served) for a in record.attempts if a.error]
    assert [(a.deployment, a.error) for a in failed] == [("d0", "upstream_refused")] * 3


BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "ping"}]},
    "/v1/messages": {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 9},
    "/v1/responses": {"input": "ping"},
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", BODIES)
async def test_fallback_is_the_same_for_every_api(upstream, gateway, path, streamed):
    """BerriAI/litellm#28216, #24005: the first target is down; chat, Messages and Responses are all answered by the next."""
    served = await gateway(await upstream(status("503 Service Unavailable")), await upstream())
    body = {"model": "auto", "stream": streamed, **BODIES[path]}
    async with served.session.post(served.url + path, json=body) as reply:
        assert (reply.status, reply.headers["x-junctor-target"]) == (200, "t1")
        assert "ng" in await reply.text()
    assert [(a.target, a.error) for a in outcomes(served)[-1].attempts] == [("t0", "upstream_status"), ("t1", "")]


async def test_retries_come_from_the_configuration(upstream, gateway, tmp_path):
    """A lone target that fails once is asked again by default; with `most = 0` its error is the answer."""
    turns = iter(range(100))

    async def flaky(up, reader, writer):
        await (answer if next(turns) % 2 else status("503 Service Unavailable"))(up, reader, writer)

    up = await upstream(flaky)
    served = await gateway(engine=build_service(config_of([up], tmp_path, retries={"base_s": 0.01})))
    reply = await served.chat()
    assert (reply.status, reply.headers["x-junctor-attempts"]) == (200, "2")
    other = await gateway(engine=build_service(config_of([up], tmp_path, retries={"most": 0})))
    assert (await other.chat()).status == 502


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_hedge_overtakes_a_stalled_deployment(upstream, gateway, tmp_path, streamed):
    """The first says nothing at all; the second answers, the first hears that nobody waits any more."""
    silent, well = await upstream(stall), await upstream()
    config = config_of([silent, well], tmp_path, alias={"hedge": {"after_s": 0.05, "most": 1.0}})
    served = await gateway(engine=build_service(config))
    reply = await served.chat(stream=streamed)
    assert "ng" in await reply.text()
    await asyncio.wait_for(silent.gone.wait(), 10)
    first, second = outcomes(served)[-1].attempts
    assert (first.deployment, first.error) == ("d0", "cancelled")
    assert (second.deployment, second.error, second.role) == ("d1", "", "hedge")


async def test_two_hundred_at_a_black_hole(upstream, gateway, tmp_path):
    """The primary takes connections and never answers. 200 requests, 20 at a time, half of them streams: the first wave waits
    for its share of the deadline; after it at most a probe or two, and everybody is answered."""
    hole, well = await upstream(stall), await upstream()
    engine = engine_over([hole, well], tmp_path, health=Health(threshold=3, base_s=5.0))
    served = await gateway(engine=engine)
    waited = 0

    async def client(count):
        nonlocal waited
        for i in range(count):
            reply = await served.chat(headers={"x-junctor-deadline-s": "1"}, stream=bool(i % 2))
            assert reply.status == 200
            assert "ng" in await reply.text()
            waited += int(reply.headers["x-junctor-attempts"]) > 1

    await asyncio.gather(*(client(10) for _ in range(20)))
    assert 3 <= waited <= 22


async def test_a_stalled_stream_ends_with_an_error_before_the_deadline(upstream, gateway, tmp_path):
    """`silence_s` of the target: the client gets an error event and no [DONE]."""

    async def begins(up, reader, writer):
        writer.write(STREAM_HEAD + chunk(event("po")))
        await writer.drain()
        await stall(up, reader, writer)

    up = await upstream(begins)
    config = config_of([up], tmp_path, target={"limits": {"silence_s": 0.2}})
    served = await gateway(engine=build_service(config))
    text = await (await served.chat(stream=True)).text()
    assert "silent for 0.2 s" in text
    assert "[DONE]" not in text
    assert outcomes(served)[-1].error == "upstream_timeout"


async def test_the_queue_sheds_with_a_retry_after(upstream, gateway, tmp_path):
    """One runs, one waits, the third is told to come back; when the first is done the second is answered."""
    go = asyncio.Event()

    async def slow(up, reader, writer):
        await go.wait()
        await answer(up, reader, writer)

    up = await upstream(slow)
    served = await gateway(engine=build_service(config_of([up], tmp_path, gateway={"max_concurrent": 1, "max_waiting": 1})))
    first = asyncio.create_task(served.chat())
    await up.asked.wait()
    second = asyncio.create_task(served.chat())
    await asyncio.sleep(0.1)
    third = await served.chat()
    assert (third.status, (await third.json())["error"]["code"]) == (503, "overloaded")
    assert int(third.headers["retry-after"]) >= 1
    go.set()
    assert [(await first).status, (await second).status] == [200, 200]


async def test_a_deadline_that_passes_in_line_is_a_504(upstream, gateway, tmp_path):
    """Nobody is called for it, and its place in line is free."""
    up = await upstream(stall)
    service = Service(engine_over([up], tmp_path), queue=Queue(1, 5))
    served = await gateway(engine=service)
    first = asyncio.create_task(served.chat(headers={"x-junctor-deadline-s": "0.5"}))
    await up.asked.wait()
    reply = await served.chat(headers={"x-junctor-deadline-s": "0.1"})
    assert (reply.status, (await reply.json())["error"]["code"]) == (504, "deadline_exceeded")
    assert len(up.bodies) == 1
    assert len(service.queue) == 0
    await first
    assert service.queue.running == 0


async def test_a_stop_serves_the_line_and_lets_streams_end(upstream, gateway, tmp_path):
    """Told to stop with a stream under way and two in line: all three are answered."""
    go = asyncio.Event()

    async def slow(up, reader, writer):
        if up.bodies[-1].get("stream"):
            writer.write(STREAM_HEAD + chunk(event("po")))
            await writer.drain()
            await go.wait()
            writer.write(chunk(event("ng")) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        else:
            await answer(up, reader, writer)

    up = await upstream(slow)
    service = Service(engine_over([up], tmp_path), queue=Queue(1, 5))
    served = await gateway(engine=service)
    stream = await served.chat(stream=True)
    line = [asyncio.create_task(served.chat()) for _ in range(2)]
    await asyncio.sleep(0.1)
    assert len(service.queue) == 2
    served.stop.set()
    await asyncio.sleep(0.1)
    go.set()
    assert (await stream.text()).endswith("data: [DONE]\n\n")
    assert [(await call).status for call in line] == [200, 200]


async def test_a_stop_that_takes_too_long_tells_the_line(upstream, gateway, tmp_path):
    """The one that runs never ends: those in line are refused with Overloaded, not cut off."""
    up = await upstream(stall)
    service = Service(engine_over([up], tmp_path), queue=Queue(1, 5))
    served = await gateway(engine=service, shutdown_s=0.2)
    first = asyncio.create_task(served.chat())
    await up.asked.wait()
    line = [asyncio.create_task(served.chat()) for _ in range(2)]
    await asyncio.sleep(0.1)
    served.stop.set()
    for call in line:
        reply = await asyncio.wait_for(call, 10)
        assert (reply.status, json.loads(await reply.read())["error"]["code"]) == (503, "overloaded")
    await asyncio.gather(first, return_exceptions=True)


async def test_a_reload_keeps_the_queue_and_the_health(upstream, tmp_path):
    """Calls of the old service hold their places in the new one, a dead deployment stays known, new bounds count."""
    ups = [await upstream(None), await upstream()]
    first = build_service(config_of(ups, tmp_path, gateway={"max_concurrent": 2}))
    first.engine.health.failed("m", UpstreamRefused("no"), "d0")
    second = build_service(config_of(ups, tmp_path, gateway={"max_concurrent": 7, "max_waiting": 3}), first)
    assert second.queue is first.queue
    assert (second.queue.most, second.queue.waiting) == (7, 3)
    assert second.engine.health.snapshot()[0].failures == 1
    assert build_service(config_of(ups, tmp_path), second).queue is None
    for service in (first, second):
        await service.aclose()


WRONG = {
    "a rule": ({"target": {"balance": "fastest"}}, r"targets\.m\.balance"),
    "a failure count": ({"health": {"failures": 0}}, r"health\.failures"),
    "a cap": ({"health": {"base_s": 5.0, "cap_s": 1.0}}, r"health\.cap_s"),
    "retries": ({"retries": {"most": -1}}, r"retries\.most"),
    "a hedge": ({"alias": {"hedge": {"after_s": 0.0}}}, r"aliases\.auto\.hedge\.after_s"),
    "a queue": ({"gateway": {"max_concurrent": -1}}, r"gateway\.max_concurrent"),
    "a line": ({"gateway": {"max_waiting": -1}}, r"gateway\.max_waiting"),
    "a silence": ({"target": {"limits": {"silence_s": 0.0}}}, r"targets\.m\.limits\.silence_s"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_configuration_that_cannot_be_says_where(upstream, tmp_path, case):
    """The dotted path of the key."""
    sections, path = WRONG[case]
    up = await upstream()
    with pytest.raises(ConfigError, match=path):
        build_service(config_of([up], tmp_path, **sections))
