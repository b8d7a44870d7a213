"""The OpenAI chat-completion request: bytes -> Request, with one line of 400 for whatever is wrong with them.

Only what we read is checked; every other field is carried through as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from junctor.errors import RequestError
from junctor.gateway.wishes import wishes_of
from junctor.types import Message, Outcome, Request

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
PART_NEEDS = {
    "image_url": "vision",
    "input_image": "vision",
    "input_audio": "audio",
    "audio_url": "audio",
    "video_url": "video",
    "file": "files",
}
MOST_CHOICES = 128
MOST_DEPTH = 200
MOST_TOKENS = 2**31 - 1
LARGEST_FIGURE = 2**53
NO_NEEDS: frozenset[str] = frozenset()

_decode = msgspec.json.Decoder().decode


class ChatCall(NamedTuple):
    """A checked call: what is asked, of which model, and whether as a stream."""

    request: Request
    model: str
    stream: bool


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object, or RequestError."""
    try:
        found = _decode(body)
    except UnicodeDecodeError as error:
        raise RequestError("is not valid UTF-8", field="body", fix="send UTF-8 JSON") from error
    except msgspec.DecodeError as error:
        raise RequestError(f"is not JSON: {_plain(str(error))}", field="body", fix="send one JSON object") from error
    except RecursionError as error:
        raise _nested() from error
    if not isinstance(found, dict):
        raise RequestError("is not a JSON object", field="body", fix="send {…}")
    if body.count(b"[") + body.count(b"{") > MOST_DEPTH and _too_deep(found):
        raise _nested()
    return found


def _nested() -> RequestError:
    return RequestError("is nested too deeply", field="body", fix="send flatter JSON")


def _too_deep(found: Any) -> bool:
    """Whether it could be read here, but perhaps not be written again further down."""
    level = [found]
    for _ in range(MOST_DEPTH):
        inner = [value for holder in level for value in (holder.values() if type(holder) is dict else holder)]
        level = [value for value in inner if type(value) is dict or type(value) is list]
        if not level:
            return False
    return True


def _plain(message: str) -> str:
    return message[0].lower() + message[1:].partition(" - at ")[0]


def parse_chat(body: bytes, id_: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> ChatCall:
    """Check a chat-completion call; raises RequestError with the path of the field, for example `messages[2].role`."""
    return check_chat(parse_json(body), id_, headers)


def named_model(params: Mapping[str, Any]) -> str:
    """The call's `model`; raises RequestError."""
    model = params.get("model")
    if not isinstance(model, str) or not model:
        raise RequestError("is missing" if model is None else "is not a name", field="model", fix='for example "auto"')
    return model


def check_chat(params: dict[str, Any], id_: str, headers: Iterable[tuple[bytes, bytes]] = (), api: str = "") -> ChatCall:
    """The same for fields that are read already, of a call that came by `api`; our own metadata keys are taken out of them."""
    model = named_model(params)
    found = params.get("messages")
    if not isinstance(found, list) or not found:
        problem = "is missing" if found is None else "is not a list" if not isinstance(found, list) else "is empty"
        raise RequestError(problem, field="messages", fix='send [{"role": "user", "content": "…"}]')
    needs: set[str] = set()
    messages = tuple([_message(message, place, needs) for place, message in enumerate(found)])
    for name, value in params.items():
        check = CHECKS.get(name)
        if check is not None and value is not None:
            need = check(name, value)
            if need:
                needs.add(need)
    wishes = wishes_of(params, headers)
    request = Request(
        id=id_,
        text=_last_user_text(messages),
        messages=messages,
        labels=wishes.labels,
        needs=frozenset(needs) if needs else NO_NEEDS,
        tenant=wishes.tenant,
        constraints=wishes.constraints,
        params=params,
        session=wishes.session,
        api=api,
    )
    return ChatCall(request, model, params.get("stream") is True)


def _message(found: Any, place: int, needs: set[str]) -> Message:
    if not isinstance(found, dict):
        raise RequestError("is not an object", field=f"messages[{place}]", fix='send {"role": "user", "content": "…"}')
    role = found.get("role")
    if not isinstance(role, str) or role not in ROLES:
        shown = "is missing" if role is None else f"{str(role)[:40]!r} is not a role"
        raise RequestError(shown, field=f"messages[{place}].role", fix=f"use one of: {', '.join(sorted(ROLES))}")
    content = found.get("content")
    if type(content) is not str:
        _check_content(content, f"messages[{place}].content", role, needs)
    return Message(role, content)


def _check_content(content: Any, path: str, role: str, needs: set[str]) -> None:
    if content is None:
        if role != "assistant":
            raise RequestError("is missing", field=path, fix="send text, or a list of content parts")
        return
    if not isinstance(content, list):
        raise RequestError("is neither text nor a list of parts", field=path, fix="send text, or a list of content parts")
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise RequestError("has no type", field=f"{path}[{place}]", fix='send {"type": "text", "text": "…"}')
        if kind == "text" and not isinstance(part.get("text"), str):
            raise RequestError("is not text", field=f"{path}[{place}].text", fix="send a string")
        need = PART_NEEDS.get(kind)
        if need is not None:
            needs.add(need)


def _last_user_text(messages: tuple[Message, ...]) -> str:
    """The text of the last user turn, or of the last turn when no user spoke."""
    spoken = next((m for m in reversed(messages) if m.role == "user"), messages[-1])
    content = spoken.content
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if part.get("type") == "text")


