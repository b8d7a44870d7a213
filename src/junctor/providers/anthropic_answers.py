"""Anthropic Messages: reading an answer, whole or as a stream, into a chat completion.

    text -> content              thinking -> reasoning_content, and whole with its signature into thinking_blocks
    tool_use -> tool_calls       any other block -> extra_content.anthropic.blocks, as it came

In a stream a thinking block comes twice as well: its words as they arrive in `reasoning_content`, the block with its signature
in one piece of `thinking_blocks` when it is complete. Usage is told in OpenAI's convention: `prompt_tokens` includes what was
read from the cache and written to it. `native_finish_reason` keeps the API's own word for why it stopped,
`stop_reason` the stop sequence that it met.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from junctor.errors import UpstreamBroken, UpstreamError, UpstreamGarbage
from junctor.providers import chat_writing
from junctor.providers.base import Reply, Usage
from junctor.providers.conversation import JSON_TOOL
from junctor.providers.event_lines import EventLines
from junctor.providers.event_reading import UNREADABLE, EventReader, Redacted, status_error
from junctor.providers.openai_wire import SAID_CHARS, message_of

STOPS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
NOTHING = Raw(b"null")
NOT_ONE = "answered 200 with something that is not an Anthropic message"


class Block(Struct):
    """A content block; only what we read of it."""

    type: str
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    input: Any = None
    citations: Any = None


class Message(Struct):
    """A whole answer, or the beginning of a streamed one."""

    id: str
    type: str
    model: str
    content: list[Raw]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Any = None
    usage: Any = None


class Delta(Struct):
    """What a stream event adds."""

    type: str = ""
    text: str = ""
    partial_json: str = ""
    thinking: str = ""
    signature: str = ""
    citation: Any = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Any = None


class Event(Struct):
    """A stream event."""

    type: str
    index: int = 0
    message: Message | None = None
    content_block: Raw = NOTHING
    delta: Delta | None = None
    usage: Any = None
    error: Any = None


_message = msgspec.json.Decoder(Message)
_block = msgspec.json.Decoder(Block)
_event = msgspec.json.Decoder(Event)
_any = msgspec.json.Decoder()


def usage_of(said: Any) -> Usage:
    """Usage in our convention; a figure of the wrong type is not known."""
    fresh, read, written = (
        _count(said, name) for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    details = said.get("output_tokens_details") if isinstance(said, dict) else None
    return Usage(
        input_tokens=None if fresh is None else fresh + (read or 0) + (written or 0),
        output_tokens=_count(said, "output_tokens"),
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=_count(details, "thinking_tokens"),
    )


def _count(holder: Any, name: str) -> int | None:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if type(value) is int and value >= 0 else None


def finish_reason(stop_reason: str | None, *, calls: bool, json_tool: bool) -> str:
    """OpenAI's word for it. An answer by the JSON tool alone is no tool call."""
    found = STOPS.get(stop_reason or "end_turn", "stop")
    return "stop" if found == "tool_calls" and json_tool and not calls else found


def _ending(stop_reason: str | None, stop_sequence: str | None) -> dict[str, Any]:
    out: dict[str, Any] = {"native_finish_reason": stop_reason or "end_turn"}
    if stop_sequence is not None:
        out["stop_reason"] = stop_sequence
    return out


def _refusal(details: Any) -> str | None:
    said = details.get("explanation") if isinstance(details, dict) else None
    return said if isinstance(said, str) else None


def read_message(raw: bytes, target: str, *, json_tool: bool = False) -> Reply:
    """A whole answer as a Reply; raises UpstreamGarbage for what is none."""
    try:
        message = _message.decode(raw)
        if message.type != "message" or not message.id or not message.model:
            raise UpstreamGarbage(NOT_ONE, target=target)
        said = _Said(json_tool)
        for block in message.content:
            said.take(_block.decode(block), block)
        out = said.message(_refusal(message.stop_details))
        usage = usage_of(message.usage)
        reason = finish_reason(message.stop_reason, calls=bool(said.calls), json_tool=said.json_tool_used)
        ending = _ending(message.stop_reason, message.stop_sequence)
        body = chat_writing.whole_body(message.id, message.model, out, usage, reason, ending)
    except UNREADABLE as error:
        raise UpstreamGarbage(NOT_ONE, target=target) from error
    return Reply(body=body, usage=usage, finish_reason=reason)


