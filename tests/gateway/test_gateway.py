"""What the gateway answers when all goes well."""

import asyncio

import aiohttp
import openai
import pytest

from junctor.journal import DecisionRecord, FeedbackRecord, OutcomeRecord
from junctor.policy import Learner

from .conftest import InOrder, stall


async def test_alias_answers_with_the_upstream_s_bytes_and_says_what_was_decided(upstream, gateway):
    """The body is the upstream's; the headers name decision, target, policy and both costs."""
    up = await upstream()
    served = await gateway(up)
    reply = await served.chat()
    assert reply.status == 200
    assert (await reply.json())["choices"][0]["message"]["content"] == "pong"
    head = reply.headers
    assert (head["x-junctor-target"], head["x-junctor-policy"], head["x-junctor-attempts"]) == ("t0", "in-order", "1")
    assert float(head["x-junctor-cost-usd"]) == (10 * 1.0 + 5 * 2.0) / 1e6
    assert float(head["x-junctor-predicted-cost-usd"]) == 0.001
    decided, ended = served.records()
    assert isinstance(decided, DecisionRecord)
    assert isinstance(ended, OutcomeRecord)
    assert decided.decision.id == ended.id == head["x-junctor-decision"]
    assert decided.targets == ("t0",)
    assert (ended.target, ended.outcome.input_tokens, len(ended.attempts)) == ("t0", 10, 1)


async def test_direct_target_is_passed_through_and_journalled(upstream, gateway):
    """A target's own id calls it, unknown fields travel along, and the decision's policy is `direct`."""
    up = await upstream()
    served = await gateway(up)
    reply = await served.chat("t0", seed=7, logit_bias={"5": 1}, brand_new={"x": [1, None]})
    assert reply.headers["x-junctor-policy"] == "direct"
    sent = up.bodies[0]
    assert sent["model"] == "up"
    assert (sent["seed"], sent["logit_bias"], sent["brand_new"]) == (7, {"5": 1}, {"x": [1, None]})
    assert b"authorization: bearer sk-secret" in up.heads[0].lower()
    assert served.records()[0].decision.policy == "direct"


async def test_stream_passes_every_event_and_hides_the_usage_nobody_asked_for(upstream, gateway):
    """The client sees the upstream's chunks and [DONE]; the usage that was asked for on its behalf goes to the journal."""
    up = await upstream()
    served = await gateway(up)
    reply = await served.chat(stream=True)
    text = await reply.text()
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert [line[:5] for line in text.strip().split("\n\n")] == ["data:"] * 5
    assert text.endswith("data: [DONE]\n\n")
    assert '"usage"' not in text
    ended = served.records()[-1]
    assert (ended.outcome.input_tokens, ended.outcome.output_tokens, ended.error) == (10, 5, "")
    assert ended.attempts[0].first_byte_s is not None


async def test_stream_with_include_usage_passes_the_usage_on(upstream, gateway):
    """A caller that asks for usage gets it."""
    served = await gateway(await upstream())
    reply = await served.chat(stream=True, stream_options={"include_usage": True})
    assert '"usage"' in await reply.text()


async def test_the_real_openai_client_works_whole_and_streamed(upstream, gateway):
    """The public client understands alias, target, stream, list of models and errors."""
    served = await gateway(await upstream())
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client:
        turns = [{"role": "user", "content": "ping"}]
        for model in ("auto", "t0"):
            whole = await client.chat.completions.create(model=model, messages=turns)
            assert whole.choices[0].message.content == "pong"
            assert whole.usage.completion_tokens == 5
            stream = await client.chat.completions.create(model=model, messages=turns, stream=True)
            parts = [c.choices[0].delta.content or "" async for c in stream]
            assert "".join(parts) == "pong"
        assert [m.id async for m in client.models.list()] == ["auto", "t0"]
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="nope", messages=turns)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_feedback_joins_its_decision_and_lookup_shows_both(upstream, gateway):
    """Feedback by id lands in the journal; the decision's page shows outcome and feedback, never the prompt."""
    served = await gateway(await upstream())
    id_ = (await served.chat()).headers["x-junctor-decision"]
    said = {"decision_id": id_, "quality": 0.75, "comment": "good"}
    reply = await served.session.post(served.url + "/v1/feedback", json=said)
    assert (reply.status, (await reply.json())["decision_id"]) == (200, id_)
    record = served.records()[-1]
    assert isinstance(record, FeedbackRecord)
    assert (record.outcome.quality, record.comment) == (0.75, "good")
    shown = await (await served.session.get(f"{served.url}/v1/decisions/{id_}")).json()
    assert shown["decision"]["target"] == "t0"
    assert shown["outcome"]["attempts"][0]["target"] == "t0"
    assert shown["feedback"][0]["outcome"]["quality"] == 0.75
    assert "ping" not in str(shown)


