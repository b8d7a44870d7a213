"""A fake of Anthropic's Messages API: the checks of the public documentation, deterministic answers.

It says what it was told ("You said: …"), calls the tools that it is told to call or whose names it reads, thinks when it may,
signs its thoughts, and takes none back that it did not sign.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from .serving import Answer, FakeServer, Refused, Seen, demand

KEY = "sk-ant-test-key"
BAD = "invalid_request_error"
FIELDS = {
    "model", "messages", "max_tokens", "system", "stop_sequences", "stream", "temperature", "top_p", "top_k", "tools",
    "tool_choice", "thinking", "metadata", "service_tier", "container", "output_config", "mcp_servers", "context_management",
    "cache_control",
}  # fmt: skip
PICTURES = ("image/jpeg", "image/png", "image/gif", "image/webp")


def sign(thinking: str) -> str:
    """The signature of a thought."""
    return "sig-" + hashlib.sha256(thinking.encode()).hexdigest()[:24]


class FakeAnthropic(FakeServer):
    """`POST /v1/messages`."""

    def check(self, seen: Seen) -> None:
        demand(seen.headers.get("x-api-key"), "authentication_error", "x-api-key header is required", 401)
        demand(seen.headers["x-api-key"] == KEY, "authentication_error", f"invalid x-api-key {seen.headers['x-api-key']}", 401)
        demand((seen.method, seen.path) == ("POST", "/v1/messages"), "not_found_error", "Not found", 404)
        demand(seen.headers.get("anthropic-version"), BAD, "anthropic-version: header is required")
        demand(seen.headers["anthropic-version"] == "2023-06-01", BAD, "anthropic-version: is not a valid version")
        demand(seen.headers.get("content-type") == "application/json", BAD, "content-type must be application/json")
        try:
            body = seen.json
        except ValueError:
            raise Refused(400, BAD, "The request body is not valid JSON") from None
        demand(len(seen.body) < 32 * 1024 * 1024, "request_too_large", "Request exceeds the maximum size", 413)
        check_body(body)

    def refusal(self, error: Refused) -> Answer:
        return failure(error.status, error.kind, error.message)

    def answer(self, seen: Seen) -> Answer:
        return said(seen.json, *reply_to(seen.json))


def failure(status: int, kind: str, message: str, **headers: str) -> Answer:
    """An error answer."""
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return Answer(status, json.dumps(body).encode(), {k.replace("_", "-"): v for k, v in headers.items()})


def check_body(body: Any) -> None:
    """The body of a call."""
    demand(isinstance(body, dict), BAD, "Input should be a valid dictionary")
    for name in body:
        demand(name in FIELDS, BAD, f"{name}: Extra inputs are not permitted")
    for name in ("model", "max_tokens", "messages"):
        demand(name in body, BAD, f"{name}: Field required")
    demand(isinstance(body["model"], str) and body["model"], BAD, "model: Input should be a valid string")
    demand(body["model"] != "no-such-model", "not_found_error", f"model: {body['model']}", 404)
    demand(
        type(body["max_tokens"]) is int and body["max_tokens"] >= 1,
        BAD,
        "max_tokens: Input should be greater than or equal to 1",
    )
    for stop in body.get("stop_sequences", []):
        demand(isinstance(stop, str) and stop.strip(), BAD, "stop_sequences: each stop sequence must contain non-whitespace")
    demand(0 <= body.get("temperature", 1) <= 1, BAD, "temperature: range: 0..1")
    demand(0 <= body.get("top_p", 1) <= 1, BAD, "top_p: range: 0..1")
    demand(
        body.get("service_tier", "auto") in ("auto", "standard_only"),
        BAD,
        "service_tier: Input should be 'auto' or 'standard_only'",
    )
    demand(set(body.get("metadata", {})) <= {"user_id"}, BAD, "metadata: Extra inputs are not permitted")
    check_system(body.get("system", "x"))
    check_tools(body)
    check_thinking(body)
    check_format(body.get("output_config", {}))
    check_messages(body)
    marks = json.dumps(body).count('"cache_control"')
    demand(marks <= 4, BAD, f"A maximum of 4 blocks with cache_control may be provided. Found {marks}.")


def check_system(system: Any) -> None:
    for block in [] if isinstance(system, str) else system:
        demand(block.get("type") == "text", BAD, "system: Input tag does not match 'text'")
        demand(block.get("text"), BAD, "system: text content blocks must be non-empty")
        check_block_keys("system", block, {"text", "citations"})


def check_tools(body: dict[str, Any]) -> None:
    tools = body.get("tools", [])
    names = [tool.get("name") for tool in tools]
    demand(len(set(names)) == len(names), BAD, "tools: Tool names must be unique.")
    for place, tool in enumerate(tools):
        if tool.get("type", "custom") != "custom":
            continue
        demand(
            re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", tool.get("name", "")),
            BAD,
            f"tools.{place}.custom.name: String should match pattern",
        )
        demand(
            tool.get("input_schema", {}).get("type") == "object", BAD, f"tools.{place}.custom.input_schema.type: Field required"
        )
        extra = set(tool) - {"name", "input_schema", "description", "strict", "cache_control", "type"}
        demand(not extra, BAD, f"tools.{place}.custom: {extra}: Extra inputs are not permitted")
    choice = body.get("tool_choice")
    if choice is not None:
        demand(tools, BAD, "tool_choice: may only be specified while providing tools")
        demand(choice.get("type") in ("auto", "any", "tool", "none"), BAD, "tool_choice: Input tag does not match")
        demand(choice["type"] != "tool" or choice.get("name") in names, BAD, "tool_choice.name: no such tool")
        demand(choice["type"] != "none" or set(choice) == {"type"}, BAD, "tool_choice.none: Extra inputs are not permitted")


def check_thinking(body: dict[str, Any]) -> None:
    thinking = body.get("thinking", {"type": "disabled"})
    kind = thinking.get("type")
    demand(kind in ("enabled", "disabled", "adaptive"), BAD, "thinking: Input tag does not match")
    if kind == "disabled":
        return
    if kind == "enabled":
        budget = thinking.get("budget_tokens", 0)
        demand(budget >= 1024, BAD, "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
        demand(budget < body["max_tokens"], BAD, "`max_tokens` must be greater than `thinking.budget_tokens`")
    demand(body.get("temperature", 1) == 1, BAD, "`temperature` may only be set to 1 when thinking is enabled")
    forced = body.get("tool_choice", {}).get("type") in ("any", "tool")
    demand(not forced, BAD, "Thinking may not be enabled when tool_choice forces tool use.")


def check_format(config: dict[str, Any]) -> None:
    demand(set(config) <= {"effort", "format"}, BAD, "output_config: Extra inputs are not permitted")
    demand(
        config.get("effort") in (None, "low", "medium", "high", "xhigh", "max"), BAD, "output_config.effort: Input should be"
    )
    form = config.get("format")
    if form is not None:
        demand(form.get("type") == "json_schema" and isinstance(form.get("schema"), dict), BAD, "output_config.format: wrong")
        demand(
            form["schema"].get("additionalProperties") is False,
            BAD,
            "output_config.format.schema: additionalProperties must be false",
        )


def check_messages(body: dict[str, Any]) -> None:
    messages = body["messages"]
    demand(isinstance(messages, list) and messages, BAD, "messages: at least one message is required")
    demand(messages[0].get("role") == "user", BAD, 'messages: first message must use the "user" role')
    waiting: list[str] = []
    for place, message in enumerate(messages):
        where = f"messages.{place}"
        demand(message.get("role") == ("user", "assistant")[place % 2], BAD, f"{where}: roles must alternate")
        blocks = message.get("content")
        blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
        demand(isinstance(blocks, list) and blocks, BAD, f"{where}: content must be non-empty")
        for at, block in enumerate(blocks):
            check_block(f"{where}.content.{at}", block, message["role"])
        waiting = check_pairs(where, blocks, waiting)
    demand(not waiting, BAD, f"messages: `tool_use` ids were found without `tool_result` blocks immediately after: {waiting}")
    check_last(messages[-1], body)


def check_last(last: dict[str, Any], body: dict[str, Any]) -> None:
    if last["role"] == "assistant":
        text = last["content"][-1].get("text", "x")
        demand(text == text.rstrip(), BAD, "messages: final assistant content cannot end with trailing whitespace")
        demand(body.get("thinking", {}).get("type") != "enabled", BAD, "messages: prefill is not supported with thinking")


def check_pairs(where: str, blocks: list[dict[str, Any]], waiting: list[str]) -> list[str]:
    """Every call of the turn before is answered here, before anything else is said."""
    kinds = [block["type"] for block in blocks]
    results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    if waiting:
        first = kinds[: len(waiting)] == ["tool_result"] * len(waiting)
        missing = sorted(set(waiting) - set(results))
        demand(
            first and not missing,
            BAD,
            f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: {missing}",
        )
    stray = sorted(set(results) - set(waiting))
    demand(not stray, BAD, f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {stray}")
    demand(len(set(results)) == len(results), BAD, f"{where}: each tool_use must have a single result")
    return [block["id"] for block in blocks if block["type"] == "tool_use"]


def check_block_keys(where: str, block: dict[str, Any], keys: set[str]) -> None:
    extra = set(block) - keys - {"type", "cache_control"}
    demand(not extra, BAD, f"{where}.{block['type']}: {sorted(extra)}: Extra inputs are not permitted")
    mark = block.get("cache_control")
    if mark is not None:
        demand(mark.get("type") == "ephemeral" and mark.get("ttl", "5m") in ("5m", "1h"), BAD, f"{where}.cache_control: wrong")


ALLOWED = {
    "text": ("text",),
    "image": ("source",),
    "document": ("source", "title", "context", "citations"),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id", "content", "is_error"),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
}


def check_block(where: str, block: Any, role: str) -> None:
    kind = block.get("type") if isinstance(block, dict) else None
    demand(kind in ALLOWED, BAD, f"{where}: Input tag {kind!r} found using 'type' does not match any of the expected tags")
    check_block_keys(where, block, set(ALLOWED[kind]))
    mine = "assistant" if kind in ("tool_use", "thinking", "redacted_thinking") else "user"
    demand(kind == "text" or role == mine, BAD, f"{where}: {kind} blocks can only be in {mine} messages")
    if kind == "text":
        demand(isinstance(block.get("text"), str) and block["text"], BAD, "messages: text content blocks must be non-empty")
    elif kind in ("image", "document"):
        check_source(where, kind, block.get("source") or {})
    elif kind == "tool_use":
        demand(re.fullmatch(r"[a-zA-Z0-9_-]+", block.get("id", "")), BAD, f"{where}.tool_use.id: String should match pattern")
        demand(isinstance(block.get("input"), dict), BAD, f"{where}.tool_use.input: Input should be a valid dictionary")
    elif kind == "tool_result":
        content = block.get("content", [])
        for at, part in enumerate(content if isinstance(content, list) else []):
            demand(part.get("type") in ("text", "image", "document"), BAD, f"{where}.tool_result.content.{at}: Input tag wrong")
            check_block(f"{where}.tool_result.content.{at}", part, "user")
    elif kind == "thinking":
        demand(
            block.get("signature") == sign(block.get("thinking", "")), BAD, f"{where}: Invalid `signature` in `thinking` block"
        )


def check_source(where: str, kind: str, source: dict[str, Any]) -> None:
    form = source.get("type")
    demand(form in ("base64", "url", "file", "text"), BAD, f"{where}.{kind}.source: Input tag {form!r} does not match")
    if form == "base64":
        types = PICTURES if kind == "image" else ("application/pdf",)
        demand(source.get("media_type") in types, BAD, f"{where}.{kind}.source.base64.media_type: Input should be {types}")
        base64.b64decode(source["data"], validate=True)
    if form == "url":
        demand(source.get("url", "").startswith("http"), BAD, f"{where}.{kind}.source.url: Only HTTPS URLs are supported.")


def last_text(body: dict[str, Any]) -> str:
    """The last text of the user's."""
    blocks = body["messages"][-1]["content"]
    texts = [b["text"] for b in blocks if b["type"] == "text"] if isinstance(blocks, list) else [blocks]
    return texts[-1] if texts else ""


