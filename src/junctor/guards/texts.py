"""The words of a request and of a reply: where they stand, and the same message with other words in their place.

What guards read of a request: of every message, whatever its role, the content (a string, or the text of every part), the
arguments or the input of its tool calls, a refusal and reasoning; then `prediction` and `user`. Images, audio and files are
carried, never read. Of an embeddings or a moderations call it is `input`. What they do not read: tool definitions, schemas,
names, metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from junctor.types import Message, Request

Change = Callable[[str], str]
PLAIN = ("refusal", "reasoning_content", "reasoning")
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


def messages_of(request: Request) -> list[Any]:
    """The messages that are sent upstream, as they came."""
    found = request.params.get("messages")
    if isinstance(found, list):
        return found
    if "input" in request.params:
        return _input_turns(request.params["input"])
    if request.messages:
        return [{"role": turn.role, "content": turn.content} for turn in request.messages]
    return [{"role": "user", "content": request.text}]


def _input_turns(given: Any) -> list[Any]:
    """What an embeddings or a moderations call is about, as turns of a user: a text, or a list of texts or parts."""
    parts = given if isinstance(given, list) else [given]
    texts = [part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None for part in parts]
    return [{"role": "user", "content": text} for text in texts if isinstance(text, str)]


def words_of(request: Request, roles: frozenset[str] | None = None) -> Iterator[tuple[str, str]]:
    """(text, role) of everything that is said in a request, in order; of these roles only."""
    for message in messages_of(request):
        if isinstance(message, dict) and (roles is None or message.get("role") in roles):
            role = str(message.get("role"))
            for text, _ in message_texts(message):
                yield text, role


def message_texts(message: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """(text, whether it is JSON) of one message."""
    yield from ((text, False) for text in content_texts(message.get("content")))
    for key in PLAIN:
        if isinstance(message.get(key), str):
            yield message[key], False
    yield from ((function["arguments"], True) for function in _functions(message))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict) and isinstance(own := call.get("custom"), dict) and isinstance(own.get("input"), str):
            yield own["input"], False


def content_texts(content: Any) -> Iterator[str]:
    """The text of a content: itself, or that of its parts."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))


def _functions(message: dict[str, Any]) -> list[dict[str, Any]]:
    calls = message.get("tool_calls")
    found = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    found.append(message.get("function_call"))
    return [one for one in found if isinstance(one, dict) and isinstance(one.get("arguments"), str)]


def changed_message(message: dict[str, Any], plain: Change, json: Change) -> dict[str, Any]:
    """A message with its texts changed, `json` for those that are JSON; what has no text is carried over as it is."""
    out = dict(message)
    if "content" in out:
        out["content"] = changed_content(out["content"], plain)
    for key in PLAIN:
        if isinstance(out.get(key), str):
            out[key] = plain(out[key])
    if isinstance(out.get("tool_calls"), list):
        out["tool_calls"] = [_changed_call(call, plain, json) for call in out["tool_calls"]]
    if isinstance(out.get("function_call"), dict):
        out["function_call"] = _changed_function(out["function_call"], json)
    return out


def changed_content(content: Any, change: Change) -> Any:
    """A content with its texts changed; images, audio and files stay as they are."""
    if isinstance(content, str):
        return change(content)
    if not isinstance(content, list):
        return content
    return [
        {**part, "text": change(part["text"])} if isinstance(part, dict) and isinstance(part.get("text"), str) else part
        for part in content
    ]


def _changed_call(call: Any, plain: Change, json: Change) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(own := call.get("custom"), dict) and isinstance(own.get("input"), str):
        return {**call, "custom": {**own, "input": plain(own["input"])}}
    function = call.get("function")
    return {**call, "function": _changed_function(function, json)} if isinstance(function, dict) else call


def _changed_function(function: dict[str, Any], change: Change) -> dict[str, Any]:
    arguments = function.get("arguments")
    return {**function, "arguments": change(arguments)} if isinstance(arguments, str) else function


def changed_request(request: Request, plain: Change, json: Change) -> Request:
    """A request with its words changed everywhere that guards read: what is sent upstream, encoded and journalled."""
    params = dict(request.params)
    if "input" in params and "messages" not in params:
        given = params["input"]
        texts = [plain(part) if isinstance(part, str) else part for part in given] if isinstance(given, list) else given
        params["input"] = changed_content(texts, plain)
    else:
        params["messages"] = [changed_message(m, plain, json) if isinstance(m, dict) else m for m in messages_of(request)]
    if isinstance(params.get("user"), str):
        params["user"] = plain(params["user"])
    prediction = params.get("prediction")
    if isinstance(prediction, dict) and "content" in prediction:
        params["prediction"] = {**prediction, "content": changed_content(prediction["content"], plain)}
    turns = tuple([Message(m.role, changed_content(m.content, plain)) for m in request.messages])
    return msgspec.structs.replace(request, params=params, messages=turns, text=plain(request.text))


def with_json_strings(text: str, change: Change) -> str:
    """JSON with every string in it changed, keys too; what is no JSON is changed as plain text."""
    try:
        found = msgspec.json.decode(text)
        return msgspec.json.encode(_deep(found, change)).decode()
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        return change(text)


def _deep(value: Any, change: Change) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _deep(inner, change) for key, inner in value.items()}
    return [_deep(inner, change) for inner in value] if isinstance(value, list) else value


def json_strings(text: str) -> Iterator[str]:
    """Every string in a JSON text; the text itself when it is no JSON."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        yield text
        return
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += [*value.values(), *value]
        elif isinstance(value, list):
            waiting += value
