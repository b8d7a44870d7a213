"""A call of the OpenAI Responses API, read into our own form. What cannot be carried over is refused by name, never dropped.

Items become turns: reasoning, a message of the assistant and its function calls are one turn there, and several items here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from junctor.errors import RequestError

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
Turn = dict[str, Any]

ABSENT = ("background", "conversation", "prompt", "max_tool_calls", "context_management", "moderation")
INCLUDABLE = ("reasoning.encrypted_content", "message.output_text.logprobs", "message.input_image.image_url")
LOGPROBS = "message.output_text.logprobs"
ROLES = ("user", "assistant", "system", "developer")
TOOL_CHOICES = ("auto", "none", "required")
SEALED = "junctor-1."
NAMED = frozenset(
    (
        *ABSENT,
        "input",
        "instructions",
        "previous_response_id",
        "store",
        "include",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "max_output_tokens",
        "top_logprobs",
        "truncation",
        "stream_options",
    )
)


def chat_params(params: Mapping[str, Any], turns: list[Turn]) -> dict[str, Any]:
    """The call's fields as a chat completion's, over these turns (instructions not yet among them); raises RequestError."""
    for name in ABSENT:
        if params.get(name):
            raise RequestError("is not there", field=name, fix="leave it out")
    if params.get("truncation") not in (None, "disabled"):
        raise RequestError("is not there", field="truncation", fix='send "disabled", or leave it out')
    chat: dict[str, Any] = {"model": params.get("model"), "messages": [*_instructions(params), *turns]}
    chat.update((name, value) for name, value in params.items() if name not in NAMED and value is not None)
    limit = params.get("max_output_tokens")
    if limit is not None:
        if type(limit) is not int or limit < 1:
            raise RequestError("is not a whole number above 0", field="max_output_tokens", fix="leave it out")
        chat["max_completion_tokens"] = limit
    _tools(params, chat)
    _text_settings(params, chat)
    _reasoning_settings(params, chat)
    _included(params, chat)
    return chat


def _instructions(params: Mapping[str, Any]) -> list[Turn]:
    found = params.get("instructions")
    if found is None or found == "":
        return []
    if not isinstance(found, str):
        raise RequestError("is not text", field="instructions", fix="send a string")
    return [{"role": "system", "content": found}]


def input_turns(found: Any) -> list[Turn]:
    """`input` as turns; raises RequestError with the path of the item."""
    if isinstance(found, str):
        return [{"role": "user", "content": found}]
    if not isinstance(found, list) or not found:
        problem = "is missing" if found is None else "is empty" if found == [] else "is neither text nor a list of items"
        raise RequestError(problem, field="input", fix="send a string")
    turns = _Turns()
    for place, item in enumerate(found):
        path = f"input[{place}]"
        kind = item.get("type", "message") if isinstance(item, dict) else None
        take = ITEMS.get(kind) if isinstance(kind, str) else None
        if take is None:
            shown = "is not an item" if not isinstance(kind, str) else f"{kind[:40]!r} is not there"
            raise RequestError(shown, field=f"{path}.type", fix=f"use one of: {', '.join(ITEMS)}")
        take(turns, item, path)
    return turns.made


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise RequestError("is missing" if value is None else "is not text", field=path, fix="send a string")
    return value


class _Turns:
    """Turns in the making: what the assistant said, thought and called grows into one."""

    def __init__(self) -> None:
        self.made: list[Turn] = []

    def assistant(self, *, has: str) -> Turn:
        """The assistant's turn that a further item belongs to; a new one where it has such a part already."""
        if self.made:
            last = self.made[-1]
            if last["role"] == "assistant" and (has == "tool_calls" or not _after(last, has)):
                return last
        turn: Turn = {"role": "assistant", "content": None}
        self.made.append(turn)
        return turn

    def message(self, item: Mapping[str, Any], path: str) -> None:
        """A message of any role."""
        role = item.get("role")
        if role not in ROLES:
            shown = "is missing" if role is None else f"{str(role)[:40]!r} is not a role"
            raise RequestError(shown, field=f"{path}.role", fix=f"use one of: {', '.join(ROLES)}")
        content = _content(item.get("content"), f"{path}.content")
        if role == "assistant":
            self.assistant(has="content")["content"] = content
        else:
            self.made.append({"role": role, "content": content})

    def call(self, item: Mapping[str, Any], path: str) -> None:
        """A function call of the assistant."""
        function = {
            "name": _text(item.get("name"), f"{path}.name"),
            "arguments": _text(item.get("arguments"), f"{path}.arguments"),
        }
        call = {"id": _text(item.get("call_id"), f"{path}.call_id"), "type": "function", "function": function}
        self.assistant(has="tool_calls").setdefault("tool_calls", []).append(call)

    def output(self, item: Mapping[str, Any], path: str) -> None:
        """What a function gave back."""
        found = item.get("output")
        content = found if isinstance(found, str) else _content(found, f"{path}.output")
        self.made.append({"role": "tool", "tool_call_id": _text(item.get("call_id"), f"{path}.call_id"), "content": content})

    def reasoning(self, item: Mapping[str, Any], path: str) -> None:
        """What the assistant thought before it spoke."""
        turn = self.assistant(has="reasoning")
        text = "".join(_thoughts(item, "content", path) or _thoughts(item, "summary", path))
        if text:
            turn["reasoning_content"] = text
        sealed = item.get("encrypted_content")
        if sealed is not None:
            turn["thinking_blocks"] = unsealed(sealed, f"{path}.encrypted_content")


