"""A fake of Azure OpenAI: header, version and deployment are checked; its answers carry what the filters found, as there."""

from __future__ import annotations

import base64
import json
import re
import struct
from typing import Any

from .anthropic import made_up
from .serving import Answer, FakeServer, Refused, Seen, demand

KEY = "azure-test-key"
FILTERS = {"hate": {"filtered": False, "severity": "safe"}}


class FakeAzure(FakeServer):
    """`POST /openai/deployments/gpt/chat/completions?api-version=…`, `/embeddings`."""

    def check(self, seen: Seen) -> None:
        demand("authorization" not in seen.headers, "401", "Access denied due to a bearer token", 401)
        demand(
            seen.headers.get("api-key") == KEY,
            "401",
            f"Access denied due to invalid subscription key {seen.headers.get('api-key')}",
            401,
        )
        found = re.fullmatch(r"/openai/(?:deployments/([^/]+)|v1)/(chat/completions|embeddings)", seen.path)
        demand(found and seen.method == "POST", "404", "Resource not found", 404)
        if seen.path.startswith("/openai/deployments"):
            demand(re.fullmatch(r"api-version=\d{4}-\d\d-\d\d(-preview)?", seen.query), "404", "Resource not found", 404)
            demand(found[1] == "gpt", "DeploymentNotFound", "The API deployment for this resource does not exist.", 404)
        else:
            demand(not seen.query and seen.json["model"] == "gpt", "DeploymentNotFound", "no such deployment", 404)
        if found[2] == "chat/completions":
            check_messages(seen.json.get("messages"))

    def refusal(self, error: Refused) -> Answer:
        return Answer(error.status, json.dumps({"error": {"code": error.kind, "message": error.message}}).encode())

    def answer(self, seen: Seen) -> Answer:
        if seen.path.endswith("embeddings"):
            return embedded(seen.json)
        body = seen.json
        message, reason = reply_to(body)
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "prompt_tokens_details": {"cached_tokens": 4}}
        head = {"id": "chatcmpl-az", "created": 1, "model": "gpt-4o-2024-11-20"}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": reason, "content_filter_results": FILTERS}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            return Answer(body=json.dumps(whole).encode())
        return Answer(headers={"content-type": "text/event-stream"}, pieces=list(stream_of(body, head, message, reason, usage)))


def check_messages(messages: Any) -> None:
    """Roles, and every tool call answered."""
    demand(isinstance(messages, list) and messages, "invalid_request_error", "[] is too short - 'messages'")
    waiting: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            demand(message["tool_call_id"] in waiting, "invalid_request_error", "messages with role 'tool' must be a response")
            waiting.discard(message["tool_call_id"])
        else:
            demand(
                not waiting, "invalid_request_error", "An assistant message with 'tool_calls' must be followed by tool messages"
            )
        waiting |= {call["id"] for call in message.get("tool_calls") or []}
    demand(not waiting, "invalid_request_error", "An assistant message with 'tool_calls' must be followed by tool messages")


def reply_to(body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """(message, finish reason)."""
    heard = []
    for message in reversed(body["messages"]):
        if message["role"] != "tool":
            break
        heard.insert(0, message["content"])
    last = next((m["content"] for m in reversed(body["messages"]) if m["role"] == "user"), "")
    named = [tool["function"] for tool in body.get("tools", []) if tool["function"]["name"] in str(last)]
    if named and not heard:
        calls = [
            {
                "id": f"call_{i}",
                "type": "function",
                "function": {"name": f["name"], "arguments": json.dumps(made_up(f.get("parameters", {})))},
            }
            for i, f in enumerate(named)
        ]
        return {"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls"
    text = "The tools said: " + "; ".join(heard) if heard else f"You said: {last}"
    return {"role": "assistant", "content": text}, "stop"


def stream_of(body: dict[str, Any], head: dict[str, Any], message: dict[str, Any], reason: str, usage: dict[str, Any]):
    """The events; the first one has no choices, only what the filter of the prompt found."""

    def event(choices: list[Any], **more: Any) -> bytes:
        chunk = {**head, "object": "chat.completion.chunk", "choices": choices, **more}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    def choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "finish_reason": finish_reason, "content_filter_results": FILTERS}

    yield event([], prompt_filter_results=[{"prompt_index": 0, "content_filter_results": FILTERS}])
    yield event([choice({"role": "assistant", "content": ""})])
    text = message["content"] or ""
    size = max(5, len(text) // 50)
    for place in range(0, len(text), size):
        yield event([choice({"content": text[place : place + size]})])
    for index, call in enumerate(message.get("tool_calls", [])):
        yield event([choice({"tool_calls": [{"index": index, **call}]})])
    yield event([choice({}, reason)])
    if (body.get("stream_options") or {}).get("include_usage"):
        yield event([], usage=usage)
    yield b"data: [DONE]\n\n"


def embedded(body: dict[str, Any]) -> Answer:
    """A vector per text."""
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    rows: list[Any] = [[0.5, float(len(text))] for text in texts]
    if body.get("encoding_format") == "base64":
        rows = [base64.b64encode(struct.pack("<2f", *row)).decode() for row in rows]
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return Answer(body=json.dumps({"object": "list", "data": data, "model": "embed", "usage": usage}).encode())
