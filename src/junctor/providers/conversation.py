"""A chat call read into turns and parts, for providers that say it in the words of another API.

    system messages -> `system`;   tool results -> parts of a user turn;   neighbours of one role -> one turn

Nothing is lost on the way: what cannot be read is a RequestError with the path of the field. Two kinds of fields are left out,
because they have no bearing on the answer: HINTS, and defaults said aloud (NEUTRAL).
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from junctor.errors import RequestError
from junctor.providers.base import Why
from junctor.types import Request, Target

SYSTEM_ROLES = ("system", "developer")
HINTS = frozenset({"metadata", "prompt_cache_key", "prompt_cache_retention", "prediction", "safety_identifier", "user"})
OURS = frozenset({"model", "messages", "stream", "stream_options"})
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "seed": (),
    "audio": (),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "web_search_options": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("auto",),
    "parallel_tool_calls": (True,),
    "stop": ([],),
    "temperature": (),
    "top_p": (),
    "max_tokens": (),
    "max_completion_tokens": (),
}
"""Every field of the chat API that asks for something, with the values that ask for what happens anyway."""

_encoder = msgspec.json.Encoder()
_decode = msgspec.json.Decoder().decode


class Text(Struct):
    """Words; `raw` is the content part that they came from, None for a plain string."""

    text: str
    raw: Mapping[str, Any] | None = None


class Media(Struct):
    """An image, a document, a sound or a film: `data` in base64 or `url`, or the upstream's own `file_id`.

    `kind` is "image", "document", "audio" or "video"; `type` a media type, "" when it is not said.
    """

    kind: str
    type: str
    path: str
    data: str = ""
    url: str = ""
    file_id: str = ""
    name: str = ""
    raw: Mapping[str, Any] | None = None


class ToolCall(Struct):
    """The assistant calls a tool; `arguments` is the JSON object."""

    id: str
    name: str
    arguments: dict[str, Any]
    raw: Mapping[str, Any]


class ToolResult(Struct):
    """What a tool said; `name` is the tool's where the conversation names it."""

    id: str
    name: str
    parts: list[Part]
    is_error: bool
    raw: Mapping[str, Any]
    path: str


class Thinking(Struct):
    """A signed or redacted block of reasoning, as its upstream gave it."""

    block: Mapping[str, Any]


class Foreign(Struct):
    """A content part of another API's kind: an upstream of that API takes it as it is."""

    kind: str
    path: str
    raw: Mapping[str, Any]


Part = Text | Media | ToolCall | ToolResult | Thinking | Foreign


class Turn(Struct):
    """All that one side says before the other speaks; `role` is "user" or "assistant"."""

    role: str
    parts: list[Part]


class Conversation(Struct):
    """A call that was read: `params` are the caller's fields with the target's settings over them."""

    params: dict[str, Any]
    system: list[Text]
    turns: list[Turn]


def read(request: Request, target: Target, *, ignore: frozenset[str] = frozenset()) -> Conversation:
    """Read a call; raises RequestError with the path of what cannot be read."""
    params = {name: value for name, value in request.params.items() if value is not None and name not in ignore}
    params.update(target.settings)
    reader = _Reader(ignore)
    for place, message in enumerate(_messages(request, params)):
        reader.take(message, f"messages[{place}]")
    return Conversation(params, reader.system, reader.turns)


