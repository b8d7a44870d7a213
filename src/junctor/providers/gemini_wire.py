"""Gemini generateContent: what is sent for a chat call.

    system messages -> systemInstruction       assistant -> role "model"       tool messages -> functionResponse parts
    reasoning_effort -> thinkingConfig         json_schema -> responseSchema   stop -> stopSequences

Signatures of thoughts travel where Google's own OpenAI endpoint has them: `extra_content.google.thought_signature` of a tool
call or of a message. Reasoning signed by others is left out: nobody else could read it. Fields that are no field of the chat
API (`safetySettings`, `cachedContent`, …) are passed on as they are.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from junctor.errors import RequestError
from junctor.providers import answers
from junctor.providers import conversation as chat
from junctor.providers.gemini_schema import reduced
from junctor.types import Request, Target

DIRECT = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
}
TAKEN = frozenset(
    {
        *DIRECT,
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "tools",
        "tool_choice",
        "response_format",
        "reasoning_effort",
        "thinking",
        "generationConfig",
        "cache_control",
        "output_config",
    }
)
CANNOT = chat.untellable(TAKEN)
BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
LEVELS = {"minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "function": "ANY"}


EMBEDDING = {
    "model": "",
    "input": "",
    "encoding_format": "",
    "user": "",
    "dimensions": "outputDimensionality",
    "taskType": "taskType",
    "title": "title",
}
"""Fields of an embeddings call, and what they are called there; "" for those that are read elsewhere or have no effect."""


class Style(Struct, frozen=True, kw_only=True):
    """How a model wants to be asked.

    reasoning   "budget": reasoning_effort becomes a thinkingBudget (2.5); "level": a thinkingLevel (3 and later)
    ignore      fields of the chat API that are left out instead of refused
    """

    reasoning: str = "budget"
    ignore: frozenset[str] = frozenset()


def content_body(request: Request, target: Target, style: Style) -> dict[str, Any]:
    """The body of `POST …:generateContent`; raises RequestError with the path of what cannot be said."""
    talk = chat.read(request, target, ignore=style.ignore)
    params = talk.params
    roles = {"assistant": "model", "user": "user"}
    body: dict[str, Any] = {"contents": [{"role": roles[t.role], "parts": _parts(t.parts)} for t in talk.turns]}
    if talk.system:
        body["systemInstruction"] = {"parts": [{"text": part.text} for part in talk.system]}
    config = _config(params, target)
    _put_format(config, params)
    _put_thinking(config, params, style)
    if config:
        body["generationConfig"] = config
    _put_tools(body, params)
    body.update(chat.beyond(params, TAKEN, target.id))
    return body


def _config(params: Mapping[str, Any], target: Target) -> dict[str, Any]:
    config = chat.table(params, "generationConfig")
    config.update((DIRECT[name], params[name]) for name in DIRECT if params.get(name) is not None)
    most = chat.most_tokens(params) or target.limits.output_tokens
    if most is not None:
        config["maxOutputTokens"] = most
    if stops := chat.stops(params):
        config["stopSequences"] = stops
    return config


def _put_format(config: dict[str, Any], params: Mapping[str, Any]) -> None:
    kind, asked = chat.answer_format(params)
    if not kind:
        return
    config["responseMimeType"] = "application/json"
    if kind == "json_schema":
        schema = reduced(asked["schema"])
        config["responseJsonSchema" if schema is None else "responseSchema"] = asked["schema"] if schema is None else schema


def _put_thinking(config: dict[str, Any], params: Mapping[str, Any], style: Style) -> None:
    effort, native = chat.word(params, "reasoning_effort", BUDGETS), chat.table(params, "thinking")
    if type(native.get("budget_tokens")) is int and style.reasoning == "budget":
        config["thinkingConfig"] = {"thinkingBudget": native["budget_tokens"], "includeThoughts": True}
        return
    if effort is None:
        return
    if style.reasoning == "level":
        if effort == "none":
            raise RequestError("cannot be told to this target", field="reasoning_effort", fix="minimal is the least")
        config["thinkingConfig"] = {"thinkingLevel": LEVELS[effort], "includeThoughts": True}
    else:
        thoughts = {"includeThoughts": True} if effort != "none" else {}
        config["thinkingConfig"] = {"thinkingBudget": BUDGETS[effort], **thoughts}


def _put_tools(body: dict[str, Any], params: Mapping[str, Any]) -> None:
    functions: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for tool in chat.tools(params):
        if isinstance(tool, chat.Tool):
            functions.append(_function(tool))
        else:
            others.append({key: value for key, value in tool.raw.items() if key != "type"} or {tool.kind: {}})
    if not functions and not others:
        return
    body["tools"] = [*([{"functionDeclarations": functions}] if functions else []), *others]
    kind, name = chat.chosen_tool(params)
    if kind and functions:
        config: dict[str, Any] = {"mode": MODES[kind]}
        if name:
            config["allowedFunctionNames"] = [name]
        body["toolConfig"] = {"functionCallingConfig": config}


def _function(tool: chat.Tool) -> dict[str, Any]:
    out: dict[str, Any] = {"name": tool.name}
    if tool.description:
        out["description"] = tool.description
    if tool.parameters and tool.parameters.get("properties"):
        schema = reduced(tool.parameters)
        if schema is None:
            out["parametersJsonSchema"] = tool.parameters
        else:
            out["parameters"] = schema
    return out


def _parts(parts: Iterable[chat.Part]) -> list[dict[str, Any]]:
    found = [made for part in parts for made in (*_context(part), _part(part)) if made is not None]
    return [one for one in found if one != {"text": ""}] or [{"text": ""}]


def _part(part: chat.Part) -> dict[str, Any] | None:
    match part:
        case chat.Text():
            return _signed({"text": part.text}, part.raw)
        case chat.Media():
            return _media(part)
        case chat.ToolCall():
            return _signed({"functionCall": {"id": part.id, "name": part.name, "args": part.arguments}}, part.raw)
        case chat.ToolResult():
            return {"functionResponse": _response(part)}
        case chat.Thinking():
            return None  # signed by others: see above
        case chat.Foreign():
            raise RequestError(f"{part.kind[:40]!r} cannot be told to this target", field=part.path, fix="send text or files")


def _context(part: chat.Part) -> Iterable[dict[str, Any]]:
    """What a document is about, in words before it."""
    context = part.raw.get("context") if isinstance(part, chat.Media) and part.raw is not None else None
    return [{"text": context}] if isinstance(context, str) and context else []


def _signed(made: dict[str, Any], raw: Mapping[str, Any] | None) -> dict[str, Any]:
    extra = raw.get("extra_content") if raw is not None else None
    google = extra.get("google") if isinstance(extra, Mapping) else None
    signature = google.get("thought_signature") if isinstance(google, Mapping) else None
    if isinstance(signature, str):
        made["thoughtSignature"] = signature
    return made


def _media(part: chat.Media) -> dict[str, Any]:
    type_ = part.type
    if part.data:
        return {"inlineData": {"mimeType": type_, "data": part.data}}
    address = part.file_id or part.url
    if part.kind == "image" or not type_:
        guessed = mimetypes.guess_type(urlsplit(address).path)[0]
        type_ = type_ or guessed or {"image": "image/jpeg", "video": "video/mp4"}.get(part.kind, "application/pdf")
    return {"fileData": {"mimeType": type_, "fileUri": address}}


def _response(part: chat.ToolResult) -> dict[str, Any]:
    if not part.name:
        raise RequestError("is missing", field=f"{part.path}.name", fix="name the tool, or send the call that this answers")
    said = "\n".join(one.text for one in part.parts if isinstance(one, chat.Text))
    out: dict[str, Any] = {"id": part.id, "name": part.name, "response": {"error": said} if part.is_error else _object(said)}
    shown = [_media(one) for one in part.parts if isinstance(one, chat.Media)]
    if shown:
        out["parts"] = shown
    return out


def _object(said: str) -> dict[str, Any]:
    """What a tool said as the object that the API wants: its own where it is one."""
    if said.lstrip().startswith("{"):
        try:
            found = msgspec.json.decode(said)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
    return {"result": said}


def embedding_body(params: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """The body of `POST …:batchEmbedContents`; raises RequestError for an input that is not text."""
    given = params.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise RequestError("is not text", field="input", fix="send a string or a list of strings")
    rest = {**params, **target.settings}
    for name in rest:
        if name not in EMBEDDING:
            raise RequestError("cannot be told to this target", field=name, fix=f"known: {', '.join(EMBEDDING)}")
    extra = {there: rest[here] for here, there in EMBEDDING.items() if there and rest.get(here) is not None}
    model = f"models/{target.upstream_model}"
    return {"requests": [{"model": model, "content": {"parts": [{"text": answers.encodable(t)}]}, **extra} for t in texts]}