def _after(turn: Turn, part: str) -> bool:
    """Whether a turn has come so far that `part` belongs to the next."""
    if part == "reasoning":
        return True
    return "tool_calls" in turn or turn["content"] is not None


def _thoughts(item: Mapping[str, Any], name: str, path: str) -> list[str]:
    found = item.get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise RequestError("is not a list", field=f"{path}.{name}", fix="send the item as it came")
    return [_text(p.get("text") if isinstance(p, dict) else None, f"{path}.{name}[{i}].text") for i, p in enumerate(found)]


ITEMS: Mapping[str, Callable[[_Turns, Mapping[str, Any], str], None]] = {
    "message": _Turns.message,
    "function_call": _Turns.call,
    "function_call_output": _Turns.output,
    "reasoning": _Turns.reasoning,
}


def sealed(blocks: list[dict[str, Any]]) -> str:
    """Reasoning blocks as `encrypted_content`: what they say is the upstream's own seal, which we only carry."""
    return SEALED + base64.b64encode(_encode(blocks)).decode()


def unsealed(value: Any, path: str) -> list[dict[str, Any]]:
    """The blocks again; raises RequestError for what we did not write."""
    try:
        found = _decode(base64.b64decode(value.removeprefix(SEALED), validate=True))
        blocks = [dict(block) for block in found]
    except (AttributeError, binascii.Error, ValueError, TypeError, RecursionError, msgspec.DecodeError) as error:
        raise RequestError("was not made here", field=path, fix="leave it out") from error
    return blocks


def _content(content: Any, path: str) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        problem = "is missing" if content is None else "is neither text nor a list of parts"
        raise RequestError(problem, field=path, fix="send a string")
    parts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        make = PARTS.get(kind) if isinstance(kind, str) else None
        if make is None:
            shown = "has no type" if not isinstance(kind, str) else f"{kind[:40]!r} is not there"
            raise RequestError(shown, field=f"{path}[{place}].type", fix=f"use one of: {', '.join(PARTS)}")
        parts.append(make(part, f"{path}[{place}]"))
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts


def _text_part(part: Mapping[str, Any], path: str) -> dict[str, Any]:
    return {"type": "text", "text": _text(part.get("text"), f"{path}.text")}