class _Said:
    """The blocks of a message, put together."""

    def __init__(self, json_tool: bool) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.thinking: list[dict[str, Any]] = []
        self.calls: list[dict[str, Any]] = []
        self.others: list[Any] = []
        self.json_tool_used = False
        self._json_tool = json_tool

    def take(self, block: Block, raw: Raw) -> None:
        if block.type == "text":
            self.texts.append(block.text)
            if block.citations:
                self.others.append(_any.decode(raw))
        elif block.type == "tool_use":
            self._call(block)
        elif block.type == "thinking":
            self.thoughts.append(block.thinking)
            self.thinking.append({"type": "thinking", "thinking": block.thinking, "signature": block.signature})
        elif block.type == "redacted_thinking":
            self.thinking.append({"type": "redacted_thinking", "data": block.data})
        else:
            self.others.append(_any.decode(raw))

    def _call(self, block: Block) -> None:
        arguments = chat_writing.arguments_text({} if block.input is None else block.input)
        if self._json_tool and block.name == JSON_TOOL:
            self.json_tool_used = True
            self.texts.append(arguments)
        else:
            self.calls.append(chat_writing.call_json(block.id, block.name, arguments))

    def message(self, refusal: str | None) -> dict[str, Any]:
        content = "".join(self.texts)
        out: dict[str, Any] = {"role": "assistant", "content": content or (None if self.calls else ""), "refusal": refusal}
        if self.thinking:
            out |= {"reasoning_content": "".join(self.thoughts), "thinking_blocks": self.thinking}
        if self.calls:
            out["tool_calls"] = self.calls
        if self.others:
            out["extra_content"] = {"anthropic": {"blocks": self.others}}
        return out


