"""The embedded provider: chat-completion JSON, limits, deadlines, usage, prices; and that it never blocks the loop."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from junctor.errors import ConfigError, UpstreamStatus, UpstreamTimeout
from junctor.providers.base import Reply
from junctor.providers.embedded import EMBEDDED, EmbeddedProvider, general
from junctor.providers.embedded.answer import Answer, Budget
from junctor.registry import load
from junctor.testing.providers import check_provider
from junctor.types import Message, Request, Target

ASK = Request(id="r1", text="What is 12% of 80?")


def said(reply: Reply) -> str:
    return str(json.loads(reply.body)["choices"][0]["message"]["content"])


def target(id_: str) -> Target:
    found = EMBEDDED.get(id_)
    assert found is not None
    return found


async def events(provider: EmbeddedProvider, request: Request, id_: str) -> list[bytes]:
    return [event async for event in await provider.stream(request, target(id_), None)]


@pytest.mark.parametrize("id_", EMBEDDED.ids)
async def test_every_target_keeps_the_contract(id_: str) -> None:
    await check_provider(EmbeddedProvider(), target(id_), ASK)


def test_the_registry_finds_it() -> None:
    assert load("provider", "embedded") is EmbeddedProvider


async def test_the_openai_client_reads_its_answers() -> None:
    provider = EmbeddedProvider()
    for id_ in EMBEDDED.ids:
        reply = await provider.complete(ASK, target(id_), None)
        read = ChatCompletion.model_validate_json(reply.body)
        assert read.choices[0].message.content
        assert read.usage is not None
        assert read.usage.total_tokens == (reply.usage.input_tokens or 0) + (reply.usage.output_tokens or 0)
        assert read.model == target(id_).upstream_model
        streamed = [ChatCompletionChunk.model_validate_json(event[6:]) for event in (await events(provider, ASK, id_))[:-1]]
        assert "".join(c.choices[0].delta.content or "" for c in streamed) == read.choices[0].message.content
        assert streamed[0].choices[0].delta.role == "assistant"
    await provider.aclose()


async def test_facts_are_streamed_word_by_word() -> None:
    got = await events(EmbeddedProvider(), Request(text="What is the capital of France?"), "facts")
    pieces = [json.loads(e[6:])["choices"][0]["delta"].get("content") for e in got[1:-2]]
    assert pieces == ["The", " capital", " of", " France", " is", " Paris."]


async def test_the_last_user_turn_is_asked_and_all_turns_are_billed() -> None:
    turns = (
        Message("system", "Be brief."),
        Message("user", [{"type": "text", "text": "What is 2 + 3?"}, {"type": "image_url"}]),
    )
    reply = await EmbeddedProvider().complete(Request(messages=turns), target("arithmetic"), None)
    assert said(reply) == "5"
    assert reply.usage.input_tokens == 3 + 6  # "Be", "brief", "." and "What", "is", "2", "+", "3", "?"


async def test_high_effort_bills_more_reasoning_than_low() -> None:
    provider = EmbeddedProvider()
    question = Request(text="Sam has 5 boxes with 12 pens each and gives away 7 pens. How many are left?")
    low, high = [await provider.complete(question, target(f"general@{e}"), None) for e in ("low", "high")]
    assert (high.usage.reasoning_tokens or 0) > (low.usage.reasoning_tokens or 0) > 0
    details = json.loads(high.body)["usage"]["completion_tokens_details"]
    assert details == {"reasoning_tokens": high.usage.reasoning_tokens}
    assert (high.usage.output_tokens or 0) > (high.usage.reasoning_tokens or 0)
    await provider.aclose()


async def test_the_request_may_set_the_effort_where_the_target_leaves_it_open() -> None:
    provider, open_target = EmbeddedProvider(), Target(id="mine", model="general")
    question = "What is 5 feet 11 inches in cm?"
    answers = [
        said(await provider.complete(Request(text=question, params=params), open_target, None))
        for params in ({"reasoning_effort": "high"}, {"reasoning_effort": "low"}, {})
    ]
    assert answers[0] == "180.34"
    assert answers[1] == answers[2] != answers[0]
    with pytest.raises(UpstreamStatus) as refused:
        await provider.complete(Request(text=question, params={"reasoning_effort": "most"}), open_target, None)
    assert refused.value.upstream_status == 400
    await provider.aclose()


async def test_an_unknown_model_is_a_404_that_names_the_known_ones() -> None:
    with pytest.raises(UpstreamStatus, match="arithmetic") as refused:
        await EmbeddedProvider().complete(ASK, Target(id="gpt"), None)
    assert refused.value.upstream_status == 404
    assert not refused.value.retryable
    assert json.loads(refused.value.body)["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("text", ["word " * 600, "x" * 1_000_000, " " * 10_000])
async def test_a_prompt_over_the_limit_is_refused(text: str) -> None:
    with pytest.raises(UpstreamStatus) as refused:
        await EmbeddedProvider().complete(Request(text=text), target("text"), None)
    assert refused.value.upstream_status == 400
    assert json.loads(refused.value.body)["error"]["code"] == "context_length_exceeded"


async def test_a_target_may_set_a_lower_limit() -> None:
    small = Target(id="arithmetic", limits=EMBEDDED[0].limits.__class__(context_tokens=3))
    with pytest.raises(UpstreamStatus, match="limit of 3"):
        await EmbeddedProvider().complete(ASK, small, None)


async def test_an_answer_is_cut_at_max_tokens() -> None:
    asked = Request(text="What is the capital of France?", params={"max_tokens": 3})
    reply = await EmbeddedProvider().complete(asked, target("facts"), None)
    assert said(reply) == "The capital"
    assert reply.finish_reason == "length"
    stream = await EmbeddedProvider().stream(asked, target("facts"), None)
    assert [e async for e in stream][-1] == b"data: [DONE]\n\n"
    assert stream.finish_reason == "length"


def _endless(prompt: str, effort: general.Effort, budget: Budget) -> Answer:
    budget.units = 10**12
    while True:
        budget.spend()


async def test_a_search_is_stopped_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in never ends by itself, so that only the deadline can end it."""
    monkeypatch.setattr(general, "solve", _endless)
    provider = EmbeddedProvider(workers=1)
    with pytest.raises(UpstreamTimeout):
        await provider.complete(ASK, target("general@high"), 0.02)
    monkeypatch.undo()
    assert said(await provider.complete(ASK, target("general@high"), 5.0)) == "9.6"  # the one worker is free again
    await provider.aclose()


