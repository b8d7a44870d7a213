"""A call of the Anthropic Messages API, read into our own form. What cannot be carried over is refused by name, never dropped.

What travels in extra fields: `cache_control` on parts and tools, `thinking_blocks` and `reasoning_content` on messages,
`is_error` on tool messages, `thinking`, `top_k` and every field that is not read here as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from junctor.errors import RequestError

_encode = msgspec.json.Encoder().encode
Part = dict[str, Any]

ABSENT = ("container", "mcp_servers")
TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
SERVICE_TIERS = {"auto": "auto", "standard_only": "default"}
LOW_THINKING, MEDIUM_THINKING = 2048, 8192
FIRST = ("model", "messages", "system", "tools", "tool_choice", "thinking", "stop_sequences", "metadata")
NAMED = frozenset((*FIRST, "output_config", "output_format", "service_tier"))


def chat_params(params: dict[str, Any]) -> dict[str, Any]:
    """The call's fields as a chat completion's; raises RequestError with the path of the field in the caller's own words."""
    for name in ABSENT:
        if params.get(name):
            raise RequestError("is not there", field=name, fix="leave it out")
    if type(params.get("max_tokens")) is not int:
        missing = params.get("max_tokens") is None
        raise RequestError("is missing" if missing else "is not a whole number", field="max_tokens", fix="for example 1024")
    chat: dict[str, Any] = {"model": params.get("model"), "messages": [*_system(params.get("system")), *_turns(params)]}
    chat.update((name, value) for name, value in params.items() if name not in NAMED and value is not None)
    _tools(params, chat)
    _thinking(params, chat)
    _rest(params, chat)
    return chat


