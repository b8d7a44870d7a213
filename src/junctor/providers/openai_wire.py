"""The wire of the OpenAI chat API as an upstream speaks it: what to send, and what to read out of the bytes that come back."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from junctor.errors import RequestError
from junctor.providers.base import Usage
from junctor.providers.openai_extras import without_extras
from junctor.types import Request, Target

SAID_CHARS = 300
SIGNS = (b'"usage"', b'"error"', b'"finish_reason":"', b'"finish_reason": "')
DONE_LINES = (b"data: [DONE]", b"data:[DONE]")


class Choice(Struct):
    """One answer; of any type, because an upstream's oddity here is no reason to lose it."""

    finish_reason: Any = None


class Whole(Struct):
    """A chat completion: without `choices` it is none."""

    choices: list[Choice]
    usage: Any = None


class Event(Struct):
    """A chunk of a stream, or an error in the place of one."""

    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None


decode_whole = msgspec.json.Decoder(Whole)
decode_event = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder()


def chat_body(request: Request, target: Target, *, stream: bool, usage: bool, extras: bool = False) -> bytes:
    """What is sent: the caller's fields, the target's settings over them, the upstream's name of the model.

    With `usage` a stream is asked to end with its usage. Without `extras`, what came by another API loses what only that one
    knows. Raises RequestError for what is no JSON.
    """
    params = dict(request.params)
    if "messages" not in params:
        turns = [{"role": m.role, "content": m.content} for m in request.messages]
        params["messages"] = turns or [{"role": "user", "content": request.text}]
    if request.api and not extras:
        without_extras(params)
    params.update(target.settings)
    params["model"] = target.upstream_model
    params.pop("stream", None)
    if stream:
        params["stream"] = True
        if usage:
            given = params.get("stream_options")
            params["stream_options"] = {**(given if isinstance(given, Mapping) else {}), "include_usage": True}
    else:
        params.pop("stream_options", None)
    try:
        return _encoder.encode(params)
    except (OverflowError, ValueError, TypeError, RecursionError) as error:
        raise RequestError("cannot be sent on as JSON", fix="use plain values") from error


def finish_reason(choices: Sequence[Choice] | None) -> str:
    """Why the first answer ended; "" while it goes on."""
    reason = choices[0].finish_reason if choices else None
    return reason if isinstance(reason, str) else ""


def used(said: Any) -> tuple[Usage, float | None]:
    """Usage and cost as the upstream states them; a figure of the wrong type is not known, and no reason to lose an answer."""
    if not isinstance(said, dict):
        return Usage(), None
    cost: Any = said.get("cost")
    usage = Usage(
        input_tokens=_count(said, "prompt_tokens"),
        output_tokens=_count(said, "completion_tokens"),
        cached_tokens=_count(said.get("prompt_tokens_details"), "cached_tokens"),
        cache_write_tokens=_count(said.get("prompt_tokens_details"), "cache_write_tokens"),
        reasoning_tokens=_count(said.get("completion_tokens_details"), "reasoning_tokens"),
    )
    stated = isinstance(cost, (int, float)) and not isinstance(cost, bool) and cost >= 0
    return usage, float(cost) if stated else None


def _count(holder: Any, name: str) -> int | None:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if type(value) is int and value >= 0 else None


def done_at(events: bytes) -> int:
    """Where the line `data: [DONE]` begins, or -1. Inside a chunk the same words are only text."""
    if b"[DONE]" not in events:
        return -1
    if events.startswith(DONE_LINES):
        return 0
    places = [place + 1 for line in DONE_LINES if (place := events.find(b"\n" + line)) >= 0]
    return min(places, default=-1)


def telling(events: bytes) -> list[tuple[int, int]]:
    """Where the events are that say something we must know, in order. Most say nothing but the next word."""
    found: set[tuple[int, int]] = set()
    for sign in SIGNS:
        place = events.find(sign)
        while place >= 0:
            before, stop = events.rfind(b"\n\n", 0, place), events.find(b"\n\n", place) + 2
            found.add((before + 2 if before >= 0 else 0, stop))
            place = events.find(sign, stop)
    return sorted(found)


def message_of(error: Any) -> str:
    """The upstream's own words."""
    found = error.get("message", error) if isinstance(error, Mapping) else error
    return " ".join((found if isinstance(found, str) else "no message").split())


def said_in(body: bytes) -> str:
    """The message of an error body, shortened; "" when it holds none."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    error = found.get("error", found.get("message")) if isinstance(found, dict) else None
    return "" if error is None else message_of(error)[:SAID_CHARS]


def retry_after_s(value: str) -> float | None:
    """Seconds to wait from a Retry-After header: a number of seconds or an HTTP date; None when it is neither."""
    text = value.strip()
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, when - time.time())