def reply_to(body: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """(content blocks, stop reason)."""
    out: list[dict[str, Any]] = []
    if body.get("thinking", {}).get("type") in ("enabled", "adaptive"):
        thought = "Let me see: " + last_text(body)[:20]
        out.append({"type": "thinking", "thinking": thought, "signature": sign(thought)})
    choice = body.get("tool_choice", {"type": "auto"})
    results = [b for b in body["messages"][-1]["content"] if isinstance(b, dict) and b["type"] == "tool_result"]
    named = [t for t in body.get("tools", []) if t["name"] in last_text(body) or choice["type"] == "any"]
    if choice["type"] == "tool":
        named = [t for t in body["tools"] if t["name"] == choice["name"]]
    if named and not results and choice["type"] != "none":
        if choice.get("disable_parallel_tool_use"):
            named = named[:1]
        for place, tool in enumerate(named):
            out.append(
                {"type": "tool_use", "id": f"toolu_{place}", "name": tool["name"], "input": made_up(tool["input_schema"])}
            )
        return out, "tool_use"
    if body.get("output_config", {}).get("format"):
        return [*out, {"type": "text", "text": json.dumps(made_up(body["output_config"]["format"]["schema"]))}], "end_turn"
    if results:
        heard = [c["text"] for r in results for c in r.get("content", []) if c["type"] == "text"]
        return [*out, {"type": "text", "text": "The tools said: " + "; ".join(heard)}], "end_turn"
    return spoken(body, out)


def spoken(body: dict[str, Any], out: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """An answer in words."""
    text = f"You said: {last_text(body)}"
    for stop in body.get("stop_sequences", []):
        if stop in text:
            return [*out, {"type": "text", "text": text.partition(stop)[0] or "…"}], "stop_sequence"
    words = text.split(" ")
    if len(words) > body["max_tokens"]:
        return [*out, {"type": "text", "text": " ".join(words[: body["max_tokens"]])}], "max_tokens"
    return [*out, {"type": "text", "text": text}], "end_turn"


def made_up(schema: dict[str, Any]) -> Any:
    """A value of a JSON schema."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return {name: made_up(inner) for name, inner in schema.get("properties", {}).items()}
    if isinstance(schema, dict) and "enum" in schema:
        return schema["enum"][0]
    return {"string": "Paris", "integer": 7, "number": 1.5, "boolean": True, "array": []}.get(kind)


def usage_for(body: dict[str, Any], blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """What it took: marked prompts are written to the cache, or read from it when they say so."""
    sent = len(json.dumps(body["messages"])) // 4
    made = max(1, len(json.dumps(blocks)) // 4)
    marked = '"cache_control"' in json.dumps(body)
    return {
        "input_tokens": sent,
        "cache_creation_input_tokens": 100 if marked else 0,
        "cache_read_input_tokens": 30 if marked else 0,
        "output_tokens": made,
        "service_tier": "standard",
    }


def message(body: dict[str, Any], blocks: list[dict[str, Any]], stop_reason: str, **more: Any) -> dict[str, Any]:
    """A whole answer."""
    return {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": body.get("model", "claude"),
        "content": blocks,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage_for(body, blocks) if "messages" in body else {"input_tokens": 3, "output_tokens": 4},
        **more,
    }


def said(body: dict[str, Any], blocks: list[dict[str, Any]], stop_reason: str, **more: Any) -> Answer:
    """An answer, whole or streamed as it was asked for."""
    whole = message(body, blocks, stop_reason, **more)
    if stop_reason == "stop_sequence":
        whole["stop_sequence"] = body["stop_sequences"][0]
    if not body.get("stream"):
        return Answer(body=json.dumps(whole).encode(), headers={"request-id": "req_1"})
    return Answer(headers={"content-type": "text/event-stream; charset=utf-8"}, pieces=stream_of(whole))


def event(kind: str, **more: Any) -> bytes:
    """One stream event."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more}, ensure_ascii=False)}\n\n".encode()


def stream_of(whole: dict[str, Any], size: int = 6) -> list[bytes]:
    """The events of a whole answer."""
    begun = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    out = [event("message_start", message=begun), event("ping")]
    for index, block in enumerate(whole["content"]):
        out += [*block_events(index, block, size), event("content_block_stop", index=index)]
    ending = {k: whole.get(k) for k in ("stop_reason", "stop_sequence", "stop_details") if k in whole}
    out.append(event("message_delta", delta=ending, usage={"output_tokens": whole["usage"]["output_tokens"]}))
    return [*out, event("message_stop")]


def block_events(index: int, block: dict[str, Any], size: int) -> list[bytes]:
    """The events of one block."""
    kind = block["type"]
    empty = {"text": {"text": ""}, "tool_use": {"input": {}}, "thinking": {"thinking": "", "signature": ""}}.get(kind, {})
    out = [event("content_block_start", index=index, content_block={**block, **empty})]

    def deltas(name: str, key: str, text: str) -> list[bytes]:
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        return [event("content_block_delta", index=index, delta={"type": name, key: piece}) for piece in pieces]

    if kind == "text":
        out += deltas("text_delta", "text", block["text"])
    elif kind == "tool_use":
        if block["input"]:
            out += deltas("input_json_delta", "partial_json", json.dumps(block["input"]))
    elif kind == "thinking":
        out += deltas("thinking_delta", "thinking", block["thinking"])
        out += deltas("signature_delta", "signature", block["signature"])[-1:] and [
            event("content_block_delta", index=index, delta={"type": "signature_delta", "signature": block["signature"]})
        ]
    return out