def _object(value: Any, path: str, fix: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RequestError("is not an object", field=path, fix=fix)
    return value


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise RequestError("is missing" if value is None else "is not text", field=path, fix="send a string")
    return value


def _system(system: Any) -> list[dict[str, Any]]:
    if system is None or system == "" or system == []:
        return []
    if isinstance(system, str):
        return [{"role": "system", "content": system}]
    if not isinstance(system, list):
        raise RequestError("is neither text nor a list of blocks", field="system", fix="send a string")
    parts = [_text_block(_block(block, f"system[{i}]", ("text",)), f"system[{i}]") for i, block in enumerate(system)]
    return [{"role": "system", "content": _short(parts)}]


def _short(parts: list[Part]) -> str | list[Part]:
    """A lone plain text as a string: every upstream understands that."""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        text: str = parts[0]["text"]
        return text
    return parts


def _turns(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = params.get("messages")
    if not isinstance(found, list) or not found:
        problem = "is missing" if found is None else "is empty" if found == [] else "is not a list"
        raise RequestError(problem, field="messages", fix='send [{"role": "user", "content": "…"}]')
    turns: list[dict[str, Any]] = []
    for place, turn in enumerate(found):
        path = f"messages[{place}]"
        role = _object(turn, path, 'send {"role": "user", "content": "…"}').get("role")
        make = TURNS.get(role) if isinstance(role, str) else None
        if make is None:
            shown = "is missing" if role is None else f"{str(role)[:40]!r} is not a role"
            raise RequestError(shown, field=f"{path}.role", fix=f"use one of: {', '.join(TURNS)}")
        turns += make(turn.get("content"), f"{path}.content")
    return turns


def _blocks(content: Any, path: str, known: Sequence[str]) -> list[Mapping[str, Any]]:
    if not isinstance(content, list):
        raise RequestError(
            "is missing" if content is None else "is neither text nor a list of blocks", field=path, fix="send a string"
        )
    return [_block(block, f"{path}[{i}]", known) for i, block in enumerate(content)]


def _block(block: Any, path: str, known: Sequence[str]) -> Mapping[str, Any]:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(kind, str):
        raise RequestError("has no type", field=path, fix='send {"type": "text", "text": "…"}')
    if kind not in known:
        raise RequestError(f"{kind[:40]!r} is not there", field=f"{path}.type", fix=f"use one of: {', '.join(known)}")
    found: Mapping[str, Any] = block
    return found


def _user(content: Any, path: str) -> list[dict[str, Any]]:
    """A turn of the user: results of tools become messages of their own, in their order."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    turns: list[dict[str, Any]] = []
    parts: list[Part] = []
    for i, block in enumerate(_blocks(content, path, (*PARTS, "tool_result"))):
        if block["type"] != "tool_result":
            parts.append(PARTS[block["type"]](block, f"{path}[{i}]"))
            continue
        if parts:
            turns.append({"role": "user", "content": _short(parts)})
            parts = []
        turns.append(_tool_result(block, f"{path}[{i}]"))
    if parts or not turns:
        turns.append({"role": "user", "content": _short(parts)})
    return turns


def _system_turn(content: Any, path: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"role": "system", "content": content}]
    parts = [_text_block(block, f"{path}[{i}]") for i, block in enumerate(_blocks(content, path, ("text",)))]
    return [{"role": "system", "content": _short(parts)}]


def _assistant(content: Any, path: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"role": "assistant", "content": content}]
    texts: list[Part] = []
    thoughts: list[Mapping[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for i, block in enumerate(_blocks(content, path, ("text", "tool_use", "thinking", "redacted_thinking"))):
        if block["type"] == "text":
            texts.append(_text_block(block, f"{path}[{i}]"))
        elif block["type"] == "tool_use":
            calls.append(_tool_use(block, f"{path}[{i}]"))
        else:
            thoughts.append(_thought(block, f"{path}[{i}]"))
    turn: dict[str, Any] = {"role": "assistant", "content": _short(texts) if texts else None if calls else ""}
    if calls:
        turn["tool_calls"] = calls
    if thoughts:
        _remember(turn, thoughts)
    return [turn]


def _remember(turn: dict[str, Any], thoughts: list[Mapping[str, Any]]) -> None:
    """Signed blocks go back to the upstream that signed them; a block that we made of plain reasoning has no signature."""
    text = "".join(block["thinking"] for block in thoughts if block["type"] == "thinking")
    if text:
        turn["reasoning_content"] = text
    signed = [block for block in thoughts if block["type"] != "thinking" or block.get("signature")]
    if signed:
        turn["thinking_blocks"] = signed


def _thought(block: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    if block["type"] == "redacted_thinking":
        _text(block.get("data"), f"{path}.data")
    else:
        _text(block.get("thinking"), f"{path}.thinking")
        if block.get("signature") is not None:
            _text(block["signature"], f"{path}.signature")
    return block


def _tool_use(block: Mapping[str, Any], path: str) -> dict[str, Any]:
    arguments = _object(block.get("input"), f"{path}.input", "send the arguments as an object")
    function = {"name": _text(block.get("name"), f"{path}.name"), "arguments": _encode(arguments).decode()}
    call = {"id": _text(block.get("id"), f"{path}.id"), "type": "function", "function": function}
    return _marked(call, block)


def _tool_result(block: Mapping[str, Any], path: str) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": "tool", "tool_call_id": _text(block.get("tool_use_id"), f"{path}.tool_use_id")}
    content = block.get("content")
    if content is None or isinstance(content, str):
        turn["content"] = content or ""
    else:
        parts = [
            PARTS[b["type"]](b, f"{path}.content[{i}]") for i, b in enumerate(_blocks(content, f"{path}.content", [*PARTS]))
        ]
        turn["content"] = _short(parts) if parts else ""
    if block.get("is_error"):
        turn["is_error"] = True
    return _marked(turn, block)


def _marked(made: dict[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    if block.get("cache_control") is not None:
        made["cache_control"] = block["cache_control"]
    return made


def _text_block(block: Mapping[str, Any], path: str) -> Part:
    return _marked({"type": "text", "text": _text(block.get("text"), f"{path}.text")}, block)


def _image(block: Mapping[str, Any], path: str) -> Part:
    return _marked({"type": "image_url", "image_url": {"url": _source(block, path)}}, block)


def _source(block: Mapping[str, Any], path: str) -> str:
    """An address: the source's own, or a data: address of its bytes."""
    path = f"{path}.source"
    source = _object(block.get("source"), path, 'send {"type": "base64", "media_type": …, "data": …}')
    kind = source.get("type")
    if kind == "url":
        return _text(source.get("url"), f"{path}.url")
    if kind == "base64":
        media, data = _text(source.get("media_type"), f"{path}.media_type"), _text(source.get("data"), f"{path}.data")
        return f"data:{media};base64,{data}"
    raise RequestError(f"{str(kind)[:40]!r} is not there", field=f"{path}.type", fix="use one of: base64, url")


def _document(block: Mapping[str, Any], path: str) -> Part:
    """A file part; a document of plain text becomes text, under its title and context."""
    citations = block.get("citations")
    if isinstance(citations, dict) and citations.get("enabled"):
        raise RequestError("are not there", field=f"{path}.citations", fix="leave them out")
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    head = [t for name in ("title", "context") if isinstance(t := block.get(name), str) and t]
    if kind == "text":
        text = _text(source.get("data") if isinstance(source, dict) else None, f"{path}.source.data")
        return _marked({"type": "text", "text": "\n".join([*head, text])}, block)
    file = {"filename": head[0] if isinstance(block.get("title"), str) and head else "document.pdf"}
    part: Part = {"type": "file", "file": file | {"file_data": _source(block, path)}}
    if isinstance(block.get("context"), str) and block["context"]:
        part["context"] = block["context"]
    return _marked(part, block)


PARTS: Mapping[str, Callable[[Mapping[str, Any], str], Part]] = {"text": _text_block, "image": _image, "document": _document}
TURNS: Mapping[str, Callable[[Any, str], list[dict[str, Any]]]] = {
    "user": _user,
    "assistant": _assistant,
    "system": _system_turn,
}


def _tools(params: Mapping[str, Any], chat: dict[str, Any]) -> None:
    tools = params.get("tools")
    if tools is not None:
        if not isinstance(tools, list):
            raise RequestError("is not a list", field="tools", fix="send a list of tools, or leave it out")
        if tools:
            chat["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    choice = params.get("tool_choice")
    if choice is None:
        return
    kind = _object(choice, "tool_choice", 'send {"type": "auto"}').get("type")
    if kind == "tool":
        chat["tool_choice"] = {"type": "function", "function": {"name": _text(choice.get("name"), "tool_choice.name")}}
    elif isinstance(kind, str) and kind in TOOL_CHOICES:
        chat["tool_choice"] = TOOL_CHOICES[kind]
    else:
        raise RequestError(
            f"{str(kind)[:40]!r} is not there",
            field="tool_choice.type",
            fix=f"use one of: {', '.join([*TOOL_CHOICES, 'tool'])}",
        )
    if choice.get("disable_parallel_tool_use") is not None:
        chat["parallel_tool_calls"] = not choice["disable_parallel_tool_use"]


def _tool(tool: Any, path: str) -> dict[str, Any]:
    kind = _object(tool, path, 'send {"name", "description", "input_schema"}').get("type")
    if kind not in (None, "custom"):
        raise RequestError(f"{str(kind)[:40]!r} is not there", field=f"{path}.type", fix="only tools of your own can be used")
    schema = _object(tool.get("input_schema"), f"{path}.input_schema", "send the JSON schema of the arguments")
    function = {"name": _text(tool.get("name"), f"{path}.name"), "parameters": schema}
    for name in ("description", "strict"):
        if tool.get(name) is not None:
            function[name] = tool[name]
    return _marked({"type": "function", "function": function}, tool)


def _thinking(params: Mapping[str, Any], chat: dict[str, Any]) -> None:
    """The field itself travels along; others read how hard to think off `reasoning_effort`."""
    thinking = params.get("thinking")
    if thinking is None:
        return
    kind = _object(thinking, "thinking", 'send {"type": "enabled", "budget_tokens": 2048}').get("type")
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        raise RequestError(
            "has no known type", field="thinking.type", fix="use one of: enabled, disabled, adaptive, between_tools"
        )
    chat["thinking"] = thinking
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        if type(budget) is not int or budget < 1:
            raise RequestError("is not a whole number above 0", field="thinking.budget_tokens", fix="for example 2048")
        chat["reasoning_effort"] = "low" if budget <= LOW_THINKING else "medium" if budget <= MEDIUM_THINKING else "high"


def _rest(params: Mapping[str, Any], chat: dict[str, Any]) -> None:
    stops = params.get("stop_sequences")
    if stops:
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            raise RequestError("is not a list of texts", field="stop_sequences", fix='for example ["END"]')
        chat["stop"] = stops
    _metadata(params.get("metadata"), chat)
    tier = params.get("service_tier")
    if tier is not None:
        chat["service_tier"] = SERVICE_TIERS.get(tier, tier) if isinstance(tier, str) else tier
    config = params.get("output_config")
    config = {} if config is None else dict(_object(config, "output_config", "leave it out"))
    wanted, where = config.pop("format", None), "output_config.format"
    if params.get("output_format") is not None:
        wanted, where = params["output_format"], "output_format"
    if wanted is not None:
        chat["response_format"] = _format(wanted, where)
    if config.get("effort") is not None:
        chat["reasoning_effort"] = _text(config.pop("effort"), "output_config.effort")
        chat["output_config"] = {"effort": chat["reasoning_effort"]}
    for name in config:
        raise RequestError("is not there", field=f"output_config.{name[:40]}", fix="known here: format, effort")


def _metadata(metadata: Any, chat: dict[str, Any]) -> None:
    if metadata is None:
        return
    rest = dict(_object(metadata, "metadata", 'send {"user_id": "…"}'))
    user = rest.pop("user_id", None)
    if user is not None:
        chat["user"] = _text(user, "metadata.user_id")
    if rest:
        chat["metadata"] = rest


def _format(wanted: Any, path: str) -> dict[str, Any]:
    found = _object(wanted, path, 'send {"type": "json_schema", "schema": {…}}')
    if found.get("type") != "json_schema":
        raise RequestError("is not there", field=f"{path}.type", fix="use json_schema")
    schema = _object(found.get("schema"), f"{path}.schema", "send the JSON schema of the answer")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
