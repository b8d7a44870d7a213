"""Amazon Bedrock Converse: reading an answer, whole or as a stream, into a chat completion.

    text -> content      reasoningContent -> reasoning_content and thinking_blocks      toolUse -> tool_calls
    trace and the model's own fields -> extra_content.bedrock         any other block -> extra_content.bedrock.blocks

Usage is told in OpenAI's convention: `prompt_tokens` includes what was read from the cache and written to it.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from junctor.errors import UpstreamBroken, UpstreamError, UpstreamGarbage
from junctor.providers import chat_writing
from junctor.providers.base import Reply, Usage
from junctor.providers.conversation import JSON_TOOL
from junctor.providers.event_reading import UNREADABLE, EventReader, Redacted, status_error
from junctor.providers.event_stream import Frame, Frames
from junctor.providers.openai_wire import SAID_CHARS

STOPS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
SPOILT = ("malformed_model_output", "malformed_tool_use")
STATUSES = {
    "internalServerException": 500,
    "modelStreamErrorException": 502,
    "validationException": 400,
    "throttlingException": 429,
    "serviceUnavailableException": 503,
}
NOT_ONE = "answered 200 with something that is not a Converse answer"


class ToolUse(Struct, rename="camel"):
    """The model calls a tool."""

    tool_use_id: str = ""
    name: str = ""
    input: Any = None


class ReasoningText(Struct):
    """Reasoning, signed."""

    text: str = ""
    signature: str = ""


class Reasoning(Struct, rename="camel"):
    """Reasoning: its text, or what was redacted; in a stream the pieces of either."""

    reasoning_text: ReasoningText | None = None
    redacted_content: str = ""
    text: str = ""
    signature: str = ""


class Block(Struct, rename="camel"):
    """A content block, or the beginning or a piece of one."""

    text: str | None = None
    tool_use: ToolUse | None = None
    reasoning_content: Reasoning | None = None


class Message(Struct):
    """What was said."""

    content: list[Raw]


class Output(Struct):
    """Holds the message."""

    message: Message


class Converse(Struct, rename="camel"):
    """A whole answer."""

    output: Output
    stop_reason: str
    usage: Any = None
    trace: Any = None
    additional_model_response_fields: Any = None


class Event(Struct, rename="camel"):
    """What an event of a stream carries."""

    start: Block = field(default_factory=Block)
    delta: Raw = Raw(b"{}")
    stop_reason: str = ""
    usage: Any = None
    trace: Any = None
    additional_model_response_fields: Any = None
    message: str = ""


_converse = msgspec.json.Decoder(Converse)
_block = msgspec.json.Decoder(Block)
_event = msgspec.json.Decoder(Event)
_any = msgspec.json.Decoder()


def usage_of(said: Any) -> Usage:
    """Usage in our convention; a figure of the wrong type is not known."""
    fresh, made, read, written = (
        _count(said, name) for name in ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
    )
    return Usage(
        input_tokens=None if fresh is None else fresh + (read or 0) + (written or 0),
        output_tokens=made,
        cached_tokens=read,
        cache_write_tokens=written,
    )


def _count(holder: Any, name: str) -> int | None:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if type(value) is int and value >= 0 else None


def finish_reason(native: str, *, calls: bool, json_tool: bool) -> str:
    """OpenAI's word for it. An answer by the JSON tool alone is no tool call."""
    found = STOPS.get(native, "stop")
    return "stop" if found == "tool_calls" and json_tool and not calls else found


def _beside(found: Converse | Event) -> dict[str, Any]:
    out = {"trace": found.trace, "fields": found.additional_model_response_fields}
    return {name: value for name, value in out.items() if value}


def read_converse(raw: bytes, target: str, model: str, *, json_tool: bool = False) -> Reply:
    """A whole answer as a Reply; raises UpstreamGarbage for what is none."""
    try:
        found = _converse.decode(raw)
        if found.stop_reason in SPOILT:
            raise UpstreamGarbage(f"gave up with {found.stop_reason}", target=target)
        said = _Said(json_tool)
        for block in found.output.message.content:
            said.take(_block.decode(block), block)
        usage = usage_of(found.usage)
        reason = finish_reason(found.stop_reason, calls=bool(said.calls), json_tool=said.json_tool_used)
        native = {"native_finish_reason": found.stop_reason}
        message = said.message(_beside(found))
        body = chat_writing.whole_body(f"bedrock-{uuid.uuid4().hex}", model, message, usage, reason, native)
    except UNREADABLE as error:
        raise UpstreamGarbage(NOT_ONE, target=target) from error
    return Reply(body=body, usage=usage, finish_reason=reason)


class _Said:
    """The blocks of a message, put together."""

    def __init__(self, json_tool: bool) -> None:
        self.texts: list[str] = []
        self.thinking: list[dict[str, Any]] = []
        self.calls: list[dict[str, Any]] = []
        self.others: list[Any] = []
        self.json_tool_used = False
        self._json_tool = json_tool

    def take(self, block: Block, raw: Raw) -> None:
        if block.text is not None:
            self.texts.append(block.text)
        elif block.tool_use is not None:
            self._call(block.tool_use)
        elif block.reasoning_content is not None:
            self.thinking.append(thinking_block(block.reasoning_content))
        else:
            self.others.append(_any.decode(raw))

    def _call(self, used: ToolUse) -> None:
        arguments = chat_writing.arguments_text({} if used.input is None else used.input)
        if self._json_tool and used.name == JSON_TOOL:
            self.json_tool_used = True
            self.texts.append(arguments)
        else:
            self.calls.append(chat_writing.call_json(used.tool_use_id, used.name, arguments))

    def message(self, beside: dict[str, Any]) -> dict[str, Any]:
        content = "".join(self.texts)
        out: dict[str, Any] = {"role": "assistant", "content": content or (None if self.calls else ""), "refusal": None}
        if self.thinking:
            out["reasoning_content"] = "".join(block.get("thinking", "") for block in self.thinking)
            out["thinking_blocks"] = self.thinking
        if self.calls:
            out["tool_calls"] = self.calls
        if self.others:
            beside = {**beside, "blocks": self.others}
        if beside:
            out["extra_content"] = {"bedrock": beside}
        return out