async def test_a_search_is_stopped_when_the_caller_hangs_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(general, "solve", _endless)
    provider = EmbeddedProvider(workers=1)
    task = asyncio.create_task(provider.complete(ASK, target("general@high"), None))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    assert said(await provider.complete(ASK, target("general@high"), 5.0)) == "9.6"
    await provider.aclose()


async def test_the_general_solver_leaves_the_event_loop_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for something that only the event loop can do."""
    loop, released, names = asyncio.get_running_loop(), threading.Event(), []

    def waits(prompt: str, effort: general.Effort, budget: Budget) -> Answer:
        names.append(threading.current_thread().name)
        loop.call_soon_threadsafe(released.set)
        assert released.wait(5)
        return Answer("done")

    monkeypatch.setattr(general, "solve", waits)
    provider = EmbeddedProvider()
    assert said(await provider.complete(ASK, target("general@low"), None)) == "done"
    assert names[0] != threading.main_thread().name
    await provider.aclose()


async def test_specialists_run_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = EmbeddedProvider()
    await provider.complete(ASK, target("arithmetic"), None)
    assert provider._pool is None


@pytest.mark.parametrize("settings", [{"workers": 0}, {"workers": "two"}, {"workers": True}, {"threads": 2}])
def test_wrong_settings_are_a_config_error(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        EmbeddedProvider.from_settings(settings)
    assert EmbeddedProvider.from_settings({"workers": 1}) is not None


def test_the_catalogue_is_complete() -> None:
    assert len(EMBEDDED) >= 6
    assert all(t.provider == "embedded" and t.description and t.price and t.limits.context_tokens for t in EMBEDDED)
    low, high = target("general@low"), target("general@high")
    assert low.upstream_model == high.upstream_model == "general"
    assert low.price == high.price
    assert low.settings != high.settings
