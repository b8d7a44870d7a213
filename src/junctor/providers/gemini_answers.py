"""Gemini generateContent: reading an answer, whole or as a stream, into a chat completion.

    text -> content                        thought -> reasoning_content        functionCall -> tool_calls
    thoughtSignature -> extra_content.google.thought_signature of the call, or of the message
    inlineData -> images                   any other part -> extra_content.google.parts, as it came

`completion_tokens` includes the tokens of thoughts, `prompt_tokens` those of tool results that the API adds itself.
"""

from __future__ import annotations

import base64
import struct
import uuid
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from junctor.errors import UpstreamBroken, UpstreamError, UpstreamGarbage
from junctor.providers import chat_writing
from junctor.providers.base import Reply, Usage
from junctor.providers.event_lines import EventLines
from junctor.providers.event_reading import UNREADABLE, EventReader, Redacted, status_error
from junctor.providers.openai_wire import SAID_CHARS, message_of

STOPS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
}
SPOILT = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE")
NOT_ONE = "answered 200 with something that is not a Gemini answer"


class FunctionCall(Struct):
    """The model calls a tool."""

    name: str
    args: Any = None
    id: str = ""


class InlineData(Struct, rename="camel"):
    """Bytes in base64."""

    mime_type: str
    data: str


class Part(Struct, rename="camel"):
    """A part of the answer."""

    text: str | None = None
    thought: bool = False
    thought_signature: str = ""
    function_call: FunctionCall | None = None
    inline_data: InlineData | None = None


class Content(Struct):
    """What was said."""

    parts: list[Raw] = field(default_factory=list)


class Candidate(Struct, rename="camel"):
    """One answer."""

    content: Content = field(default_factory=Content)
    finish_reason: str = ""
    finish_message: str = ""


class Generated(Struct, rename="camel"):
    """A whole answer, or a piece of a streamed one."""

    candidates: list[Candidate] | None = None
    prompt_feedback: dict[str, Any] | None = None
    usage_metadata: Any = None
    model_version: str = ""
    response_id: str = ""
    error: Any = None


_generated = msgspec.json.Decoder(Generated)
_part = msgspec.json.Decoder(Part)
_any = msgspec.json.Decoder()


def usage_of(said: Any) -> Usage:
    """Usage in our convention; a figure of the wrong type is not known."""
    prompt, cached, made, thought, tool = (
        _count(said, name + "TokenCount") for name in ("prompt", "cachedContent", "candidates", "thoughts", "toolUsePrompt")
    )
    return Usage(
        input_tokens=None if prompt is None else prompt + (tool or 0),
        output_tokens=None if made is None and thought is None else (made or 0) + (thought or 0),
        cached_tokens=cached,
        reasoning_tokens=thought,
    )


def _count(holder: Any, name: str) -> int | None:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if type(value) is int and value >= 0 else None


def block_reason(generated: Generated) -> str:
    """Why the prompt was not answered at all; "" when it was."""
    reason = (generated.prompt_feedback or {}).get("blockReason")
    return reason if isinstance(reason, str) and not generated.candidates else ""


def finish_reason(native: str, *, calls: bool) -> str:
    """OpenAI's word for it."""
    found = STOPS.get(native, "stop")
    return "tool_calls" if calls and found == "stop" else found


def call_of(part: Part) -> dict[str, Any]:
    """A tool call as the chat API writes it; the API does not name all of its calls."""
    function = part.function_call
    assert function is not None
    id_ = function.id or f"call_{uuid.uuid4().hex[:24]}"
    call = chat_writing.call_json(id_, function.name, chat_writing.arguments_text(function.args or {}))
    if part.thought_signature:
        call["extra_content"] = {"google": {"thought_signature": part.thought_signature}}
    return call


def image_of(data: InlineData) -> dict[str, Any]:
    """A picture that was made."""
    return {"type": "image_url", "image_url": {"url": f"data:{data.mime_type};base64,{data.data}"}}


def deltas(raw: Raw) -> tuple[dict[str, Any], bool]:
    """(what a part adds to the message, whether it is a tool call)."""
    part = _part.decode(raw)
    if part.function_call is not None:
        return call_of(part), True
    out: dict[str, Any] = {}
    if part.inline_data is not None:
        out["images"] = [image_of(part.inline_data)]
    elif part.text is None and not part.thought_signature:
        return {"extra_content": {"google": {"parts": [_any.decode(raw)]}}}, False
    if part.text:
        out["reasoning_content" if part.thought else "content"] = part.text
    if part.thought_signature:
        out["extra_content"] = {"google": {"thought_signature": part.thought_signature}}
    return out, False