class Learning(InOrder, Learner):
    """Keeps what is credited to whom."""

    def __init__(self):
        self.credited = []

    def learn(self, decision, outcome):
        self.credited.append((decision.target, outcome.quality, outcome.cost_usd))


async def test_feedback_credits_the_target_that_answered(upstream, gateway):
    """The intended target is down and the next one answers: praise for that answer says nothing of the one that is down."""
    up = await upstream()
    for ups, credited in (([up], ("t0", 0.75)), ([await upstream(None), up], ("t1", None))):
        policy = Learning()
        served = await gateway(*ups, policy=policy)
        id_ = (await served.chat()).headers["x-junctor-decision"]
        said = {"decision_id": id_, "quality": 0.75}
        assert (await served.session.post(served.url + "/v1/feedback", json=said)).status == 200
        assert policy.credited[-1] == (*credited, (10 * 1.0 + 5 * 2.0) / 1e6)
        assert all(quality is None for _, quality, _ in policy.credited[:-1])


async def test_health_and_models_answer(upstream, gateway):
    """The two small pages."""
    served = await gateway(await upstream())
    assert await (await served.session.get(served.url + "/healthz")).json() == {"status": "ok"}
    listed = await (await served.session.get(served.url + "/v1/models")).json()
    assert [m["id"] for m in listed["data"]] == ["auto", "t0"]


async def test_concurrent_requests_do_not_mix(upstream, gateway):
    """Fifty at once: each gets its own decision, and the journal has one decision and one outcome for each."""
    served = await gateway(await upstream(), await upstream())

    async def one(i):
        reply = await served.chat("t1" if i % 2 else "auto", stream=i % 3 == 0)
        await reply.read()
        return reply.headers["x-junctor-decision"], reply.headers["x-junctor-target"]

    got = await asyncio.gather(*(one(i) for i in range(50)))
    assert len({id_ for id_, _ in got}) == 50
    assert [target for _, target in got] == ["t1" if i % 2 else "t0" for i in range(50)]
    records = served.records()
    assert sorted(r.decision.id for r in records if isinstance(r, DecisionRecord)) == sorted(id_ for id_, _ in got)
    assert sorted(r.id for r in records if isinstance(r, OutcomeRecord)) == sorted(id_ for id_, _ in got)


async def test_client_that_hangs_up_cancels_the_upstream(upstream, gateway):
    """A client that leaves before the answer: the upstream connection is given up and the journal says cancelled."""
    up = await upstream(stall)
    served = await gateway(up)
    call = asyncio.create_task(served.chat())
    await asyncio.wait_for(up.asked.wait(), 5)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await asyncio.wait_for(up.gone.wait(), 5)
    await _journalled(served, 2)
    ended = served.records()[-1]
    assert (ended.error, ended.target, ended.attempts[0].error) == ("cancelled", "", "cancelled")


async def _journalled(served, count):
    for _ in range(200):
        if len(served.records()) >= count:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"only {len(served.records())} records")


async def test_keep_alive_connection_serves_many(upstream, gateway):
    """One connection, many requests, whole and streamed in turn."""
    served = await gateway(await upstream())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        for i in range(10):
            body = {"model": "auto", "messages": [{"role": "user", "content": "x"}], "stream": bool(i % 2)}
            async with session.post(served.url + "/v1/chat/completions", json=body) as reply:
                assert reply.status == 200
                await reply.read()
