"""Each provider end to end: the real openai client, a gateway from a configuration file, a fake that checks what it is sent."""

import asyncio
import contextlib
import json

import anthropic
import openai
import pytest

from junctor.build import build_engine
from junctor.config import load_config
from junctor.gateway import serve_async

from .fakes.anthropic import KEY as ANTHROPIC_KEY
from .fakes.anthropic import FakeAnthropic
from .fakes.azure import KEY as AZURE_KEY
from .fakes.azure import FakeAzure
from .fakes.bedrock import ACCESS_KEY, FakeBedrock
from .fakes.bedrock import SECRET_KEY as BEDROCK_KEY
from .fakes.gemini import KEY as GEMINI_KEY
from .fakes.gemini import FakeGemini
from .fakes.serving import Answer, Refused

pytestmark = pytest.mark.slow  # as a whole: `make check` is an inner loop

CONFIG = """
[journal]
path = ""

[providers.up]
headers = {{ "x-team" = "wombat-4711" }}
{provider}

[targets.foreign]
provider = "up"
model = "{model}"
price = {{ input_usd_per_mtok = 3.0, output_usd_per_mtok = 15.0, cached_input_usd_per_mtok = 0.3 }}

[targets.foreign.limits]
output_tokens = 8192
"""
BEDROCK = f'kind = "bedrock"\nregion = "eu-central-1"\nbase_url = "{{url}}"\naccess_key_id = "{ACCESS_KEY}"'
PROVIDERS = {
    "anthropic": (FakeAnthropic, 'kind = "anthropic"\nbase_url = "{url}"\napi_key = "env:KEY"', "claude-x", ANTHROPIC_KEY),
    "gemini": (FakeGemini, 'kind = "gemini"\nbase_url = "{url}"\napi_key = "env:KEY"', "gemini-x", GEMINI_KEY),
    "bedrock": (FakeBedrock, BEDROCK + '\nsecret_access_key = "env:KEY"', "anthropic.claude-v1:0", BEDROCK_KEY),
    "azure": (FakeAzure, 'kind = "azure"\nbase_url = "{url}"\napi_key = "env:KEY"', "gpt", AZURE_KEY),
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(params=PROVIDERS)
async def client(request, tmp_path, monkeypatch):
    """(client, fake): a gateway as `junctor serve` makes it from a file, and what is behind it."""
    make, settings, model, key = PROVIDERS[request.param]
    monkeypatch.setenv("KEY", key)
    async with make() as fake, contextlib.AsyncExitStack() as stack:
        path = tmp_path / "junctor.toml"
        path.write_text(CONFIG.format(provider=settings.format(url=fake.url), model=model))
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        engine = build_engine(load_config(path))
        serving = serve_async(engine, port=0, on_ready=lambda _, port: ready.set_result(port), until=stop)
        task = asyncio.create_task(serving)
        base = f"http://127.0.0.1:{await ready}/v1"
        yield await stack.enter_async_context(openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0)), fake
        await stack.aclose()
        stop.set()
        await asyncio.wait_for(task, 20)


async def test_a_conversation_with_tools(client):
    """Ask, be called, answer: whole and streamed, through the public client."""
    client, fake = client
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "weather in Paris?"}]
    first = await client.chat.completions.create(model="foreign", messages=turns, tools=[WEATHER], max_tokens=50)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Paris"}
    turns += [
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"},
    ]
    second = await client.chat.completions.create(model="foreign", messages=turns, tools=[WEATHER])
    assert second.choices[0].message.content == "The tools said: sunny"
    assert second.usage.prompt_tokens > 0
    stream = await client.chat.completions.create(
        model="foreign", messages=turns, tools=[WEATHER], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == "The tools said: sunny"
    assert chunks[-1].usage.completion_tokens == second.usage.completion_tokens
    assert fake.refused == []


async def test_a_streamed_tool_call(client):
    """The pieces of the arguments are one JSON object."""
    client, fake = client
    turns = [{"role": "user", "content": "weather in Paris?"}]
    async with client.chat.completions.stream(model="foreign", messages=turns, tools=[WEATHER]) as stream:
        final = await stream.get_final_completion()
    call = final.choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
    assert final.choices[0].finish_reason == "tool_calls"
    assert fake.refused == []


async def test_what_it_cannot_do_is_refused_with_a_reason(client):
    """A field that has no word in the upstream's API is the caller's to leave out: 400 or 422, never silence, never 5xx."""
    client, fake = client
    if isinstance(fake, FakeAzure):
        return  # it takes whatever OpenAI takes
    turns = [{"role": "user", "content": "hi"}]
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(model="foreign", messages=turns, logit_bias={"5": 1})
    assert caught.value.status_code in (400, 422)
    assert caught.value.body["param"] == "logit_bias"
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(model="foreign", messages=turns, n=2)
    assert (caught.value.status_code, caught.value.body["param"]) == (422, "n")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="foreign", messages=[{"role": "user", "content": "x", "name": "bob"}])
    assert caught.value.body["param"] == "messages[0].name"
    assert fake.seen == []


