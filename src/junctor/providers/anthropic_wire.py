"""Anthropic Messages: what is sent for a chat call.

    system messages -> `system`            tool messages -> tool_result blocks       stop -> stop_sequences
    reasoning_effort -> `thinking`         json_schema -> `output_config.format`     user -> metadata.user_id

Fields that are no field of the chat API (`thinking`, `top_k`, `container`, …) are passed on as they are, and so are content
parts and tools of Anthropic's own kinds: what the API does not know, it refuses itself.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from junctor.errors import RequestError
from junctor.providers import conversation as chat
from junctor.types import Request, Target

TAKEN = frozenset(
    {
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "service_tier",
        "output_config",
    }
)
BUDGETS: Mapping[str, int] = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 65536}
LEAST_BUDGET = 1024
TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
CANNOT = chat.untellable(TAKEN, {"temperature": chat.over_one, "service_tier": chat.unless_one_of(TIERS)})
PICTURES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_ID = re.compile(r"[^a-zA-Z0-9_-]")


class Style(Struct, frozen=True, kw_only=True):
    """How a deployment of the API wants to be asked.

    max_tokens   most output tokens where neither caller nor target says (the API needs a figure)
    structured   "native": json_schema goes into `output_config.format`; "tool": into a tool that must be called (older models)
    reasoning    "budget": reasoning_effort becomes a budget of thinking tokens; "adaptive": the model thinks as it sees fit
    ignore       fields of the chat API that are left out instead of refused
    """

    max_tokens: int = 4096
    structured: str = "native"
    reasoning: str = "budget"
    ignore: frozenset[str] = frozenset()


def message_body(request: Request, target: Target, style: Style, *, stream: bool) -> dict[str, Any]:
    """The body of `POST /v1/messages`; raises RequestError with the path of what cannot be said."""
    talk = chat.read(request, target, ignore=style.ignore)
    params = talk.params
    body: dict[str, Any] = {"model": target.upstream_model}
    body["messages"] = [{"role": turn.role, "content": _blocks(turn.parts)} for turn in talk.turns]
    if talk.system:
        body["system"] = [_text(part) for part in talk.system if part.text] or ""
    _put_settings(body, params)
    _put_lengths(body, params, target, style)
    _put_tools(body, params)
    _put_format(body, params, style)
    body.update(chat.beyond(params, TAKEN, target.id))
    if stream:
        body["stream"] = True
    return body


def _put_settings(body: dict[str, Any], params: Mapping[str, Any]) -> None:
    for name in ("temperature", "top_p"):
        if params.get(name) is not None:
            body[name] = params[name]
    if config := chat.table(params, "output_config"):
        body["output_config"] = config
    if hot := chat.over_one(params.get("temperature")):
        raise RequestError(hot, field="temperature", fix="use 0 to 1, or another target")
    if stops := chat.stops(params):
        body["stop_sequences"] = stops
    if (tier := chat.word(params, "service_tier", TIERS)) is not None:
        body["service_tier"] = TIERS[tier]
    user = params.get("user") or chat.table(params, "metadata").get("user_id") or params.get("safety_identifier")
    if isinstance(user, str):
        body["metadata"] = {"user_id": user}


def _put_lengths(body: dict[str, Any], params: Mapping[str, Any], target: Target, style: Style) -> None:
    asked, most = chat.most_tokens(params), target.limits.output_tokens
    body["max_tokens"] = asked or most or style.max_tokens
    effort = params.get("reasoning_effort")
    said = params.get("thinking") is not None or "effort" in (params.get("output_config") or ())
    if effort is None or effort == "none" or said:
        return
    if effort not in BUDGETS:
        raise RequestError(f"{str(effort)[:40]!r} is not known", field="reasoning_effort", fix=f"none, {', '.join(BUDGETS)}")
    if style.reasoning == "adaptive":
        body["thinking"] = {"type": "adaptive"}
        body["output_config"] = {"effort": "low" if effort == "minimal" else effort, **body.get("output_config", {})}
        return
    budget = BUDGETS[effort]
    if asked is None and (most is None or most > budget):
        body["max_tokens"] = most or budget + style.max_tokens
    if body["max_tokens"] <= LEAST_BUDGET:
        short = f"leaves no room to think: {LEAST_BUDGET + 1} tokens are the least"
        raise RequestError(short, field="max_completion_tokens", fix="allow more, or leave reasoning_effort out")
    body["thinking"] = {"type": "enabled", "budget_tokens": min(budget, body["max_tokens"] - 1)}


def _put_tools(body: dict[str, Any], params: Mapping[str, Any]) -> None:
    listed = [_tool(tool) for tool in chat.tools(params)]
    if not listed:
        return
    body["tools"] = listed
    kind, name = chat.chosen_tool(params)
    one_at_a_time = params.get("parallel_tool_calls") is False
    if not kind and not one_at_a_time:
        return
    choice: dict[str, Any] = {"type": {"required": "any", "none": "none", "function": "tool"}.get(kind, "auto")}
    if name:
        choice["name"] = name
    if one_at_a_time and kind != "none":
        choice["disable_parallel_tool_use"] = True
    body["tool_choice"] = choice


def _tool(tool: chat.Tool | chat.Foreign) -> dict[str, Any]:
    if isinstance(tool, chat.Foreign):
        return dict(tool.raw)
    out: dict[str, Any] = {"name": tool.name, "input_schema": {"type": "object", **(tool.parameters or {"properties": {}})}}
    if tool.description:
        out["description"] = tool.description
    if tool.strict:
        out["strict"] = True
    mark = tool.raw.get("cache_control") or tool.raw["function"].get("cache_control")
    if mark is not None:
        out["cache_control"] = mark
    return out


def _put_format(body: dict[str, Any], params: Mapping[str, Any], style: Style) -> None:
    kind, asked = chat.answer_format(params)
    if not kind:
        return
    if not chat.uses_json_tool(params, style.structured):
        body["output_config"] = {**body.get("output_config", {}), "format": {"type": "json_schema", "schema": asked["schema"]}}
        return
    if body.get("thinking", {}).get("type", "disabled") != "disabled" or params.get("thinking"):
        fix = "use json_schema with a model that has structured output, or leave the reasoning out"
        raise RequestError("cannot be asked for together with reasoning", field="response_format", fix=fix)
    schema = {"type": "object", **asked.get("schema", {})}
    about = str(asked.get("description") or chat.JSON_TOOL_ABOUT)
    others = body.get("tools", [])
    body["tools"] = [*others, {"name": chat.JSON_TOOL, "description": about, "input_schema": schema}]
    body["tool_choice"] = {"type": "any"} if others else {"type": "tool", "name": chat.JSON_TOOL}


def _blocks(parts: Iterable[chat.Part]) -> list[dict[str, Any]]:
    out = [_block(part) for part in parts]
    # An empty text block says nothing and is refused; alone it stays, so that the refusal is the API's own.
    return [block for block in out if block.get("text") != ""] or out[:1]


def _block(part: chat.Part) -> dict[str, Any]:
    match part:
        case chat.Text():
            return _text(part)
        case chat.Media():
            return _marked(_media(part), part.raw)
        case chat.ToolCall():
            used = {"type": "tool_use", "id": tool_id(part.id), "name": part.name, "input": part.arguments}
            return _marked(used, part.raw)
        case chat.ToolResult():
            found: dict[str, Any] = {"type": "tool_result", "tool_use_id": tool_id(part.id)}
            if said := [block for block in map(_block, part.parts) if block.get("text") != ""]:
                found["content"] = said
            if part.is_error:
                found["is_error"] = True
            return _marked(found, part.raw)
        case chat.Thinking():
            return dict(part.block)
        case chat.Foreign():
            return dict(part.raw)


def _text(part: chat.Text) -> dict[str, Any]:
    return _marked({"type": "text", "text": part.text}, part.raw)


def _marked(block: dict[str, Any], raw: Mapping[str, Any] | None) -> dict[str, Any]:
    if raw is not None and raw.get("cache_control") is not None:
        block["cache_control"] = raw["cache_control"]
    return block


def _media(part: chat.Media) -> dict[str, Any]:
    pdf = part.type == "application/pdf"
    if part.kind == "image" and not pdf:
        return {"type": "image", "source": _source(part, PICTURES)}
    if part.kind not in ("image", "document"):
        raise RequestError("cannot be shown to this target", field=part.path, fix="ask a target that takes sound or film")
    out: dict[str, Any] = {"type": "document"}
    if part.data and part.type.startswith("text/"):
        words = base64.b64decode(part.data).decode("utf-8", "replace")
        out["source"] = {"type": "text", "media_type": "text/plain", "data": words}
    else:
        out["source"] = _source(part, ("application/pdf",))
    if part.name:
        out["title"] = part.name
    if part.raw is not None and isinstance(part.raw.get("context"), str):
        out["context"] = part.raw["context"]
    return out


def _source(part: chat.Media, types: tuple[str, ...]) -> dict[str, Any]:
    if part.file_id:
        return {"type": "file", "file_id": part.file_id}
    if part.url:
        if not part.url.startswith("http"):
            raise RequestError("is not an address that this target fetches", field=part.path, fix="use https:// or data:")
        return {"type": "url", "url": part.url}
    if part.type not in types:
        raise RequestError(f"is {part.type[:60]!r}, not one of {', '.join(types)}", field=part.path, fix="convert it")
    return {"type": "base64", "media_type": part.type, "data": part.data}


def tool_id(id_: str) -> str:
    """A tool call's id in the alphabet that the API takes."""
    return _ID.sub("_", id_)