# A check raises RequestError, or returns the capability that the field calls for ("" for none).
Check = Callable[[str, Any], str]


def _flag(name: str, value: Any) -> str:
    if not isinstance(value, bool):
        raise RequestError("is not true or false", field=name, fix="leave it out for false")
    return ""


def _object(name: str, value: Any) -> str:
    if not isinstance(value, dict):
        raise RequestError("is not an object", field=name, fix="send {…}, or leave it out")
    return ""


def _tokens(name: str, value: Any) -> str:
    if type(value) is not int or not 1 <= value <= MOST_TOKENS:
        raise RequestError(
            "is not a whole number above 0, or far too large", field=name, fix="leave it out for the model's own limit"
        )
    return ""


def _choices(name: str, value: Any) -> str:
    if type(value) is not int or not 1 <= value <= MOST_CHOICES:
        raise RequestError(f"is not a whole number from 1 to {MOST_CHOICES}", field=name, fix="leave it out for one answer")
    return "n" if value > 1 else ""


def _within(least: float, most: float) -> Check:
    def check(name: str, value: Any) -> str:
        if type(value) not in (int, float) or not least <= value <= most:
            raise RequestError(f"is not a number from {least:g} to {most:g}", field=name, fix="leave it out for the default")
        return ""

    return check


def _tools(name: str, value: Any) -> str:
    if not isinstance(value, list):
        raise RequestError("is not a list", field=name, fix="send a list of tools, or leave it out")
    for place, tool in enumerate(value):
        if not isinstance(tool, dict):
            raise RequestError("is not an object", field=f"{name}[{place}]", fix='send {"type": "function", "function": {…}}')
    return "tools" if value else ""


def _response_format(name: str, value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        raise RequestError("has no type", field=name, fix='send {"type": "json_object"}, or leave it out')
    return "" if kind == "text" else "json"


def _effort(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise RequestError("is not text", field=name, fix='for example "low", or leave it out')
    return "" if value == "none" else "reasoning"


def _switched_on(need: str) -> Check:
    """A field that is there and not empty, 0 or false calls for this."""

    def check(name: str, value: Any) -> str:
        del name
        return need if value else ""

    return check


def _object_that_needs(need: str) -> Check:
    def check(name: str, value: Any) -> str:
        _object(name, value)
        return need

    return check


def _modalities(name: str, value: Any) -> str:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise RequestError("is not a list of texts", field=name, fix='for example ["text"]')
    return "audio_out" if "audio" in value else ""


# `seed`, `prediction` and penalties are no needs: they ask for an effort, not for something that an answer must have.
CHECKS: Mapping[str, Check] = {
    "stream": _flag,
    "stream_options": _object,
    "metadata": _object,
    "max_tokens": _tokens,
    "max_completion_tokens": _tokens,
    "n": _choices,
    "temperature": _within(0, 2),
    "top_p": _within(0, 1),
    "frequency_penalty": _within(-2, 2),
    "presence_penalty": _within(-2, 2),
    "tools": _tools,
    "functions": _tools,
    "response_format": _response_format,
    "reasoning_effort": _effort,
    "logprobs": _switched_on("logprobs"),
    "top_logprobs": _switched_on("logprobs"),
    "logit_bias": _switched_on("logit_bias"),
    "modalities": _modalities,
    "web_search_options": _object_that_needs("web_search"),
}


class Feedback(NamedTuple):
    """What somebody says about a decision."""

    decision_id: str
    outcome: Outcome
    comment: str


MEASURED = Outcome.__struct_fields__


def parse_feedback(body: bytes) -> Feedback:
    """`{"decision_id", "quality"?, "comment"?, "cost_usd"?, …}`; raises RequestError. Ranges are the engine's to check."""
    found = parse_json(body)
    for key in found:
        if key not in ("decision_id", "comment", *MEASURED):
            known = ", ".join(("decision_id", "comment", *MEASURED))
            raise RequestError("is not a known field", field=key[:80], fix=f"known: {known}")
    id_ = found.get("decision_id")
    if not isinstance(id_, str) or not id_:
        raise RequestError("is missing", field="decision_id", fix="use the x-junctor-decision of an answer")
    comment = found.get("comment")
    if comment is not None and not isinstance(comment, str):
        raise RequestError("is not text", field="comment", fix="send a string, or leave it out")
    figures: dict[str, float] = {}
    for name in MEASURED:
        value = found.get(name)
        if value is not None:
            if type(value) not in (int, float):
                raise RequestError("is not a number", field=name, fix="leave it out when it is not known")
            if abs(value) > LARGEST_FIGURE:
                raise RequestError("is far too large", field=name, fix="leave it out when it is not known")
            figures[name] = float(value)
    return Feedback(id_, Outcome(**figures), comment or "")