def _refusal(part: Mapping[str, Any], path: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": _text(part.get("refusal"), f"{path}.refusal")}


def _image(part: Mapping[str, Any], path: str) -> dict[str, Any]:
    if part.get("file_id") is not None:
        raise RequestError("is not there: no files are kept here", field=f"{path}.file_id", fix="send image_url")
    image = {"url": _text(part.get("image_url"), f"{path}.image_url")}
    if part.get("detail") is not None:
        image["detail"] = _text(part["detail"], f"{path}.detail")
    return {"type": "image_url", "image_url": image}


def _file(part: Mapping[str, Any], path: str) -> dict[str, Any]:
    if part.get("file_id") is not None:
        raise RequestError("is not there: no files are kept here", field=f"{path}.file_id", fix="send file_data")
    where = "file_url" if part.get("file_url") is not None else "file_data"
    file = {"file_data": _text(part.get(where), f"{path}.{where}")}
    if part.get("filename") is not None:
        file["filename"] = _text(part["filename"], f"{path}.filename")
    return {"type": "file", "file": file}


def _audio(part: Mapping[str, Any], path: str) -> dict[str, Any]:
    if not isinstance(part.get("input_audio"), dict):
        raise RequestError("is not an object", field=f"{path}.input_audio", fix='send {"data", "format"}')
    return {"type": "input_audio", "input_audio": part["input_audio"]}


PARTS: Mapping[str, Callable[[Mapping[str, Any], str], dict[str, Any]]] = {
    "input_text": _text_part,
    "output_text": _text_part,
    "refusal": _refusal,
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
}


def _tools(params: Mapping[str, Any], chat: dict[str, Any]) -> None:
    tools = params.get("tools")
    if tools is not None:
        if not isinstance(tools, list):
            raise RequestError("is not a list", field="tools", fix="send a list of tools, or leave it out")
        if tools:
            chat["tools"] = [_tool(tool, f"tools[{place}]") for place, tool in enumerate(tools)]
    choice = params.get("tool_choice")
    if choice is None:
        return
    if choice in TOOL_CHOICES:
        chat["tool_choice"] = choice
        return
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind != "function":
        known = ", ".join((*TOOL_CHOICES, "function"))
        raise RequestError(f"{str(kind)[:40]!r} is not there", field="tool_choice", fix=f"use one of: {known}")
    chat["tool_choice"] = {"type": "function", "function": {"name": _text(choice.get("name"), "tool_choice.name")}}


def _tool(tool: Any, path: str) -> dict[str, Any]:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind != "function":
        shown = f"{kind[:40]!r} is not there" if isinstance(kind, str) else "is missing"
        raise RequestError(shown, field=f"{path}.type", fix="only tools of type function can be used")
    function: dict[str, Any] = {"name": _text(tool.get("name"), f"{path}.name")}
    for name in ("description", "parameters", "strict"):
        if tool.get(name) is not None:
            function[name] = tool[name]
    return {"type": "function", "function": function}


def _settings(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = params.get(name)
    if found is not None and not isinstance(found, dict):
        raise RequestError("is not an object", field=name, fix="send {…}, or leave it out")
    return found or {}


def _text_settings(params: Mapping[str, Any], chat: dict[str, Any]) -> None:
    found = _settings(params, "text")
    if found.get("verbosity") is not None:
        chat["verbosity"] = found["verbosity"]
    wanted = found.get("format")
    if wanted is None:
        return
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise RequestError("is not there", field="text.format.type", fix="use one of: text, json_object, json_schema")
    if kind == "json_schema":
        if not isinstance(wanted.get("schema"), dict):
            raise RequestError("is not an object", field="text.format.schema", fix="send the JSON schema of the answer")
        inside = {key: value for key, value in wanted.items() if key != "type" and value is not None}
        chat["response_format"] = {"type": kind, "json_schema": {"name": "answer", **inside}}
    elif kind == "json_object":
        chat["response_format"] = {"type": kind}


def _reasoning_settings(params: Mapping[str, Any], chat: dict[str, Any]) -> None:
    effort = _settings(params, "reasoning").get("effort")
    if effort is not None:
        chat["reasoning_effort"] = _text(effort, "reasoning.effort")


def _included(params: Mapping[str, Any], chat: dict[str, Any]) -> None:
    found = params.get("include")
    if found is not None and not isinstance(found, list):
        raise RequestError("is not a list", field="include", fix="leave it out")
    for place, name in enumerate(found or ()):
        if name not in INCLUDABLE:
            raise RequestError("is not there", field=f"include[{place}]", fix=f"use one of: {', '.join(INCLUDABLE)}")
    most = params.get("top_logprobs")
    if most is not None and (type(most) is not int or not 0 <= most <= 20):
        raise RequestError("is not a whole number from 0 to 20", field="top_logprobs", fix="leave it out")
    if most or LOGPROBS in (found or ()):
        chat["logprobs"] = True
        if most:
            chat["top_logprobs"] = most
