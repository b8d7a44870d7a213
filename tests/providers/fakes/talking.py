"""Asking a provider, and putting together what it streams, as a client would."""

import json

from junctor.types import Request, Target

ANY = Target(id="any", model="some-model")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
PNG = "iVBORw0KGgo="


def ask(content="Hello there", **params):
    messages = params.pop("messages", None) or [{"role": "user", "content": content}]
    return Request(text="x", params={"messages": messages, "model": "auto", **params})


async def whole(provider, request, target=ANY):
    reply = await provider.complete(request, target, 5.0)
    return json.loads(reply.body), reply


async def streamed(provider, request, target=ANY):
    """(message put together from the deltas, finish reason, usage said, reply)."""
    reply = await provider.stream(request, target, 5.0)
    events = [e async for e in reply]
    assert events[-1] == b"data: [DONE]\n\n"
    return joined(events[:-1]), reply


def read_calls(message_):
    """(id, name, arguments) of its tool calls."""
    calls = message_.get("tool_calls") or []
    return [(c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]


def joined(events):
    """What a client puts together from the deltas."""
    out = {"content": "", "tool_calls": []}
    for raw in events:
        chunk = json.loads(raw[6:])
        if chunk.get("usage"):
            out["usage"] = chunk["usage"]
        for choice in chunk["choices"]:
            delta = choice["delta"]
            out["content"] += delta.get("content") or ""
            if "reasoning_content" in delta:
                out["reasoning_content"] = out.get("reasoning_content", "") + delta["reasoning_content"]
            out.setdefault("thinking_blocks", []).extend(delta.get("thinking_blocks", []))
            if "images" in delta:
                out["images"] = out.get("images", []) + delta["images"]
            for who, more in delta.get("extra_content", {}).items():
                out.setdefault("extra_content", {}).setdefault(who, {}).update(more)
            for call in delta.get("tool_calls", []):
                if call["index"] == len(out["tool_calls"]):
                    out["tool_calls"].append(call | {"function": dict(call["function"])})
                else:
                    out["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
            out["finish_reason"] = choice["finish_reason"] or out.get("finish_reason")
    for call in out["tool_calls"]:
        call.pop("index")
    return out