def _messages(request: Request, params: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    found = params.get("messages")
    if found is None:
        turns = [{"role": m.role, "content": m.content} for m in request.messages]
        return turns or [{"role": "user", "content": request.text}]
    if not isinstance(found, Sequence) or not all(isinstance(m, Mapping) for m in found):
        raise RequestError("is not a list of messages", field="messages", fix='send [{"role": "user", "content": "…"}]')
    return found


class _Reader:
    def __init__(self, ignore: frozenset[str]) -> None:
        self.system: list[Text] = []
        self.turns: list[Turn] = []
        self._names: dict[str, str] = {}
        self._take_name = "name" in ignore

    def take(self, message: Mapping[str, Any], path: str) -> None:
        role = message.get("role")
        if role not in ("tool", "function") and message.get("name") and not self._take_name:
            raise RequestError("cannot be told to this target", field=f"{path}.name", fix="say who speaks in the text")
        if role in SYSTEM_ROLES:
            self._hoist(message, path)
        elif role == "user":
            self._say("user", _with_mark(parts(message.get("content"), f"{path}.content"), message))
        elif role == "assistant":
            self._say("assistant", _with_mark(self._assistant(message, path), message))
        elif role == "tool":
            self._say("user", [self._result(message, path)])
        else:
            raise RequestError(f"{str(role)[:40]!r} cannot be told to this target", field=f"{path}.role", fix="use tools")

    def _say(self, role: str, said: list[Part]) -> None:
        if self.turns and self.turns[-1].role == role:
            self.turns[-1].parts += said
        else:
            self.turns.append(Turn(role, said))

    def _hoist(self, message: Mapping[str, Any], path: str) -> None:
        for part in _with_mark(parts(message.get("content"), f"{path}.content"), message):
            if not isinstance(part, Text):
                raise RequestError("is not text", field=f"{path}.content", fix="put pictures and files into a user message")
            self.system.append(part)

    def _assistant(self, message: Mapping[str, Any], path: str) -> list[Part]:
        if message.get("audio") or message.get("function_call"):
            name = "audio" if message.get("audio") else "function_call"
            raise RequestError("cannot be told to this target", field=f"{path}.{name}", fix="use text and tool_calls")
        out: list[Part] = [Thinking(block) for block in _list_of_objects(message.get("thinking_blocks"))]
        content = message.get("content")
        if content:
            out += parts(content, f"{path}.content")
        if message.get("refusal"):
            out.append(Text(str(message["refusal"])))
        calls = message.get("tool_calls")
        if calls is not None and not isinstance(calls, Sequence):
            raise RequestError("is not a list", field=f"{path}.tool_calls", fix="leave it out")
        for place, call in enumerate(calls or ()):
            out.append(self._call(call, f"{path}.tool_calls[{place}]"))
        _with_extra(out, message.get("extra_content"))
        return out or [Text("")]

    def _call(self, call: Any, path: str) -> ToolCall:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RequestError("is not the call of a function", field=path, fix="send it as the answer had it")
        id_ = call.get("id")
        if not isinstance(id_, str) or not id_:
            raise RequestError("is missing", field=f"{path}.id", fix="send it as the answer had it")
        self._names[id_] = function["name"]
        return ToolCall(id_, function["name"], _arguments(function.get("arguments"), f"{path}.function.arguments"), call)

    def _result(self, message: Mapping[str, Any], path: str) -> ToolResult:
        id_ = message.get("tool_call_id")
        if not isinstance(id_, str) or not id_:
            raise RequestError("is missing", field=f"{path}.tool_call_id", fix="name the tool call that this answers")
        name = self._names.get(id_) or message.get("name") or ""
        content = message.get("content")
        said = parts(content, f"{path}.content") if content else []
        return ToolResult(id_, str(name), said, message.get("is_error") is True, message, path)


def _arguments(given: Any, path: str) -> dict[str, Any]:
    try:
        found = _decode(given) if isinstance(given, str) and given.strip() else given or {}
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise RequestError("is not JSON", field=path, fix="send it as the answer had it") from error
    if not isinstance(found, dict):
        raise RequestError("is not a JSON object", field=path, fix="send it as the answer had it")
    return found


def _list_of_objects(given: Any) -> list[Mapping[str, Any]]:
    return [one for one in given if isinstance(one, Mapping)] if isinstance(given, Sequence) else []


def _with_mark(said: list[Part], message: Mapping[str, Any]) -> list[Part]:
    """A cache mark on the whole message is one on its last part."""
    mark = message.get("cache_control")
    if mark is not None and said and isinstance(last := said[-1], (Text, Media, Foreign)):
        last.raw = {**(last.raw or {}), "cache_control": mark}
    return said


def _with_extra(said: list[Part], extra: Any) -> None:
    """What an upstream attached to its words (a signature, for example) stays with the last of them."""
    if isinstance(extra, Mapping):
        last = next((part for part in reversed(said) if isinstance(part, Text)), None)
        if last is None:
            said.append(last := Text(""))
        last.raw = {**(last.raw or {}), "extra_content": extra}


def parts(content: Any, path: str) -> list[Part]:
    """Content, text or a list of parts, as parts; raises RequestError for what is neither."""
    if isinstance(content, str):
        return [Text(content)]
    if not isinstance(content, Sequence):
        raise RequestError("is neither text nor a list of parts", field=path, fix="send text, or a list of content parts")
    return [_part(part, f"{path}[{place}]") for place, part in enumerate(content)]


def _part(part: Any, path: str) -> Part:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise RequestError("has no type", field=path, fix='send {"type": "text", "text": "…"}')
    if kind in ("text", "refusal"):
        if not isinstance(part.get(kind), str):
            raise RequestError("is not text", field=f"{path}.{kind}", fix="send a string")
        return Text(part[kind], part)
    if kind in ("image_url", "video_url"):
        return _from_url(part, kind, f"{path}.{kind}")
    if kind == "input_audio":
        return _sound(part, f"{path}.input_audio")
    return _file(part, f"{path}.file") if kind == "file" else Foreign(kind, path, part)


def _from_url(part: Mapping[str, Any], field: str, path: str) -> Media:
    given = part.get(field)
    url = given.get("url") if isinstance(given, Mapping) else given
    if not isinstance(url, str) or not url:
        raise RequestError("has no url", field=path, fix="give an https address or a data: URL")
    kind = field.partition("_")[0]
    if url.startswith("data:"):
        type_, data = _data_url(url, path)
        return Media(kind, type_, path, data=data, raw=part)
    if not url.startswith(("https://", "http://", "gs://", "s3://")):
        raise RequestError("is not an address that a target could fetch", field=path, fix="use https:// or a data: URL")
    stated = given.get("format") if isinstance(given, Mapping) else None
    return Media(kind, stated if isinstance(stated, str) else "", path, url=url, raw=part)


def _data_url(url: str, path: str) -> tuple[str, str]:
    """(media type, base64)."""
    head, comma, data = url[5:].partition(",")
    if not comma or not head.endswith(";base64"):
        raise RequestError("is a data: URL without base64", field=path, fix="use data:TYPE;base64,…")
    return head.partition(";")[0].lower(), _base64(data, path)


def _base64(data: str, path: str) -> str:
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError("is not base64", field=path, fix="encode the bytes with standard base64") from error
    return data


def _sound(part: Mapping[str, Any], path: str) -> Media:
    given = part.get("input_audio")
    data, form = (given.get("data"), given.get("format")) if isinstance(given, Mapping) else (None, None)
    if not isinstance(data, str) or not isinstance(form, str):
        raise RequestError("lacks data or format", field=path, fix='send {"data": "<base64>", "format": "wav"}')
    return Media("audio", f"audio/{form}", path, data=_base64(data, path), raw=part)


def _file(part: Mapping[str, Any], path: str) -> Media:
    given = part.get("file")
    if not isinstance(given, Mapping):
        raise RequestError("is not an object", field=path, fix='send {"file_data": "data:application/pdf;base64,…"}')
    name, stated = given.get("filename"), given.get("format")
    found = Media("document", "application/pdf", path, name=name if isinstance(name, str) else "", raw=part)
    if isinstance(stated, str):
        found.type = stated
    data = given.get("file_data")
    if isinstance(data, str) and data:
        if data.startswith("data:"):
            found.type, found.data = _data_url(data, f"{path}.file_data")
        elif data.startswith("https://"):
            found.url = data
        else:
            found.data = _base64(data, f"{path}.file_data")
    elif isinstance(given.get("file_id"), str) and given["file_id"]:
        found.file_id = given["file_id"]
    else:
        raise RequestError("has neither file_data nor file_id", field=path, fix="send the file as a data: URL")
    return found


def beyond(params: Mapping[str, Any], taken: frozenset[str], target: str) -> dict[str, Any]:
    """The fields that are no field of the chat API, to be passed on as they are.

    Raises RequestError for a field of the chat API that is neither `taken` nor without effect.
    """
    out = {}
    for name, value in params.items():
        if name in taken or name in OURS or name in HINTS:
            continue
        if name not in NEUTRAL:
            out[name] = value
        elif not _idle(name, value):
            raise RequestError(f"cannot be told to {target!r}", field=name, fix="leave it out, or ask another target")
    return out


def _idle(name: str, value: Any) -> bool:
    """Whether this value of a field of the chat API asks for what happens anyway."""
    harmless = NEUTRAL[name]
    return value in harmless and isinstance(value, bool) is isinstance(harmless[0], bool)


def untellable(taken: frozenset[str], more: Mapping[str, Why] | None = None) -> dict[str, Why]:
    """What `beyond` would refuse, for `Provider.cannot`: every field of the chat API that is not `taken`; and `more`."""
    return {**{name: partial(_unless_idle, name) for name in NEUTRAL if name not in taken}, **(more or {})}


def _unless_idle(name: str, value: Any) -> str:
    return "" if _idle(name, value) else "cannot be told to it"


def unless_one_of(known: Iterable[str]) -> Why:
    """Why a word cannot be told to an API that knows these only."""
    return lambda value: "" if isinstance(value, str) and value in known else f"is none of {', '.join(known)} for it"


def over_one(value: Any) -> str:
    """Why a temperature cannot be told to an API that knows 0 to 1."""
    return "is over 1, the most of this target" if isinstance(value, (int, float)) and value > 1 else ""


def most_tokens(params: Mapping[str, Any]) -> int | None:
    """The caller's limit on output tokens; raises RequestError for what is none."""
    name = "max_completion_tokens" if params.get("max_completion_tokens") is not None else "max_tokens"
    limit = params.get(name)
    if limit is None or (type(limit) is int and limit > 0):
        return limit
    raise RequestError("is not a whole number above 0", field=name, fix="leave it out for the model's own limit")


def table(params: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A field that is an object, {} when it is not there; raises RequestError for anything else."""
    given = params.get(name)
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise RequestError("is not an object", field=name, fix="send {…}, or leave it out")
    return dict(given)


def word(params: Mapping[str, Any], name: str, known: Iterable[str]) -> str | None:
    """A field that is one of a few words, None when it is not there; raises RequestError for anything else."""
    given = params.get(name)
    if given is None or (isinstance(given, str) and given in known):
        return given
    raise RequestError(f"{str(given)[:40]!r} is not known here", field=name, fix=f"one of: {', '.join(known)}")


def stops(params: Mapping[str, Any]) -> list[str]:
    """The stop sequences; raises RequestError for anything but a string or a list of them."""
    given = params.get("stop")
    found = [given] if isinstance(given, str) else given or []
    if not isinstance(found, Sequence) or not all(isinstance(stop, str) for stop in found):
        raise RequestError("is neither a string nor a list of them", field="stop", fix="leave it out")
    return list(found)


class Tool(Struct):
    """A function that the model may call; `raw` is the entry of `tools`."""

    name: str
    description: str
    parameters: Mapping[str, Any] | None
    strict: bool
    raw: Mapping[str, Any]
    path: str


def tools(params: Mapping[str, Any]) -> list[Tool | Foreign]:
    """The tools; one that is no function is Foreign. Raises RequestError for what is no tool."""
    out: list[Tool | Foreign] = []
    listed = params.get("tools") or ()
    if not isinstance(listed, Sequence):
        raise RequestError("is not a list", field="tools", fix="send a list of tools, or leave it out")
    for place, raw in enumerate(listed):
        path = f"tools[{place}]"
        kind = raw.get("type") if isinstance(raw, Mapping) else None
        if not isinstance(kind, str):
            raise RequestError("has no type", field=path, fix='send {"type": "function", "function": {…}}')
        function = raw.get("function")
        if kind != "function":
            out.append(Foreign(kind, path, raw))
            continue
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RequestError("has no name", field=f"{path}.function", fix='send {"name": "…", "parameters": {…}}')
        given = function.get("parameters")
        if given is not None and not isinstance(given, Mapping):
            raise RequestError("is not a JSON schema", field=f"{path}.function.parameters", fix="send an object")
        about = function.get("description") or ""
        out.append(Tool(function["name"], str(about), given, function.get("strict") is True, raw, path))
    return out


def chosen_tool(params: Mapping[str, Any]) -> tuple[str, str]:
    """("auto" | "none" | "required" | "", "") or ("function", its name); raises RequestError for anything else."""
    given = params.get("tool_choice")
    if given is None or given in ("auto", "none", "required"):
        return given or "", ""
    function = given.get("function") if isinstance(given, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise RequestError("cannot be told to this target", field="tool_choice", fix='"auto", "none", "required" or a function')
    return "function", name


def answer_format(params: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """("", {}), ("json_object", {}) or ("json_schema", {"name", "schema", …}); raises RequestError for anything else."""
    given = params.get("response_format")
    kind = given.get("type") if isinstance(given, Mapping) else None
    if given is None or kind == "text":
        return "", {}
    if kind == "json_object":
        return "json_object", {}
    found = given.get("json_schema") if isinstance(given, Mapping) else None
    if kind != "json_schema" or not isinstance(found, Mapping) or not isinstance(found.get("schema"), Mapping):
        raise RequestError("is not a format that can be asked for", field="response_format", fix="json_schema with a schema")
    return "json_schema", found


JSON_TOOL = "json_answer"
JSON_TOOL_ABOUT = "Give the answer to the user by calling this tool, exactly once."


def uses_json_tool(params: Mapping[str, Any], structured: str) -> bool:
    """Whether an answer in JSON is asked for by way of a tool: json_object always, json_schema where `structured` is "tool"."""
    kind, _ = answer_format(params)
    return kind == "json_object" or (kind == "json_schema" and structured == "tool")


def encoded(body: Mapping[str, Any]) -> bytes:
    """A body as JSON; a lone surrogate, which has no bytes in UTF-8, becomes a question mark. Raises RequestError."""
    try:
        try:
            return _encoder.encode(body)
        except UnicodeEncodeError:
            return _encoder.encode(_encodable(body))
    except (OverflowError, ValueError, TypeError, RecursionError) as error:
        raise RequestError("cannot be sent on as JSON", fix="use plain values") from error


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(inner) for key, inner in value.items()}
    return [_encodable(inner) for inner in value] if isinstance(value, (list, tuple)) else value
