"""Amazon Bedrock Converse: what is sent for a chat call.

    system messages -> `system`             tool messages -> toolResult blocks        stop, limits -> inferenceConfig
    tools -> toolConfig                     cache_control -> a cachePoint after it    json_schema -> outputConfig or a tool

Converse's own fields (`guardrailConfig`, `performanceConfig`, …) are passed on as they are; every other field that is no field
of the chat API goes into `additionalModelRequestFields`, where each family of models has its own (`thinking`, `top_k`, …).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
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
        "response_format",
        "reasoning_effort",
        "cache_control",
        "additionalModelRequestFields",
        "outputConfig",
    }
)
CANNOT = chat.untellable(TAKEN, {"temperature": chat.over_one})
CONVERSE = frozenset(
    {
        "additionalModelResponseFieldPaths",
        "guardrailConfig",
        "performanceConfig",
        "promptVariables",
        "requestMetadata",
        "serviceTier",
    }
)
BUDGETS: Mapping[str, int] = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 65536}
PICTURES = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
FILMS = {"video/mp4": "mp4", "video/quicktime": "mov", "video/x-matroska": "mkv", "video/webm": "webm", "video/mpeg": "mpeg"}
SOUNDS = {
    "audio/wav": "wav",
    "audio/mp3": "mp3",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "audio/opus": "opus",
    "audio/aac": "aac",
}
FORMATS = {"image": PICTURES, "document": DOCUMENTS, "video": FILMS, "audio": SOUNDS}
_ID = re.compile(r"[^a-zA-Z0-9_.:-]")
_NAME = re.compile(r"[^a-zA-Z0-9\s\-()\[\]]|\s{2,}")
_encode = msgspec.json.Encoder().encode


class Style(Struct, frozen=True, kw_only=True):
    """How the models of a deployment want to be asked.

    structured   "native": json_schema goes into `outputConfig.textFormat`; "tool": into a tool that must be called
    reasoning    where reasoning_effort goes: "budget" (`thinking` with a budget of tokens, as Claude takes it), "effort"
                 (`outputConfig.effort`), "field" (`reasoning_effort` among the model's own fields)
    ignore       fields of the chat API that are left out instead of refused
    """

    structured: str = "native"
    reasoning: str = "budget"
    ignore: frozenset[str] = frozenset()


def converse_body(request: Request, target: Target, style: Style) -> dict[str, Any]:
    """The body of `POST /model/NAME/converse`; raises RequestError with the path of what cannot be said."""
    talk = chat.read(request, target, ignore=style.ignore)
    params = talk.params
    if style.reasoning != "budget" and "reasoning_effort" in params:
        # Claude's own words for the same, of a caller of its API.
        params = {name: value for name, value in params.items() if name not in ("thinking", "output_config")}
    writer = _Writer()
    body: dict[str, Any] = {"messages": [{"role": turn.role, "content": writer.blocks(turn.parts)} for turn in talk.turns]}
    if system := writer.blocks([part for part in talk.system if part.text]):
        body["system"] = system
    config = _config(params, target)
    fields = chat.table(params, "additionalModelRequestFields")
    if output := chat.table(params, "outputConfig"):
        body["outputConfig"] = output
    for name, value in chat.beyond(params, TAKEN, target.id).items():
        (body if name in CONVERSE else fields)[name] = value
    if fields:
        body["additionalModelRequestFields"] = fields
    _put_reasoning(body, config, params, style)
    _put_tools(body, params, spoke=writer.spoke_of_tools)
    _put_format(body, params, style)
    if config:
        body["inferenceConfig"] = config
    return body


def _config(params: Mapping[str, Any], target: Target) -> dict[str, Any]:
    found = {
        "maxTokens": chat.most_tokens(params) or target.limits.output_tokens,
        "temperature": params.get("temperature"),
        "topP": params.get("top_p"),
        "stopSequences": chat.stops(params) or None,
    }
    if hot := chat.over_one(found["temperature"]):
        raise RequestError(hot, field="temperature", fix="use 0 to 1, or another target")
    return {name: value for name, value in found.items() if value is not None}


def _put_reasoning(body: dict[str, Any], config: dict[str, Any], params: Mapping[str, Any], style: Style) -> None:
    effort = chat.word(params, "reasoning_effort", ("none", *BUDGETS))
    if effort is None or effort == "none" or chat.table(params, "thinking"):
        return
    if style.reasoning == "effort":
        body["outputConfig"] = {"effort": effort, **body.get("outputConfig", {})}
        return
    fields = body.setdefault("additionalModelRequestFields", {})
    if style.reasoning == "field":
        fields["reasoning_effort"] = effort
        return
    budget = BUDGETS[effort]
    if "maxTokens" not in config:
        config["maxTokens"] = budget + 4096
    if config["maxTokens"] <= BUDGETS["minimal"]:
        short = f"leaves no room to think: {BUDGETS['minimal'] + 1} tokens are the least"
        raise RequestError(short, field="max_completion_tokens", fix="allow more, or leave reasoning_effort out")
    fields["thinking"] = {"type": "enabled", "budget_tokens": min(budget, config["maxTokens"] - 1)}


def _put_tools(body: dict[str, Any], params: Mapping[str, Any], *, spoke: bool) -> None:
    listed = [entry for tool in chat.tools(params) for entry in _tool(tool)]
    kind, name = chat.chosen_tool(params)
    if not listed:
        return
    if kind == "none":
        if spoke:
            fix = "leave the tools out, or ask another target"
            raise RequestError('"none" cannot be told to this target after tool calls', field="tool_choice", fix=fix)
        return
    body["toolConfig"] = {"tools": listed}
    if kind:
        choice = {"auto": {"auto": {}}, "required": {"any": {}}, "function": {"tool": {"name": name}}}[kind]
        body["toolConfig"]["toolChoice"] = choice


def _tool(tool: chat.Tool | chat.Foreign) -> Iterator[dict[str, Any]]:
    if isinstance(tool, chat.Foreign):
        yield {key: value for key, value in tool.raw.items() if key != "type"}
        return
    spec: dict[str, Any] = {"name": tool.name, "inputSchema": {"json": {"type": "object", **(tool.parameters or {})}}}
    if tool.description:
        spec["description"] = tool.description
    if tool.strict:
        spec["strict"] = True
    yield {"toolSpec": spec}
    mark = tool.raw.get("cache_control") or tool.raw["function"].get("cache_control")
    if mark is not None:
        yield _cache_point(mark)


def _put_format(body: dict[str, Any], params: Mapping[str, Any], style: Style) -> None:
    kind, asked = chat.answer_format(params)
    if not kind:
        return
    if not chat.uses_json_tool(params, style.structured):
        found = {"schema": _encode(asked["schema"]).decode(), "name": str(asked.get("name") or "answer")}
        form = {"type": "json_schema", "structure": {"jsonSchema": found}}
        body["outputConfig"] = {**body.get("outputConfig", {}), "textFormat": form}
        return
    if "thinking" in body.get("additionalModelRequestFields", {}):
        fix = "use json_schema with a model that has structured output, or leave the reasoning out"
        raise RequestError("cannot be asked for together with reasoning", field="response_format", fix=fix)
    schema = {"type": "object", **asked.get("schema", {})}
    about = str(asked.get("description") or chat.JSON_TOOL_ABOUT)
    tool = {"toolSpec": {"name": chat.JSON_TOOL, "description": about, "inputSchema": {"json": schema}}}
    others = body.get("toolConfig", {}).get("tools", [])
    choice = {"any": {}} if others else {"tool": {"name": chat.JSON_TOOL}}
    body["toolConfig"] = {"tools": [*others, tool], "toolChoice": choice}


class _Writer:
    """Writes content blocks; documents need names, each its own."""

    def __init__(self) -> None:
        self._documents = 0
        self.spoke_of_tools = False

    def blocks(self, parts: Iterable[chat.Part]) -> list[dict[str, Any]]:
        found = [block for part in parts for block in self._block(part)]
        # A blank text says nothing and is refused; alone it stays, so that the refusal is the API's own.
        return [block for block in found if block.get("text") != ""] or found[:1]

    def _block(self, part: chat.Part) -> Iterator[dict[str, Any]]:
        raw: Mapping[str, Any] | None = None
        match part:
            case chat.Text():
                raw = part.raw
                yield {"text": part.text}
            case chat.Media():
                raw = part.raw
                yield self._media(part)
            case chat.ToolCall():
                raw, self.spoke_of_tools = part.raw, True
                yield {"toolUse": {"toolUseId": tool_id(part.id), "name": part.name, "input": part.arguments}}
            case chat.ToolResult():
                raw, self.spoke_of_tools = part.raw, True
                yield {"toolResult": self._result(part)}
            case chat.Thinking():
                yield _thinking(part.block)
            case chat.Foreign():
                yield {key: value for key, value in part.raw.items() if key != "type"}
        if raw is not None and raw.get("cache_control") is not None:
            yield _cache_point(raw["cache_control"])

    def _result(self, part: chat.ToolResult) -> dict[str, Any]:
        said = [
            block for one in part.parts for block in self._block(one) if block.get("text") != "" and "cachePoint" not in block
        ]
        out: dict[str, Any] = {"toolUseId": tool_id(part.id), "content": said}
        if part.is_error:
            out["status"] = "error"
        return out

    def _media(self, part: chat.Media) -> dict[str, Any]:
        kind = "document" if part.type == "application/pdf" else part.kind
        address = part.url or part.file_id
        if address and not address.startswith("s3://"):
            raise RequestError("is not an address that this target fetches", field=part.path, fix="send its bytes, or s3://…")
        form = FORMATS[kind].get(part.type) or (address.rpartition(".")[2].lower() if address else None)
        if form not in FORMATS[kind].values():
            known = ", ".join(FORMATS[kind])
            raise RequestError(f"is {part.type[:60]!r}, not one of {known}", field=part.path, fix="convert it")
        source = {"s3Location": {"uri": address}} if address else {"bytes": part.data}
        block: dict[str, Any] = {"format": form, "source": source}
        if kind == "document":
            self._documents += 1
            # Letters, figures, single spaces, hyphens and brackets; the number keeps two of one name apart.
            stem = " ".join(_NAME.sub(" ", part.name.rpartition(".")[0] or part.name).split())[:150]
            block["name"] = f"{stem or 'document'} {self._documents}"
            if part.raw is not None and isinstance(part.raw.get("context"), str):
                block["context"] = part.raw["context"]
        return {kind: block}


def _thinking(block: Mapping[str, Any]) -> dict[str, Any]:
    if block.get("type") == "redacted_thinking":
        return {"reasoningContent": {"redactedContent": block.get("data")}}
    text: dict[str, Any] = {"text": block.get("thinking", "")}
    if block.get("signature"):
        text["signature"] = block["signature"]
    return {"reasoningContent": {"reasoningText": text}}


def _cache_point(mark: Any) -> dict[str, Any]:
    ttl = mark.get("ttl") if isinstance(mark, Mapping) else None
    return {"cachePoint": {"type": "default", **({"ttl": ttl} if ttl is not None else {})}}


def tool_id(id_: str) -> str:
    """A tool call's id in the alphabet and length that the API takes."""
    return _ID.sub("_", id_) if len(id_) <= 64 else hashlib.sha256(id_.encode("utf-8", "replace")).hexdigest()
