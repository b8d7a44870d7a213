"""A stream in the events of the Anthropic Messages API: blocks one after the other, each opened, filled and closed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec

from junctor.errors import JunctorError
from junctor.gateway.wires.base import EventWriter
from junctor.gateway.wires.reading import Counted, Step, StreamReader

_encode = msgspec.json.Encoder().encode

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}

# Most of a stream is this; written by hand it costs a third.
DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'


def stop_reason(finish_reason: str, stopped_at: str, stops: Collection[str], *, refused: bool) -> tuple[str, str | None]:
    """`stop_reason` and `stop_sequence` of an answer."""
    if finish_reason == "stop" and stopped_at and stopped_at in stops:
        return "stop_sequence", stopped_at
    reason = STOP_REASONS.get(finish_reason, "end_turn")
    return ("refusal" if refused and reason == "end_turn" else reason), None


def usage_object(usage: Counted) -> dict[str, Any]:
    """Usage in this API's way of counting: what was read from the cache and written to it is not part of `input_tokens`."""
    return {
        "input_tokens": max(0, usage.input - usage.cached - usage.written),
        "cache_creation_input_tokens": usage.written,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.output,
    }


def event(kind: str, **fields: Any) -> bytes:
    """One event."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **fields}))


class MessagesWriter(EventWriter):
    """Writes one stream. `error` makes the object of an error event."""

    def __init__(self, id_: str, model: str, stops: Collection[str], error: Callable[[JunctorError], dict[str, Any]]) -> None:
        self._id = id_
        self._model = model
        self._stops = stops
        self._error = error
        self._reader = StreamReader()
        self._started = False
        self._open = ""
        self._index = -1
        self._refused = False

    def push(self, events: bytes) -> bytes:
        """See `EventWriter`; raises UpstreamBroken."""
        reader = self._reader
        steps = reader.push(events)
        out: list[bytes] = []
        if not self._started:
            self._started = True
            out.append(self._start())
        for step in steps:
            WRITERS[step.kind](self, step, out)
        if reader.done:
            self._close(out)
            self._finish(out)
        return b"".join(out)

    def broken(self, error: JunctorError) -> bytes:
        """An `error` event; no `message_stop` follows."""
        return event("error", error=self._error(error))

    def _start(self) -> bytes:
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._reader.model or self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_object(self._reader.usage),
        }
        return event("message_start", message=message)

    def _finish(self, out: list[bytes]) -> None:
        reader = self._reader
        reason, sequence = stop_reason(reader.finish_reason, reader.stopped_at, self._stops, refused=self._refused)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        out.append(event("message_delta", delta=delta, usage=usage_object(reader.usage)))
        out.append(event("message_stop"))

    def _close(self, out: list[bytes]) -> None:
        if self._open:
            self._open = ""
            out.append(event("content_block_stop", index=self._index))

    def _begin(self, kind: str, block: dict[str, Any], out: list[bytes]) -> None:
        self._close(out)
        self._open = kind
        self._index += 1
        out.append(event("content_block_start", index=self._index, content_block={"type": kind, **block}))

    def _delta(self, kind: bytes, name: bytes, text: str, out: list[bytes]) -> None:
        out.append(DELTA % (self._index, kind, name, _encode(text)))

    def text(self, step: Step, out: list[bytes]) -> None:
        """A piece of the answer, or of a refusal, which is text here."""
        self._refused = self._refused or step.kind == "refusal"
        if self._open != "text":
            self._begin("text", {"text": ""}, out)
        self._delta(b"text_delta", b"text", step.text, out)

    def thinking(self, step: Step, out: list[bytes]) -> None:
        """A piece of the reasoning."""
        if self._open != "thinking":
            self._begin("thinking", {"thinking": "", "signature": ""}, out)
        self._delta(b"thinking_delta", b"thinking", step.text, out)

    def signature(self, step: Step, out: list[bytes]) -> None:
        """The end of a block of reasoning."""
        if self._open != "thinking":
            self._begin("thinking", {"thinking": "", "signature": ""}, out)
        if step.text:
            self._delta(b"signature_delta", b"signature", step.text, out)
        self._close(out)

    def redacted(self, step: Step, out: list[bytes]) -> None:
        """Reasoning that only its upstream can read: a block that is whole at once."""
        self._begin("redacted_thinking", {"data": step.text}, out)
        self._close(out)

    def tool(self, step: Step, out: list[bytes]) -> None:
        """A tool call begins."""
        self._begin("tool_use", {"id": step.text, "name": step.name, "input": {}}, out)

    def arguments(self, step: Step, out: list[bytes]) -> None:
        """A piece of its arguments."""
        self._delta(b"input_json_delta", b"partial_json", step.text, out)


WRITERS: dict[str, Callable[[MessagesWriter, Step, list[bytes]], None]] = {
    "text": MessagesWriter.text,
    "refusal": MessagesWriter.text,
    "thinking": MessagesWriter.thinking,
    "signature": MessagesWriter.signature,
    "redacted": MessagesWriter.redacted,
    "tool": MessagesWriter.tool,
    "arguments": MessagesWriter.arguments,
}
