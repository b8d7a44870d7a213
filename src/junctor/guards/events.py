"""Texts of a streamed reply on their way: each channel of each choice (content, reasoning, a tool call's arguments) is one text
that arrives in pieces.

A `Weave` may hold back the end of a piece until it knows what follows. What is held is let go before anything that comes after
it for the client: the end of its choice, or another channel of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

DONE = b"data: [DONE]"
TEXTS = ("content", "reasoning_content", "reasoning", "refusal")

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
Channel = tuple[int, str, int]


def chunk_of(event: bytes) -> dict[str, Any] | None:
    """The chat.completion.chunk of an event; None for comments, `[DONE]`, errors and what is no JSON."""
    if not event.startswith(b"data:") or event.startswith(DONE):
        return None
    try:
        found = _decode(event[5:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("choices"), list) else None


def event_of(chunk: dict[str, Any]) -> bytes:
    """A chunk as an event."""
    return b"data: " + _encode(chunk) + b"\n\n"


class Weave(ABC):
    """An EventFilter that changes the texts of a stream. Subclasses say what becomes of a piece of a channel."""

    def __init__(self) -> None:
        self._held: dict[Channel, str] = {}
        self._last: dict[str, Any] = {}

    @abstractmethod
    def change(self, text: str, channel: Channel) -> tuple[str, str]:
        """(what goes out, what is held back) of a text that was held back so far and what came now."""

    @abstractmethod
    def finish(self, text: str, channel: Channel) -> str:
        """What becomes of a text that was held back, when nothing follows."""

    def touches(self, events: bytes) -> bool:
        """Whether events can hold anything to change; a cheap look, at bytes. Always asked when nothing is held back."""
        del events
        return True

    def push(self, events: bytes) -> bytes:
        """Whole events in, whole events out."""
        if not self._held and not self.touches(events):
            return events
        return b"".join([self._event(event) for event in events.split(b"\n\n") if event])

    def end(self) -> bytes:
        """Nothing follows: give out what is held back."""
        return self._flush(None)

    def _event(self, event: bytes) -> bytes:
        chunk = chunk_of(event)
        if chunk is None:
            return (self._flush(None) if event.startswith(DONE) else b"") + event + b"\n\n"
        self._last = {key: value for key, value in chunk.items() if key not in ("choices", "usage")}
        before = b"".join([self._choice(choice) for choice in chunk["choices"] if isinstance(choice, dict)])
        if not chunk["choices"]:
            before += self._flush(None)
        return before + event_of(chunk)

    def _choice(self, choice: dict[str, Any]) -> bytes:
        """Change a choice in place; returns the events that must come before it."""
        index = choice.get("index", 0)
        delta = choice.get("delta")
        before = b""
        pieces = _pieces(index, delta if isinstance(delta, dict) else {})
        now = {channel for _, _, channel in pieces}
        for place, (holder, key, channel) in enumerate(pieces):
            if not place and self._held:
                before += self._flush(index, but=now)
            out, held = self.change(self._held.pop(channel, "") + holder[key], channel)
            if held and channel[1] in TEXTS and place + 1 < len(pieces):
                out, held = out + self.finish(held, channel), ""  # the next text of this very piece comes after it
            holder[key] = out
            if held:
                self._held[channel] = held
        return before + self._flush(index) if choice.get("finish_reason") else before

    def _flush(self, index: int | None, but: AbstractSet[Channel] | None = None) -> bytes:
        """Events of what is held back for a choice (None: for all); with `but` only of texts, and not of these channels.

        Calls of tools go on beside each other: what one of them holds back waits until it goes on, or until the choice ends.
        """
        out = b""
        for channel in [c for c in self._held if index is None or c[0] == index]:
            if but is not None and (channel in but or channel[1] not in TEXTS):
                continue
            text = self.finish(self._held.pop(channel), channel)
            out += event_of({**self._last, "choices": [_choice_of(channel, text)]}) if text else b""
        return out


def _pieces(index: int, delta: dict[str, Any]) -> list[tuple[dict[str, Any], str, Channel]]:
    found: list[tuple[dict[str, Any], str, Channel]] = [
        (delta, key, (index, key, 0)) for key in TEXTS if isinstance(delta.get(key), str) and delta[key]
    ]
    calls = delta.get("tool_calls")
    for place, call in enumerate(calls if isinstance(calls, list) else ()):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            number = call.get("index", place)
            found.append((function, "arguments", (index, "tool_calls", number if isinstance(number, int) else place)))
    function = delta.get("function_call")
    if isinstance(function, dict) and isinstance(function.get("arguments"), str):
        found.append((function, "arguments", (index, "function_call", 0)))
    return found


def _choice_of(channel: Channel, text: str) -> dict[str, Any]:
    index, key, number = channel
    delta: dict[str, Any] = {key: text}
    if key == "tool_calls":
        delta = {key: [{"index": number, "function": {"arguments": text}}]}
    elif key == "function_call":
        delta = {key: {"arguments": text}}
    return {"index": index, "delta": delta, "finish_reason": None}
