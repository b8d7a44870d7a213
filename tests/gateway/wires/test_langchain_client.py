"""LangChain's chat model, as it is, against a running gateway: chat, tools, streams, async, structured output."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from .conftest import CALL, completion

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::UserWarning"
)


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int


@pytest.fixture
async def connections() -> AsyncIterator[dict[str, Any]]:
    """What it calls through, so that a test can close it."""
    with httpx.Client(verify=False) as plain:
        async with httpx.AsyncClient(verify=False) as waiting:
            yield {"http_client": plain, "http_async_client": waiting}


@pytest.fixture
def model(connections) -> Callable[..., Any]:
    """Makes the chat model; it is told nothing but where the gateway is."""
    from langchain_openai import ChatOpenAI

    def make(served: Any, **more: Any) -> Any:
        url = served.url + "/v1"
        return ChatOpenAI(model="auto", base_url=url, api_key="sk-caller", max_retries=0, **connections, **more)

    return make


def get_weather(city: str) -> str:
    """The weather in a city."""
    raise AssertionError("only its signature is used")


async def test_chat_and_what_it_costs(saying, gateway, model) -> None:
    up = await saying(completion({"content": "pong"}))
    served = await gateway(up)
    said = await asyncio.to_thread(model(served, temperature=0.2).invoke, [("system", "Be short."), ("user", "ping")])
    assert said.content == "pong"
    assert said.usage_metadata["input_tokens"] == 20
    assert said.usage_metadata["output_tokens"] == 9
    assert said.response_metadata["finish_reason"] == "stop"
    sent = up.bodies[0]
    assert [turn["role"] for turn in sent["messages"]] == ["system", "user"]
    assert sent["temperature"] == 0.2


async def test_streams_sync_and_async(saying, gateway, model) -> None:
    served = await gateway(await saying(completion({"content": "one two three"})))
    ours = model(served, stream_usage=True)

    def read() -> list[Any]:
        return list(ours.stream("count"))

    parts = await asyncio.to_thread(read)
    assert len([part for part in parts if part.content]) > 1
    assert "".join(part.content for part in parts) == "one two three"
    assert sum(part.usage_metadata["output_tokens"] for part in parts if part.usage_metadata) == 9
    later = [part.content async for part in ours.astream("count")]
    assert "".join(later) == "one two three"
    assert (await ours.ainvoke("count")).content == "one two three"


async def test_tools(saying, gateway, model) -> None:
    up = await saying(completion({"tool_calls": [CALL]}, "tool_calls"))
    served = await gateway(up)
    said = await asyncio.to_thread(model(served).bind_tools([get_weather]).invoke, "weather in Bern?")
    assert [(call["name"], call["args"]) for call in said.tool_calls] == [("get_weather", {"city": "Bern", "days": [1, 2]})]
    assert up.bodies[0]["tools"][0]["function"]["name"] == "get_weather"


async def test_structured_output(saying, gateway, model) -> None:
    up = await saying(completion({"content": json.dumps({"city": "Bern", "degrees": 21})}))
    served = await gateway(up)
    found = await asyncio.to_thread(model(served).with_structured_output(Weather, method="json_schema").invoke, "weather?")
    assert found == Weather(city="Bern", degrees=21)
    assert up.bodies[0]["response_format"]["type"] == "json_schema"


async def test_embeddings_go_the_same_way(gateway, tmp_path, connections) -> None:
    from langchain_openai import OpenAIEmbeddings

    from junctor.build import build_engine
    from junctor.config import parse_config

    tree = {
        "journal": {"path": ""},
        "providers": {"embedded": {}},
        "targets": {"static-embeddings": {"provider": "embedded", "capabilities": ["embeddings"]}},
    }
    served = await gateway(engine=build_engine(parse_config(tree, tmp_path)))
    ours = OpenAIEmbeddings(
        model="static-embeddings",
        base_url=served.url + "/v1",
        api_key="sk-caller",
        check_embedding_ctx_length=False,
        **connections,
    )
    near, far = await asyncio.to_thread(ours.embed_documents, ["a cat", "stocks fell on Monday"])
    assert len(near) == len(far) == 256
    assert sum(a * b for a, b in zip(near, far, strict=True)) < 0.9
