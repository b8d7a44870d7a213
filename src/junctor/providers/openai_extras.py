"""What callers of other APIs say beyond the chat API, taken out for upstreams that refuse what they do not know.

Hints go (`cache_control`, `thinking` and `output_config`, as `reasoning_effort` says the same), and reasoning that only its own
upstream can use (`thinking_blocks`, `reasoning_content`). What has a bearing on the answer is put into words: that a tool
failed, what a file is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOP = ("thinking", "output_config", "cache_control")
OF_MESSAGES = frozenset({"cache_control", "thinking_blocks", "reasoning_content", "is_error"})
OF_PARTS = frozenset({"cache_control", "context"})
FAILED = "Error: "


def without_extras(params: dict[str, Any]) -> None:
    """Change the fields of a call in place; lists and objects that the caller holds too are not touched."""
    for name in TOP:
        params.pop(name, None)
    params["messages"] = [_message(message) for message in params.get("messages", ())]
    if params.get("tools"):
        params["tools"] = [_less(tool, OF_PARTS) for tool in params["tools"]]


def _less(holder: Mapping[str, Any], names: frozenset[str]) -> Mapping[str, Any]:
    if names.isdisjoint(holder):
        return holder
    return {key: value for key, value in holder.items() if key not in names}


def _message(message: Mapping[str, Any]) -> Mapping[str, Any]:
    out = dict(_less(message, OF_MESSAGES))
    content = out.get("content")
    if isinstance(content, list):
        out["content"] = content = [made for part in content for made in _parts(part)]
    if message.get("is_error") is True:
        out["content"] = FAILED + content if isinstance(content, str) else [{"type": "text", "text": FAILED}, *(content or ())]
    if out.get("tool_calls"):
        out["tool_calls"] = [_less(call, OF_PARTS) for call in out["tool_calls"]]
    return out


def _parts(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    plain = _less(part, OF_PARTS)
    context = part.get("context")
    return [{"type": "text", "text": context}, plain] if isinstance(context, str) else [plain]
