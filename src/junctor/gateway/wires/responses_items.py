"""Answers as the items and objects of the OpenAI Responses API."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from junctor.gateway.wires.reading import Counted, Said, ToolCall, calls_of, text_of, thinking_of
from junctor.gateway.wires.responses_call import Turn, sealed

Item = dict[str, Any]
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
ECHOED = (
    "instructions",
    "max_output_tokens",
    "previous_response_id",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "temperature",
    "top_logprobs",
    "top_p",
    "user",
)


class Told(NamedTuple):
    """What a call said, for its answer: the fields, whose it is, the turns up to here, and whether the answer is to be kept."""

    id: str
    params: Mapping[str, Any]
    owner: str
    turns: list[Turn]
    store: bool
    at: int

    def item_id(self, kind: str, place: int) -> str:
        """An id for an item: nobody else's, and the same in every event."""
        return f"{kind}_{self.id.removeprefix('resp_')}{place:02x}"


def new_told(id_: str, params: Mapping[str, Any], owner: str, turns: list[Turn], *, store: bool) -> Told:
    """For a decision's id."""
    return Told("resp_" + id_.removeprefix("dec-"), params, owner, turns, store, int(time.time()))


def response_object(
    told: Told, status: str, model: str, output: list[Item], usage: Counted | None = None, reason: str = ""
) -> dict[str, Any]:
    """A `response`: what was asked, and what came of it so far. `reason` goes with the status "incomplete"."""
    params = told.params
    found: dict[str, Any] = {
        "id": told.id,
        "object": "response",
        "created_at": told.at,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "model": model,
        "output": output,
        "parallel_tool_calls": params.get("parallel_tool_calls") is not False,
        "tool_choice": params.get("tool_choice") or "auto",
        "tools": params.get("tools") or [],
        "text": {"format": {"type": "text"}, **(params.get("text") or {})},
        "metadata": params.get("metadata") or {},
        "truncation": "disabled",
        "store": told.store,
        "usage": None if usage is None else usage_object(usage),
    }
    found.update({name: params.get(name) for name in ECHOED})
    if status == "completed":
        found["completed_at"] = int(time.time())
    return found


def usage_object(usage: Counted) -> dict[str, Any]:
    """Usage in this API's words."""
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.written},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


def ended(finish_reason: str) -> tuple[str, str]:
    """Status and reason of an answer that ended."""
    reason = INCOMPLETE.get(finish_reason, "")
    return ("incomplete" if reason else "completed"), reason


def output_of(told: Told, said: Said) -> list[Item]:
    """The items of a whole answer: reasoning, message, function calls."""
    message = said.message
    items: list[Item] = []
    blocks = thinking_of(message)
    if blocks:
        items.append(reasoning_item(told.item_id("rs", 0), blocks))
    parts = []
    text, refusal = text_of(message.get("content")), text_of(message.get("refusal"))
    if text:
        parts.append(text_part(text, logprobs_of(said.logprobs)))
    if refusal:
        parts.append({"type": "refusal", "refusal": refusal})
    if parts:
        items.append(message_item(told.item_id("msg", len(items)), parts))
    for call in calls_of(message):
        items.append(call_item(told.item_id("fc", len(items)), call))
    if items and ended(said.finish_reason)[1]:
        items[-1]["status"] = "incomplete"
    return items


def logprobs_of(found: Any) -> list[Any]:
    """The list of a choice's or a chunk's `logprobs`."""
    content = found.get("content") if isinstance(found, Mapping) else None
    return content if isinstance(content, list) else []


def text_part(text: str, logprobs: list[Any]) -> Item:
    """A part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def message_item(id_: str, parts: list[Item], status: str = "completed") -> Item:
    """What the assistant says."""
    return {"id": id_, "type": "message", "role": "assistant", "status": status, "content": parts}


def call_item(id_: str, call: ToolCall, status: str = "completed") -> Item:
    """A function that the assistant calls."""
    return {
        "id": id_,
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }


def reasoning_item(id_: str, blocks: list[dict[str, Any]]) -> Item:
    """What the assistant thinks; signed or closed blocks travel as `encrypted_content`, so that they can come back."""
    text = "".join(b["thinking"] for b in blocks if isinstance(b.get("thinking"), str))
    parts = [{"type": "reasoning_text", "text": text}] if text else []
    item: Item = {"id": id_, "type": "reasoning", "summary": [], "content": parts, "status": "completed"}
    if any(block.get("signature") or block.get("type") == "redacted_thinking" for block in blocks):
        item["encrypted_content"] = sealed(blocks)
    return item