class MessageStream(EventReader):
    """Reads a stream; done after `message_stop`."""

    what = "an event that is not one of Anthropic's"

    def __init__(self, target: str, *, with_usage: bool, json_tool: bool = False, redacted: Redacted = str) -> None:
        super().__init__(EventLines().feed, target, with_usage=with_usage, redacted=redacted)
        self._json_tool = json_tool
        self._open: Block | None = None
        self._wrote = False
        self._calls = 0
        self._json_tool_used = False
        self._said_usage: dict[str, Any] = {}
        self._ending: Delta | None = None

    def read(self, event: bytes) -> bytes:
        """The chunks that one event makes."""
        return self._take(_event.decode(event))

    def _take(self, event: Event) -> bytes:
        if event.type == "content_block_delta":
            return self._delta(event.delta or Delta())
        if event.type == "ping":
            return b""
        if event.type == "error":
            raise self._failure(event.error)
        if event.type == "message_start":
            return self._begin(event.message)
        if event.type == "content_block_start":
            return self._block_begins(event.content_block)
        if event.type == "content_block_stop":
            return self._block_ends()
        if event.type == "message_delta":
            return self._message_changes(event)
        return self._end() if event.type == "message_stop" else b""

    def _begin(self, message: Message | None) -> bytes:
        if message is None or not message.id or not message.model:
            raise UpstreamGarbage("began its stream without a message", target=self.target)
        self.begin(message.id, message.model)
        self._note_usage(message.usage)
        return b""

    def _block_begins(self, raw: Raw) -> bytes:
        block = self._open = _block.decode(raw)
        self._wrote = False
        write = self.write
        if block.type == "text":
            return self.say(write.text(block.text) if block.text else b"")
        if block.type == "tool_use":
            return self._call_begins(block)
        if block.type in ("thinking", "redacted_thinking"):
            return self.say(write.delta({"reasoning_content": block.thinking}) if block.thinking else b"")
        return self.say(write.delta({"extra_content": {"anthropic": {"blocks": [_any.decode(raw)]}}}))

    def _call_begins(self, block: Block) -> bytes:
        if self._json_tool and block.name == JSON_TOOL:
            self._json_tool_used = True
            return self.say(b"")
        call = {"index": self._calls, **chat_writing.call_json(block.id, block.name, "")}
        self._calls += 1
        return self.say(self.write.delta({"tool_calls": [call]}))

    def _delta(self, delta: Delta) -> bytes:
        block, write = self._open, self.write
        if block is None:
            raise UpstreamGarbage("sent a piece of no block", target=self.target)
        if delta.type == "text_delta":
            return self.say(write.text(delta.text)) if delta.text else b""
        if delta.type == "input_json_delta":
            return self._arguments(block, delta.partial_json) if delta.partial_json else b""
        if delta.type == "thinking_delta":
            block.thinking += delta.thinking
            return self.say(write.delta({"reasoning_content": delta.thinking})) if delta.thinking else b""
        if delta.type == "signature_delta":
            block.signature += delta.signature
            return b""
        if delta.citation is not None:
            return self.say(write.delta({"extra_content": {"anthropic": {"citations": [delta.citation]}}}))
        return b""

    def _arguments(self, block: Block, piece: str) -> bytes:
        self._wrote = True
        if self._json_tool and block.name == JSON_TOOL:
            return self.say(self.write.text(piece))
        if block.type != "tool_use":
            return self.say(self.write.delta({"extra_content": {"anthropic": {"partial_json": piece}}}))
        call = {"index": self._calls - 1, "function": {"arguments": piece}}
        return self.say(self.write.delta({"tool_calls": [call]}))

    def _block_ends(self) -> bytes:
        block, self._open = self._open, None
        if block is None:
            return b""
        if block.type == "tool_use" and not self._wrote:
            return self._arguments(block, chat_writing.arguments_text(block.input or {}))
        if block.type == "thinking":
            whole = {"type": "thinking", "thinking": block.thinking, "signature": block.signature}
            return self.say(self.write.delta({"thinking_blocks": [whole]}))
        if block.type == "redacted_thinking":
            whole = {"type": "redacted_thinking", "data": block.data}
            return self.say(self.write.delta({"thinking_blocks": [whole]}))
        return b""

    def _message_changes(self, event: Event) -> bytes:
        self._note_usage(event.usage)
        if event.delta is not None and event.delta.stop_reason is not None:
            self._ending = event.delta
        return b""

    def _note_usage(self, said: Any) -> None:
        if isinstance(said, dict):
            self._said_usage |= {name: value for name, value in said.items() if value is not None}
            self.usage = usage_of(self._said_usage)

    def _end(self) -> bytes:
        write, ending = self.write, self._ending
        if ending is None:
            raise UpstreamBroken("ended its stream without saying why", target=self.target)
        self.done = True
        self.finish_reason = finish_reason(ending.stop_reason, calls=self._calls > 0, json_tool=self._json_tool_used)
        refusal = _refusal(ending.stop_details)
        said = write.delta({"refusal": refusal}) if refusal else b""
        last = write.finish(self.finish_reason, _ending(ending.stop_reason, ending.stop_sequence))
        return self.say(said + last) + write.end(self.usage)

    def _failure(self, error: Any) -> UpstreamError:
        said = self.redacted(message_of(error or {}))[:SAID_CHARS]
        kind = error.get("type") if isinstance(error, dict) else None
        if self.silent:
            # Nothing has been said yet: it is what an error status would have been.
            return status_error(STATUSES.get(str(kind), 500), str(kind or "api_error"), said, self.target)
        return UpstreamBroken(f"reported an error: {said}", target=self.target)
