"""An upstream that says what it is told to say, whole or in small pieces, and what it was sent."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Bern", "days": [1, 2]}'},
}
OTHER_CALL = {"id": "call_2", "type": "function", "function": {"name": "get_time", "arguments": '{"zone": "CET"}'}}
THOUGHT = {"type": "thinking", "thinking": "Let me think about it.", "signature": "c2lnbmF0dXJl"}


_connections: dict[str, Any] = {}


def shared_connections(sdk: ModuleType) -> Any:
    """What the clients under test call through: made once, because reading the system's certificates takes a while."""
    if sdk.__name__ not in _connections:
        _connections[sdk.__name__] = sdk.DefaultHttpxClient(verify=False)
    return _connections[sdk.__name__]


@pytest.fixture(autouse=True, scope="module")
def _closed() -> Iterator[None]:
    yield
    while _connections:
        _connections.popitem()[1].close()


@pytest.fixture(autouse=True)
def _collector_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that starts has the collector walk everything, and the clients under test bring much that is walked slowly."""
    monkeypatch.setattr("junctor.gateway.serving._calm_collector", contextlib.nullcontext)


def completion(message: dict[str, Any], finish_reason: str = "stop", usage: dict[str, Any] | None = None) -> dict[str, Any]:
    """A chat.completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "up",
        "choices": [choice],
        "usage": usage or USAGE,
    }


def pieces(text: str, size: int) -> list[str]:
    """The text cut up."""
    return [text[i : i + size] for i in range(0, len(text), size)]


def deltas(message: dict[str, Any], size: int = 3) -> list[dict[str, Any]]:
    """A message as deltas, cut up."""
    out: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    blocks = message.get("thinking_blocks")
    for block in blocks or ():
        if block["type"] != "thinking":
            out.append({"thinking_blocks": [block]})
            continue
        for text in pieces(block["thinking"], size):
            said = {"type": "thinking", "thinking": text, "signature": ""}
            out.append({"reasoning_content": text, "thinking_blocks": [said]})
        if block["signature"]:
            sealed = {"type": "thinking", "thinking": "", "signature": block["signature"]}
            out.append({"reasoning_content": "", "thinking_blocks": [sealed]})
    if not blocks:
        out += [{"reasoning_content": text} for text in pieces(message.get("reasoning_content") or "", size)]
    out += [{"content": text} for text in pieces(message.get("content") or "", size)]
    out += [{"refusal": text} for text in pieces(message.get("refusal") or "", size)]
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        head = {"index": index, "id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": ""}}
        out.append({"tool_calls": [head]})
        out += [{"tool_calls": [{"index": index, "function": {"arguments": t}}]} for t in pieces(function["arguments"], size)]
    return out


def chunks(body: dict[str, Any], size: int = 3, *, usage: bool = True) -> list[bytes]:
    """A chat.completion as the events of a stream."""
    choice = body["choices"][0]
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    found = [{**base, "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas(choice["message"], size)]
    found.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    if usage:
        found.append({**base, "choices": [], "usage": body["usage"]})
    return [b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n" for chunk in found] + [b"data: [DONE]\n\n"]


def _http(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


@pytest.fixture
def saying(upstream) -> Callable[..., Any]:
    """Starts an upstream that gives these answers, one after the other, the last again and again."""

    async def start(*bodies: dict[str, Any]) -> Any:
        left = list(bodies)

        async def act(up, reader, writer) -> None:
            body = left.pop(0) if len(left) > 1 else left[0]
            if not up.bodies[-1].get("stream"):
                writer.write(_http(json.dumps(body).encode()))
                return
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for part in chunks(body):
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                await writer.drain()
            writer.write(b"0\r\n\r\n")

        return await upstream(act)

    return start