@pytest.mark.parametrize("stream", [False, True])
async def test_no_header_s_value_comes_back(client, stream):
    """An upstream that quotes what it was sent gives none of it away, whatever the header is called."""
    client, fake = client
    fake.planned.append(fake.refusal(Refused(400, "invalid_request_error", "no team is called wombat-4711, dear caller")))
    with pytest.raises(openai.BadRequestError, match="dear caller") as caught:
        await client.chat.completions.create(model="foreign", messages=[{"role": "user", "content": "hi"}], stream=stream)
    assert fake.seen[-1].headers["x-team"] == "wombat-4711"
    assert "wombat" not in str(caught.value) + caught.value.response.text


@pytest.mark.parametrize("client", ["anthropic"], indirect=True)
async def test_nor_does_it_in_the_middle_of_a_stream(client):
    """An error event is told in the upstream's words without it; names that are no secret stay readable."""
    client, fake = client
    error = {"type": "invalid_request_error", "message": "wombat-4711 cannot have anthropic-version 2023-06-01"}
    event = b"event: error\ndata: " + json.dumps({"type": "error", "error": error}).encode() + b"\n\n"
    fake.planned.append(Answer(headers={"content-type": "text/event-stream"}, pieces=[event]))
    with pytest.raises(openai.BadRequestError, match="anthropic-version 2023-06-01") as caught:
        await client.chat.completions.create(model="foreign", messages=[{"role": "user", "content": "hi"}], stream=True)
    assert "wombat" not in str(caught.value)


@pytest.mark.parametrize("client", ["anthropic", "bedrock"], indirect=True)
async def test_the_anthropic_client_gets_its_own_api_back(client):
    """Messages in, Messages or Converse out: signed thoughts, cache marks, tools and their errors survive both ways."""
    inside, fake = client
    url = str(inside.base_url).removesuffix("/v1/")
    tool = {"name": "weather", "description": "…", "input_schema": WEATHER["function"]["parameters"]}
    thinking = {"type": "enabled", "budget_tokens": 1500}
    more = {"model": "foreign", "max_tokens": 3000, "tools": [tool], "thinking": thinking}
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    turns = [{"role": "user", "content": "weather in Paris?"}]
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as caller:
        first = await caller.messages.create(messages=turns, system=system, **more)
        assert [block.type for block in first.content] == ["thinking", "tool_use"]
        assert (first.stop_reason, first.usage.cache_creation_input_tokens) == ("tool_use", 100)
        async with caller.messages.stream(messages=turns, system=system, **more) as stream:
            final = await stream.get_final_message()
        assert [block.model_dump(exclude_none=True) for block in final.content] == [
            block.model_dump(exclude_none=True) for block in first.content
        ]
        result = {"type": "tool_result", "tool_use_id": first.content[1].id, "content": "no wind", "is_error": True}
        turns += [
            {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
            {"role": "user", "content": [result]},
        ]
        second = await caller.messages.create(messages=turns, system=system, **more)
        assert second.content[-1].text == "The tools said: no wind"
    assert fake.refused == []