def thinking_block(found: Reasoning) -> dict[str, Any]:
    """A block of reasoning as messages carry it."""
    if found.redacted_content:
        return {"type": "redacted_thinking", "data": found.redacted_content}
    text = found.reasoning_text or ReasoningText(found.text, found.signature)
    return {"type": "thinking", "thinking": text.text, "signature": text.signature}


class ConverseStream(EventReader):
    """Reads a stream; it is done when it ends after a stop reason."""

    what = "an event that is not one of Converse's"

    def __init__(self, target: str, model: str, *, with_usage: bool, json_tool: bool = False, redacted: Redacted = str) -> None:
        super().__init__(Frames().feed, target, with_usage=with_usage, redacted=redacted)
        self.begin(f"bedrock-{uuid.uuid4().hex}", model)
        self._json_tool = json_tool
        self._json_tool_used = False
        self._tool: ToolUse | None = None
        self._thought: Reasoning | None = None
        self._wrote = False
        self._calls = 0
        self._native = ""

    def read(self, event: Frame) -> bytes:
        """The chunks that one message of the stream makes."""
        found = _event.decode(event.payload) if event.payload else Event()
        if not event.is_event:
            raise self._failure(event.name, found.message or event.headers.get(":error-message", ""))
        match event.name:
            case "contentBlockDelta":
                return self._delta(found.delta)
            case "contentBlockStart":
                return self._block_begins(found.start)
            case "contentBlockStop":
                return self._block_ends()
            case "messageStop":
                return self._stops(found)
            case "metadata":
                self.usage = usage_of(found.usage)
                return self._extra(_beside(found))
        return b""

    def _block_begins(self, start: Block) -> bytes:
        self._tool, self._thought, self._wrote = start.tool_use, None, False
        if self._tool is None:
            return b""
        if self._json_tool and self._tool.name == JSON_TOOL:
            self._json_tool_used = True
            return self.say(b"")
        call = {"index": self._calls, **chat_writing.call_json(self._tool.tool_use_id, self._tool.name, "")}
        self._calls += 1
        return self.say(self.write.delta({"tool_calls": [call]}))

    def _delta(self, raw: Raw) -> bytes:
        delta = _block.decode(raw)
        if delta.text is not None:
            return self.say(self.write.text(delta.text)) if delta.text else b""
        if delta.tool_use is not None:
            return self._arguments(delta.tool_use.input)
        if delta.reasoning_content is not None:
            return self._thinks(delta.reasoning_content)
        return self._extra({"deltas": [_any.decode(raw)]})

    def _arguments(self, piece: Any) -> bytes:
        if self._tool is None or not isinstance(piece, str):
            raise UpstreamGarbage("sent a piece of no tool call", target=self.target)
        if not piece:
            return b""
        self._wrote = True
        if self._json_tool and self._tool.name == JSON_TOOL:
            return self.say(self.write.text(piece))
        return self.say(self.write.delta({"tool_calls": [{"index": self._calls - 1, "function": {"arguments": piece}}]}))

    def _thinks(self, piece: Reasoning) -> bytes:
        thought = self._thought = self._thought or Reasoning()
        thought.text += piece.text
        thought.signature += piece.signature
        thought.redacted_content += piece.redacted_content
        return self.say(self.write.delta({"reasoning_content": piece.text})) if piece.text else b""

    def _block_ends(self) -> bytes:
        tool, thought, self._tool, self._thought = self._tool, self._thought, None, None
        if thought is not None:
            return self.say(self.write.delta({"thinking_blocks": [thinking_block(thought)]}))
        if tool is not None and not self._wrote:
            self._tool = tool
            out = self._arguments("{}")
            self._tool = None
            return out
        return b""

    def _stops(self, found: Event) -> bytes:
        if found.stop_reason in SPOILT or not found.stop_reason:
            what = f"gave up with {found.stop_reason or 'no reason'}"
            raise UpstreamGarbage(what, target=self.target) if self.silent else UpstreamBroken(what, target=self.target)
        self._native = found.stop_reason
        self.finish_reason = finish_reason(found.stop_reason, calls=self._calls > 0, json_tool=self._json_tool_used)
        return self._extra(_beside(found))

    def _extra(self, beside: dict[str, Any]) -> bytes:
        return self.say(self.write.delta({"extra_content": {"bedrock": beside}})) if beside else b""

    def end(self) -> bytes:
        """The end of the answer; raises UpstreamBroken where no reason for it was given."""
        if not self._native:
            return super().end()
        self.done = True
        return self.say(self.write.finish(self.finish_reason, {"native_finish_reason": self._native})) + self.write.end(
            self.usage
        )

    def _failure(self, kind: str, said: str) -> UpstreamError:
        said = " ".join(self.redacted(said).split())[:SAID_CHARS]
        if self.silent:
            return status_error(STATUSES.get(kind, 500), kind, said, self.target)
        return UpstreamBroken(f"reported an error: {said or kind}", target=self.target)
