"""Whole answers where a stream was asked for: a cascade knows only at the end which of its answers is given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from junctor.providers import answers
from junctor.providers.base import Reply, StreamReply
from junctor.types import Request

EVENTS_AT_ONCE = 64
REASONING = ("reasoning_content", "reasoning", "thinking_blocks")

_encode = msgspec.json.Encoder().encode


def choices_of(body: bytes) -> list[Mapping[str, Any]]:
    """The choices of a chat.completion body; none when it is not one."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    choices = found.get("choices") if isinstance(found, dict) else None
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def message_of(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """A choice's message; empty when it has none."""
    message = choice.get("message")
    return message if isinstance(message, dict) else {}


def text_of(body: bytes) -> str:
    """What an answer says: the first choice's text, then its tool calls as JSON, without their random ids."""
    choices = choices_of(body)
    message = message_of(choices[0]) if choices else {}
    text = answers.content_text(message.get("content"))
    calls = message.get("tool_calls")
    if not isinstance(calls, Sequence) or not calls:
        return text
    plain = [call.get("function") for call in calls if isinstance(call, Mapping)]
    return f"{text}\n{_encode(plain).decode()}".strip()


class Buffered(StreamReply):
    """A whole answer as a stream: one role chunk per choice, its reasoning, its text word by word, then all else at once."""

    def __init__(self, request: Request, reply: Reply) -> None:
        self.usage = reply.usage
        self.finish_reason = reply.finish_reason
        self.cost_usd = reply.cost_usd
        self._body = reply.body
        self._with_usage = answers.wants_usage(request)
        self._open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The events, once; ends early after `aclose`."""
        for event in self._events():
            if not self._open:
                return
            yield event

    async def pieces(self) -> AsyncIterator[bytes]:
        """The same, many at a time: all of it is there."""
        held: list[bytes] = []
        for event in self._events():
            held.append(event)
            if len(held) == EVENTS_AT_ONCE:
                if not self._open:
                    return
                yield b"".join(held)
                held.clear()
        if held and self._open:
            yield b"".join(held)

    async def aclose(self) -> None:
        """Stop early."""
        self._open = False

    def _events(self) -> Iterator[bytes]:
        found = msgspec.json.decode(self._body)
        base = {key: found[key] for key in ("id", "created", "model", "system_fingerprint", "service_tier") if key in found}
        base["object"] = "chat.completion.chunk"
        extra = {"usage": None} if self._with_usage else {}
        for place, choice in enumerate(choices_of(self._body)):
            index = choice.get("index", place)
            for delta in _deltas(message_of(choice)):
                yield _event({**base, "choices": [{"index": index, "delta": delta, "finish_reason": None}], **extra})
            last = {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"}
            if choice.get("logprobs") is not None:
                last["logprobs"] = choice["logprobs"]
            yield _event({**base, "choices": [last], **extra})
        if self._with_usage:
            yield _event({**base, "choices": [], "usage": found.get("usage") or answers.usage_json(self.usage)})
        yield answers.DONE


def _deltas(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    content = message.get("content")
    rest = {key: value for key, value in message.items() if key not in ("role", "content") and value is not None}
    if isinstance(rest.get("tool_calls"), list):
        rest["tool_calls"] = [{"index": i, **call} for i, call in enumerate(rest["tool_calls"]) if isinstance(call, dict)]
    yield {"role": message.get("role", "assistant"), "content": "" if isinstance(content, str) else content}
    thought = {key: rest.pop(key) for key in REASONING if key in rest}
    if thought:
        yield thought  # before the words: other APIs' clients take the order of a stream for that of the answer
    if isinstance(content, str):
        yield from ({"content": piece} for piece in answers.words(content))
    if rest:
        yield rest


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + _encode(chunk) + b"\n\n"
