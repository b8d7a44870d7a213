"""The scripted provider: each step does what it says, in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from junctor.errors import (
    ConfigError,
    UpstreamBroken,
    UpstreamError,
    UpstreamGarbage,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)
from junctor.providers.scripted import ScriptedProvider, Step
from junctor.registry import load
from junctor.testing.providers import check_provider
from junctor.types import Request, Target

A, B = Target(id="a"), Target(id="b")
ASK = Request(text="Well?")


def said(body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


async def texts(provider: ScriptedProvider, target: Target, times: int) -> list[str]:
    return [said((await provider.complete(ASK, target, None)).body) for _ in range(times)]


async def pieces(provider: ScriptedProvider, target: Target, into: list[str], timeout_s: float | None = None) -> None:
    async for event in await provider.stream(ASK, target, timeout_s):
        if event != b"data: [DONE]\n\n":
            choices: Sequence[dict[str, dict[str, str]]] = json.loads(event[6:])["choices"]
            into.extend(c["delta"]["content"] for c in choices if c["delta"].get("content"))


async def test_it_keeps_the_contract() -> None:
    await check_provider(ScriptedProvider({"a": Step(answer="hello there you")}), A, ASK)


async def test_steps_are_used_in_order_and_the_last_one_stays() -> None:
    provider = ScriptedProvider({"a": [Step(answer="1"), Step(answer="2", times=2), Step(answer="3")]})
    assert await texts(provider, A, 6) == ["1", "2", "2", "3", "3", "3"]


async def test_a_script_may_start_over_or_end() -> None:
    steps = [Step(answer="1"), Step(answer="2")]
    assert await texts(ScriptedProvider({"a": steps}, then="cycle"), A, 5) == ["1", "2", "1", "2", "1"]
    ending = ScriptedProvider({"a": steps}, then="refuse")
    await texts(ending, A, 2)
    with pytest.raises(UpstreamRefused, match="end"):
        await ending.complete(ASK, A, None)


async def test_targets_have_their_own_place_in_a_shared_script() -> None:
    provider = ScriptedProvider({"a": Step(answer="own"), "*": [Step(answer="x"), Step(answer="y")]})
    assert await texts(provider, A, 1) == ["own"]
    assert await texts(provider, B, 2) == ["x", "y"]
    assert await texts(provider, Target(id="c"), 1) == ["x"]


async def test_a_target_without_a_script_is_a_404() -> None:
    with pytest.raises(UpstreamStatus) as refused:
        await ScriptedProvider({"a": Step()}).complete(ASK, B, None)
    assert refused.value.upstream_status == 404


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Step(refuse=True), UpstreamRefused),
        (Step(timeout=True), UpstreamTimeout),
        (Step(status=500), UpstreamStatus),
        (Step(garbage=True), UpstreamGarbage),
        (Step(hang=True), UpstreamTimeout),
        (Step(delay_s=9.0), UpstreamTimeout),
    ],
)
async def test_each_failure_before_the_first_byte(step: Step, error: type[UpstreamError]) -> None:
    for call in (ScriptedProvider({"a": step}).complete, ScriptedProvider({"a": step}).stream):
        with pytest.raises(error) as raised:
            await call(ASK, A, 0.01)
        assert raised.value.target == "a"


async def test_a_whole_answer_breaks_or_stalls_too() -> None:
    with pytest.raises(UpstreamBroken):
        await ScriptedProvider({"a": Step(break_after=1)}).complete(ASK, A, None)
    with pytest.raises(UpstreamTimeout):
        await ScriptedProvider({"a": Step(stall_after=1)}).complete(ASK, A, 0.01)


async def test_a_rate_limit_says_when_to_come_back() -> None:
    with pytest.raises(UpstreamStatus) as limited:
        await ScriptedProvider({"a": Step(status=429, retry_after_s=2.5)}).complete(ASK, A, None)
    assert limited.value.retryable
    assert limited.value.retry_after_s == 2.5
    assert json.loads(limited.value.body)["error"]["code"] == "status_429"


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_a_stream_breaks_after_so_many_pieces(after: int) -> None:
    provider, seen = ScriptedProvider({"a": Step(chunks=("x", "y", "z"), break_after=after)}), []
    with pytest.raises(UpstreamBroken):
        await pieces(provider, A, seen)
    assert seen == ["x", "y", "z"][:after]
    assert provider.open_streams == 0


async def test_a_stream_stalls_until_the_time_is_up() -> None:
    provider, seen = ScriptedProvider({"a": Step(chunks=("x", "y"), stall_after=1)}), []
    with pytest.raises(UpstreamTimeout):
        await pieces(provider, A, seen, 0.01)
    assert seen == ["x"]


async def test_a_hanging_call_can_be_given_up() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ScriptedProvider({"a": Step(hang=True)}).complete(ASK, A, None), 0.01)


async def test_delays_only_delay() -> None:
    provider, seen = ScriptedProvider({"a": Step(answer="x y", delay_s=0.001, chunk_delay_s=0.001)}), []
    await pieces(provider, A, seen, 5.0)
    assert seen == ["x", " y"]


async def test_usage_cost_and_quality_are_reported() -> None:
    step = Step(answer="fine", input_tokens=5, output_tokens=7, cost_usd=0.5, quality=0.25)
    provider = ScriptedProvider({"a": step})
    reply = await provider.complete(ASK, A, None)
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.cost_usd, reply.quality) == (5, 7, 0.5, 0.25)
    stream = await provider.stream(ASK, A, None)
    assert stream.finish_reason == ""
    async for _ in stream:
        pass
    assert (stream.usage.output_tokens, stream.cost_usd, stream.finish_reason) == (7, 0.5, "stop")


async def test_it_remembers_what_it_was_asked() -> None:
    provider = ScriptedProvider()
    await provider.complete(ASK, A, 3.0)
    stream = await provider.stream(ASK, B, None)
    assert [(c.target, c.timeout_s, c.streamed, c.request.text) for c in provider.calls] == [
        ("a", 3.0, False, "Well?"),
        ("b", None, True, "Well?"),
    ]
    assert provider.open_streams == 1
    await stream.aclose()
    await stream.aclose()
    assert provider.open_streams == 0
    await provider.aclose()
    assert provider.closed == 1


async def test_it_is_made_from_configuration() -> None:
    settings = {"script": {"a": [{"status": 429}, {"answer": "now"}], "*": {"answer": "any"}}, "then": "last"}
    provider = ScriptedProvider.from_settings(settings)
    with pytest.raises(UpstreamStatus):
        await provider.complete(ASK, A, None)
    assert await texts(provider, A, 1) == ["now"]
    assert await texts(provider, B, 1) == ["any"]
    assert await texts(ScriptedProvider.from_settings({}), B, 1) == ["ok"]
    assert load("provider", "scripted") is ScriptedProvider


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"script": {"a": {"anser": "x"}}}, "anser"),
        ({"script": {"a": {"status": 200}}}, "400 to 599"),
        ({"script": {"a": {"times": 0}}}, "times"),
        ({"script": {"a": {"delay_s": -1}}}, "negative"),
        ({"script": {"a": []}}, "no steps"),
        ({"then": "stop"}, "stop"),
        ({"scripts": {}}, "scripts"),
    ],
)
def test_wrong_settings_are_a_config_error(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ScriptedProvider.from_settings(settings)


def test_an_unknown_ending_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="cycle"):
        ScriptedProvider(then="stop")  # type: ignore[arg-type]
