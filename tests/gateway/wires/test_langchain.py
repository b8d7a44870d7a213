"""LangChain's chat models run unchanged against a gateway, by all three APIs."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from .conftest import CALL, completion

pytestmark = pytest.mark.slow


def weather(city: str) -> str:
    """The weather in a city."""
    return city


def models(url: str) -> list[Any]:
    """One chat model for each API."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_anthropic import ChatAnthropic
        from langchain_openai import ChatOpenAI
    chat: dict[str, Any] = {"model": "auto", "base_url": url + "/v1", "api_key": "sk-caller", "max_retries": 0}
    return [
        ChatOpenAI(**chat),
        ChatOpenAI(**chat, use_responses_api=True),
        ChatAnthropic(model_name="auto", base_url=url, api_key="sk-caller", max_retries=0, timeout=20, stop=None),
    ]


async def test_chat_tools_and_streams(saying, gateway) -> None:
    for place in range(3):
        said = completion({"content": "Warm, I think."})
        served = await gateway(await saying(said, completion({"tool_calls": [CALL]}, "tool_calls"), said))
        model = models(served.url)[place]
        assert (await model.ainvoke("ping")).text == "Warm, I think."
        called = await model.bind_tools([weather]).ainvoke("How warm is it?")
        assert called.tool_calls[0]["name"] == "get_weather"
        assert called.tool_calls[0]["args"] == {"city": "Bern", "days": [1, 2]}
        whole = ""
        async for chunk in model.astream("ping"):
            whole += chunk.text
        assert whole == "Warm, I think."
