"""The Azure provider in front of a fake that checks header, version and deployment."""

import json

import pytest

from junctor.errors import ConfigError, UpstreamStatus
from junctor.providers.azure import AzureProvider
from junctor.registry import load
from junctor.testing.providers import (
    check_close,
    check_completion,
    check_early_close,
    check_stream,
    check_timeout,
    check_usage_chunk,
)
from junctor.types import Request, Target

from .fakes.azure import KEY, FakeAzure
from .fakes.talking import CLOCK, WEATHER, ask, read_calls, streamed, whole

TARGET = Target(id="az", model="gpt")


@pytest.fixture
async def fake():
    async with FakeAzure() as server:
        yield server


@pytest.fixture(params=["2024-10-21", ""], ids=["deployments", "v1"])
async def provider(fake, request):
    made = AzureProvider.from_settings({"base_url": fake.url, "api_key": KEY, "api_version": request.param})
    yield made
    await made.aclose()


async def test_it_keeps_the_contract_of_a_provider(provider):
    """All but odd requests: what has no bytes in UTF-8 is the caller's own mistake where bodies are passed on as they are."""
    await check_completion(provider, TARGET, ask())
    await check_stream(provider, TARGET, ask())
    await check_usage_chunk(provider, TARGET, ask())
    await check_early_close(provider, TARGET, ask())
    await check_timeout(provider, TARGET, ask())
    await check_close(provider)


def test_it_is_registered():
    assert load("provider", "azure") is AzureProvider


async def test_whole_and_streamed(provider, fake):
    body, reply = await whole(provider, ask("weather and clock", tools=[WEATHER, CLOCK]), TARGET)
    found, stream = await streamed(provider, ask("weather and clock", tools=[WEATHER, CLOCK]), TARGET)
    assert read_calls(found) == read_calls(body["choices"][0]["message"])
    assert reply.finish_reason == stream.finish_reason == "tool_calls"
    assert reply.usage == stream.usage
    assert reply.usage.cached_tokens == 4
    assert {seen.headers["api-key"] for seen in fake.seen} == {KEY}
    assert fake.refused == []


async def test_embeddings(provider):
    reply = await provider.embed(Request(params={"input": ["ab"], "model": "auto"}), TARGET, 5.0)
    assert json.loads(reply.body)["data"][0]["embedding"] == [0.5, 2.0]


async def test_a_wrong_key_is_not_shown(fake):
    made = AzureProvider.from_settings({"base_url": fake.url, "api_key": "wrong-secret"})
    with pytest.raises(UpstreamStatus) as caught:
        await whole(made, ask(), TARGET)
    assert (caught.value.upstream_status, caught.value.http_status) == (401, 502)
    assert "wrong-secret" not in str(caught.value) + repr(made) + caught.value.body.decode()
    await made.aclose()


async def test_a_deployment_s_name_stays_in_its_place(fake):
    made = AzureProvider.from_settings({"base_url": fake.url, "api_key": KEY})
    with pytest.raises(UpstreamStatus, match="does not exist"):
        await whole(made, ask(), Target(id="x", model="../v1?x=#"))
    assert fake.seen[0].path == "/openai/deployments/..%2Fv1%3Fx%3D%23/chat/completions"
    await made.aclose()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({}, "base_url"),
        ({"base_url": "http://u:hush@x"}, "base_url"),
        ({"base_url": "https://x", "ignore": ["seed"]}, "ignore"),
        ({"base_url": "https://x", "api_key": "a\nhush"}, "api_key"),
        ({"base_url": "https://x", "deployment": "hush"}, "deployment"),
    ],
    ids=str,
)
def test_wrong_settings_are_config_errors_that_show_no_value(settings, field):
    with pytest.raises(ConfigError) as caught:
        AzureProvider.from_settings(settings)
    assert field in str(caught.value)
    assert "hush" not in str(caught.value)
