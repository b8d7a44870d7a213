"""From the events of a stream to the whole answer that they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from junctor.errors import UpstreamGarbage
from junctor.providers import answers
from junctor.providers.base import Reply, StreamReply

SAID_ONCE = frozenset(("role", "type", "id", "index", "name", "signature"))
OF_THE_ANSWER = ("id", "created", "model", "system_fingerprint", "service_tier")
LOGPROBS = ("content", "refusal")

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Collector:
    """Sees a stream pass, and when it was complete hands over the whole answer; a stream that is too long is let go.

    The pieces are looked at only at the end, so that they pass at the speed at which they came.
    """

    def __init__(self, reply: StreamReply, most_bytes: int, done: Callable[[Reply | None], None]) -> None:
        self._reply = reply
        self._left = most_bytes
        self._done = done
        self._pieces: list[bytes] = []

    def push(self, events: bytes) -> bytes:
        """Takes note."""
        self._left -= len(events)
        if self._left >= 0:
            self._pieces.append(events)
        return events

    def end(self) -> bytes:
        """The stream was complete."""
        whole = None
        if self._left >= 0:
            try:
                whole = whole_of(b"".join(self._pieces), self._reply)
            except UpstreamGarbage:
                whole = None  # it passed as it came; what it means is not ours to guess
        self._pieces.clear()
        self._done(whole)
        return b""


def whole_of(events: bytes, reply: StreamReply) -> Reply:
    """The chat.completion of a complete stream of one answer; raises UpstreamGarbage for one that is not."""
    found: dict[str, Any] = {}
    choice: dict[str, Any] = {"index": 0, "message": {}, "finish_reason": None}
    usage: Any = None
    for chunk in _chunks(events):
        for name in OF_THE_ANSWER:
            if chunk.get(name) is not None:
                found.setdefault(name, chunk[name])
        usage = chunk.get("usage") or usage
        for part in chunk.get("choices") or ():
            _add(choice, part)
    if not isinstance(choice["finish_reason"], str):
        raise UpstreamGarbage("the stream has no end")
    _tidy(choice["message"])
    if usage is None and reply.usage.input_tokens is not None:
        usage = answers.usage_json(reply.usage)
    body = {**found, "object": "chat.completion", "choices": [choice]}
    if usage is not None:
        body["usage"] = usage
    return Reply(body=_encode(body), usage=reply.usage, finish_reason=choice["finish_reason"])


def _chunks(events: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in events.splitlines():
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return found
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamGarbage("an event is no JSON") from error
        if not isinstance(chunk, dict) or chunk.get("error") is not None:
            raise UpstreamGarbage("an event is no chunk")
        found.append(chunk)
    raise UpstreamGarbage("the stream has no [DONE]")


def _add(choice: dict[str, Any], part: Any) -> None:
    if not isinstance(part, dict) or part.get("index", 0) != 0:
        raise UpstreamGarbage("more than one answer")
    delta = part.get("delta")
    if isinstance(delta, dict):
        _merge(choice["message"], delta)
    if part.get("finish_reason"):
        choice["finish_reason"] = part["finish_reason"]
    logprobs = part.get("logprobs")
    if isinstance(logprobs, dict):
        held = choice.setdefault("logprobs", {})
        for name in LOGPROBS:
            if isinstance(logprobs.get(name), list):
                held[name] = [*(held.get(name) or ()), *logprobs[name]]


def _merge(held: dict[str, Any], delta: dict[str, Any]) -> None:
    """Texts grow, lists grow or merge by index, objects merge; names and ids are said once; other values are the latest."""
    for name, value in delta.items():
        before = held.get(name)
        if value is None:
            held.setdefault(name, None)
        elif isinstance(value, str) and isinstance(before, str):
            held[name] = (before or value) if name in SAID_ONCE else before + value
        elif isinstance(value, dict):
            if not isinstance(before, dict):
                before = held[name] = {}
            _merge(before, value)
        elif isinstance(value, list):
            if not isinstance(before, list):
                before = held[name] = []
            _merge_list(before, value)
        else:
            held[name] = value


def _merge_list(held: list[Any], items: list[Any]) -> None:
    for item in items:
        place = item.get("index") if isinstance(item, dict) else None
        if place is None:
            held.append(item)
            continue
        same = next((one for one in held if isinstance(one, dict) and one.get("index") == place), None)
        if same is None:
            same = {}
            held.append(same)
        _merge(same, item)


def _tidy(message: dict[str, Any]) -> None:
    """What a whole answer writes otherwise than a stream: who speaks and the content always, no index of a tool call."""
    message.setdefault("role", "assistant")
    message.setdefault("content", None)
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        if not message["content"]:
            message["content"] = None
        calls.sort(key=lambda call: call.get("index", 0) if isinstance(call, dict) else 0)
        for call in calls:
            if isinstance(call, dict):
                call.pop("index", None)