def read_generated(raw: bytes, target: str, model: str) -> Reply:
    """A whole answer as a Reply; raises UpstreamGarbage for what is none."""
    try:
        generated = _generated.decode(raw)
        blocked = block_reason(generated)
        if not generated.candidates and not blocked:
            raise UpstreamGarbage(NOT_ONE, target=target)
        candidate = generated.candidates[0] if generated.candidates else Candidate(finish_reason="SAFETY")
        if candidate.finish_reason in SPOILT:
            raise UpstreamGarbage(f"gave up with {candidate.finish_reason}", target=target)
        message = _message(candidate.content.parts)
        usage = usage_of(generated.usage_metadata)
        reason = finish_reason(candidate.finish_reason, calls="tool_calls" in message)
        native = {"native_finish_reason": blocked or candidate.finish_reason}
        id_ = generated.response_id or f"gemini-{uuid.uuid4().hex}"
        body = chat_writing.whole_body(id_, generated.model_version or model, message, usage, reason, native)
    except UNREADABLE as error:
        raise UpstreamGarbage(NOT_ONE, target=target) from error
    return Reply(body=body, usage=usage, finish_reason=reason)


def _message(parts: list[Raw]) -> dict[str, Any]:
    out: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    calls: list[dict[str, Any]] = []
    for raw in parts:
        delta, is_call = deltas(raw)
        if is_call:
            calls.append(delta)
            continue
        for name, value in delta.items():
            if isinstance(value, dict):
                google = out.setdefault(name, {"google": {}})["google"]
                for key, inner in value["google"].items():
                    google[key] = google.get(key, []) + inner if isinstance(inner, list) else inner
            else:
                out[name] = out[name] + value if name in out else value
    if calls:
        out |= {"tool_calls": calls, "content": out["content"] or None}
    return out


class GeneratedStream(EventReader):
    """Reads a stream; it is done when it ends after a finish reason."""

    what = "an event that is not one of Gemini's"

    def __init__(self, target: str, model: str, *, with_usage: bool, redacted: Redacted = str) -> None:
        super().__init__(EventLines().feed, target, with_usage=with_usage, redacted=redacted)
        self._model = model
        self._calls = 0
        self._native = ""

    def read(self, event: bytes) -> bytes:
        """The chunks that one event makes."""
        generated = _generated.decode(event)
        if generated.error is not None:
            raise self._failure(generated.error)
        if not self.begun:
            self.begin(generated.response_id or f"gemini-{uuid.uuid4().hex}", generated.model_version or self._model)
        if generated.usage_metadata is not None:
            self.usage = usage_of(generated.usage_metadata)
        if blocked := block_reason(generated):
            self._native, self.finish_reason = blocked, "content_filter"
        out = b""
        for candidate in (generated.candidates or ())[:1]:
            out += self._candidate(candidate)
        return out

    def _candidate(self, candidate: Candidate) -> bytes:
        out: list[bytes] = []
        for raw in candidate.content.parts:
            delta, is_call = deltas(raw)
            if is_call:
                delta = {"tool_calls": [{"index": self._calls, **delta}]}
                self._calls += 1
            if delta:
                out.append(self.write.delta(delta))
        said = b"".join(out)
        if candidate.finish_reason in SPOILT:
            what = f"gave up with {candidate.finish_reason}"
            raise UpstreamGarbage(what, target=self.target) if self.silent else UpstreamBroken(what, target=self.target)
        if candidate.finish_reason:
            self._native = candidate.finish_reason
            self.finish_reason = finish_reason(candidate.finish_reason, calls=self._calls > 0)
        return self.say(said) if said else b""

    def end(self) -> bytes:
        """The end of the answer; raises UpstreamBroken where no reason for it was given."""
        if not self._native:
            return super().end()
        self.done = True
        return self.say(self.write.finish(self.finish_reason, {"native_finish_reason": self._native})) + self.write.end(
            self.usage
        )

    def _failure(self, error: Any) -> UpstreamError:
        said = self.redacted(message_of(error))[:SAID_CHARS]
        if self.silent and isinstance(error, dict) and type(error.get("code")) is int and 400 <= error["code"] < 600:
            return status_error(error["code"], str(error.get("status", "")), said, self.target)
        return UpstreamBroken(f"reported an error: {said}", target=self.target)


class Embedding(Struct):
    """One vector."""

    values: list[float]


class Embedded(Struct, rename="camel"):
    """The answer to batchEmbedContents."""

    embeddings: list[Embedding]
    usage_metadata: Any = None


_embedded = msgspec.json.Decoder(Embedded)


def read_embedded(raw: bytes, target: str, model: str, *, as_base64: bool) -> Reply:
    """Embeddings as the OpenAI API has them; raises UpstreamGarbage for what is none."""
    try:
        found = _embedded.decode(raw)
    except UNREADABLE as error:
        raise UpstreamGarbage(NOT_ONE, target=target) from error
    usage = Usage(input_tokens=_count(found.usage_metadata, "promptTokenCount"), output_tokens=0)
    rows = [_packed(one.values) if as_base64 else one.values for one in found.embeddings]
    body = {
        "object": "list",
        "data": [{"object": "embedding", "index": place, "embedding": row} for place, row in enumerate(rows)],
        "model": model,
        "usage": {"prompt_tokens": usage.input_tokens or 0, "total_tokens": usage.input_tokens or 0},
    }
    return Reply(body=msgspec.json.encode(body), usage=usage)


def _packed(values: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
