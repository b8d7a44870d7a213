"""A stream in the events of the OpenAI Responses API: items, one after the other, each opened, filled and closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from junctor.errors import JunctorError
from junctor.gateway.wires.base import EventWriter
from junctor.gateway.wires.reading import Step, StreamReader, ToolCall
from junctor.gateway.wires.responses_items import (
    Item,
    Told,
    call_item,
    ended,
    logprobs_of,
    message_item,
    reasoning_item,
    response_object,
    text_part,
)

_encode = msgspec.json.Encoder().encode
RATE_LIMITED = 429
DELTA = b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b,"delta":%b%b}\n\n'
Keep = Callable[[Told, dict[str, Any]], dict[str, Any]]


def _inside(fields: dict[str, Any]) -> bytes:
    """The fields of an object without its braces."""
    return _encode(fields)[1:-1]


class ResponsesWriter(EventWriter):
    """Writes one stream. `keep` gets the finished response and returns it, kept or marked as not kept."""

    def __init__(self, told: Told, model: str, keep: Keep) -> None:
        self._told = told
        self._model = model
        self._keep = keep
        self._reader = StreamReader()
        self._output: list[Item] = []
        self._number = 0
        self._started = False
        self._open = ""
        self._item: Item = {}
        self._part = ""
        self._placed = b""
        self._pieces: list[str] = []
        self._logprobs: list[Any] = []
        self._blocks: list[dict[str, Any]] = []
        self._out: list[bytes] = []

    def push(self, events: bytes) -> bytes:
        """See `EventWriter`; raises UpstreamBroken."""
        steps = self._reader.push(events)
        self._start()
        for step in steps:
            WRITERS[step.kind](self, step)
        if self._reader.done:
            self._finish()
        return self._given()

    def broken(self, error: JunctorError) -> bytes:
        """`response.failed`, with what was complete until then."""
        self._start()
        found = response_object(self._told, "failed", self._name(), self._output, self._reader.usage)
        code = "rate_limit_exceeded" if error.http_status == RATE_LIMITED else "server_error"
        found["error"] = {"code": code, "message": str(error)}
        self._tell("response.failed", response=found)
        return self._given()

    def _given(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _name(self) -> str:
        return self._reader.model or self._model

    def _tell(self, kind: str, **fields: Any) -> None:
        body = _encode({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        self._out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), body))

    def _delta(self, kind: bytes, text: str, more: bytes = b"") -> None:
        """A piece of whatever is open. Most of a stream is this; written by hand it costs a third."""
        self._out.append(DELTA % (kind, kind, self._number, self._placed, _encode(text), more))
        self._number += 1
        self._pieces.append(text)

    def _start(self) -> None:
        if not self._started:
            self._started = True
            for kind in ("response.created", "response.in_progress"):
                self._tell(kind, response=response_object(self._told, "in_progress", self._name(), []))

    def _finish(self) -> None:
        self._close()
        status, reason = ended(self._reader.finish_reason)
        if reason and self._output:
            self._output[-1]["status"] = "incomplete"
        found = response_object(self._told, status, self._name(), self._output, self._reader.usage, reason)
        self._tell(f"response.{status}", response=self._keep(self._told, found))

    def _begin(self, kind: str, prefix: str, make: Callable[[str], Item]) -> None:
        self._close()
        item = make(self._told.item_id(prefix, len(self._output)))
        self._open, self._item = kind, item
        self._placed = _inside(self._where())
        self._tell("response.output_item.added", output_index=len(self._output), item=item)

    def _where(self) -> dict[str, Any]:
        return {"item_id": self._item["id"], "output_index": len(self._output)}

    def _place(self) -> dict[str, Any]:
        return {**self._where(), "content_index": len(self._item["content"])}

    def _close(self) -> None:
        if not self._open:
            return
        self._end_part()
        id_ = self._item["id"]
        if self._open == "reasoning":
            self._item = reasoning_item(id_, self._thoughts())
        elif self._open == "function_call":
            arguments = self._text()
            self._item = call_item(id_, ToolCall(self._item["call_id"], self._item["name"], arguments or "{}"))
            done = {"arguments": self._item["arguments"], "name": self._item["name"]}
            self._tell("response.function_call_arguments.done", **self._where(), **done)
        else:
            self._item = message_item(id_, self._item["content"])
        self._tell("response.output_item.done", output_index=len(self._output), item=self._item)
        self._output.append(self._item)
        self._open = ""

    def _text(self) -> str:
        text = "".join(self._pieces)
        self._pieces.clear()
        return text

    def _begin_part(self, kind: str, part: Item) -> None:
        if self._part != kind:
            self._end_part()
            self._part = kind
            self._placed = _inside(self._place())
            self._tell("response.content_part.added", **self._place(), part=part)

    def _end_part(self) -> None:
        """Close the part that is open, if one is."""
        kind, self._part = self._part, ""
        if not kind:
            return
        text = self._text()
        if kind == "output_text":
            part, logprobs = text_part(text, self._logprobs), self._logprobs
            self._logprobs = []
            self._tell("response.output_text.done", **self._place(), text=text, logprobs=logprobs)
        elif kind == "refusal":
            part = {"type": "refusal", "refusal": text}
            self._tell("response.refusal.done", **self._place(), refusal=text)
        else:
            part = {"type": "reasoning_text", "text": text}
            self._tell("response.reasoning_text.done", **self._place(), text=text)
            self._thought(text)
        self._tell("response.content_part.done", **self._place(), part=part)
        self._item["content"].append(part)

    def _thought(self, text: str) -> None:
        said = sum(len(b["thinking"]) for b in self._blocks if b["type"] == "thinking")
        if text[said:]:
            self._blocks.append({"type": "thinking", "thinking": text[said:], "signature": ""})

    def _thoughts(self) -> list[dict[str, Any]]:
        blocks, self._blocks = self._blocks, []
        return blocks

    def _message(self) -> None:
        if self._open != "message":
            self._begin("message", "msg", lambda id_: message_item(id_, [], "in_progress"))

    def _reasoning(self) -> None:
        if self._open != "reasoning":
            self._begin("reasoning", "rs", lambda id_: {**reasoning_item(id_, []), "status": "in_progress"})

    def text(self, step: Step) -> None:
        """A piece of the answer."""
        self._message()
        if self._part != "output_text":
            self._begin_part("output_text", text_part("", []))
        logprobs = logprobs_of(step.logprobs)
        self._delta(b"response.output_text.delta", step.text, b',"logprobs":' + _encode(logprobs))
        self._logprobs += logprobs

    def refusal(self, step: Step) -> None:
        """A piece of a refusal."""
        self._message()
        self._begin_part("refusal", {"type": "refusal", "refusal": ""})
        self._delta(b"response.refusal.delta", step.text)

    def thinking(self, step: Step) -> None:
        """A piece of the reasoning."""
        self._reasoning()
        self._begin_part("reasoning_text", {"type": "reasoning_text", "text": ""})
        self._delta(b"response.reasoning_text.delta", step.text)

    def signature(self, step: Step) -> None:
        """The seal of what was thought since the last one."""
        self._reasoning()
        text = "".join(self._pieces)
        said = sum(len(b["thinking"]) for b in self._blocks if b["type"] == "thinking")
        self._blocks.append({"type": "thinking", "thinking": text[said:], "signature": step.text})

    def redacted(self, step: Step) -> None:
        """Reasoning that only its upstream can read."""
        self._reasoning()
        self._blocks.append({"type": "redacted_thinking", "data": step.text})

    def tool(self, step: Step) -> None:
        """A function call begins."""
        call = ToolCall(step.text, step.name, "")
        self._begin("function_call", "fc", lambda id_: call_item(id_, call, "in_progress"))

    def arguments(self, step: Step) -> None:
        """A piece of its arguments."""
        self._delta(b"response.function_call_arguments.delta", step.text)


WRITERS: dict[str, Callable[[ResponsesWriter, Step], None]] = {
    "text": ResponsesWriter.text,
    "refusal": ResponsesWriter.refusal,
    "thinking": ResponsesWriter.thinking,
    "signature": ResponsesWriter.signature,
    "redacted": ResponsesWriter.redacted,
    "tool": ResponsesWriter.tool,
    "arguments": ResponsesWriter.arguments,
}
