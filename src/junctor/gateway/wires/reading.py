"""Reads our own form, for the wires that write another: one answer's message, or the chunks of its stream, step by step.

A stream becomes a list of `Step`s in the order in which other APIs want them: tool calls come one after the other, each whole
before the next begins, whatever order their pieces arrived in.

Reasoning, in messages, replies and deltas alike: `reasoning_content` is its text, `thinking_blocks` a list of
`{"type": "thinking", "thinking", "signature"}` and `{"type": "redacted_thinking", "data"}`. In deltas a block's text may
come in pieces, its signature last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from junctor.errors import UpstreamBroken, UpstreamGarbage

Kind = Literal["text", "refusal", "thinking", "signature", "redacted", "tool", "arguments"]
NOT_ONE = "gave an answer that is not a chat completion"


class Counted(NamedTuple):
    """Tokens of one call. `cached` and `written` are parts of `input`, `reasoning` of `output`."""

    input: int = 0
    output: int = 0
    cached: int = 0
    written: int = 0
    reasoning: int = 0


class Step(NamedTuple):
    """What a stream says next: a piece of text, reasoning or arguments, a signature, or the start of a tool call."""

    kind: Kind
    text: str = ""
    name: str = ""
    logprobs: Any = None


class Said(NamedTuple):
    """A whole answer: the first choice's message as it is, why it ended, and what it took."""

    message: Mapping[str, Any]
    finish_reason: str
    stopped_at: str
    usage: Counted
    model: str
    logprobs: Any = None


class Delta(Struct):
    """What a chunk adds; of any type, because an upstream's oddity in one field is no reason to lose the others."""

    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    thinking_blocks: Any = None
    tool_calls: Any = None


class Choice(Struct):
    """One choice of a chunk. `stop_sequence`, or `stop_reason` of vLLM: the stop sequence, where it is told."""

    delta: Delta | None = None
    index: Any = 0
    finish_reason: Any = None
    stop_sequence: Any = None
    stop_reason: Any = None
    logprobs: Any = None


class Chunk(Struct):
    """A chat.completion.chunk."""

    choices: list[Choice] | None = None
    usage: Any = None
    model: Any = None


_decode_chunk = msgspec.json.Decoder(Chunk).decode
_decode = msgspec.json.Decoder().decode
NOTHING = Delta()


def counted(usage: Any) -> Counted:
    """Usage as the chat API writes it; what is missing or odd counts as zero."""
    if not isinstance(usage, Mapping):
        return Counted()
    sent, made = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return Counted(
        _count(usage, "prompt_tokens"),
        _count(usage, "completion_tokens"),
        _count(sent, "cached_tokens"),
        _count(sent, "cache_write_tokens"),
        _count(made, "reasoning_tokens"),
    )


def _count(holder: Any, name: str) -> int:
    value = holder.get(name) if isinstance(holder, Mapping) else None
    return value if type(value) is int and value >= 0 else 0


def text_of(value: Any) -> str:
    """The text itself, or the text parts of a list joined; "" for anything else."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        return ""
    return "".join(t for part in value if isinstance(part, Mapping) and isinstance(t := part.get("text"), str))


def read_whole(body: bytes) -> Said:
    """A chat.completion body; raises UpstreamGarbage when it holds no message."""
    try:
        found = _decode(body)
        choice = found["choices"][0]
        message = choice["message"]
        if not isinstance(message, dict):
            raise TypeError
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError) as error:
        raise UpstreamGarbage(NOT_ONE) from error
    return Said(
        message,
        _word(choice.get("finish_reason")) or "stop",
        _word(choice.get("stop_sequence")) or _word(choice.get("stop_reason")),
        counted(found.get("usage")),
        _word(found.get("model")),
        choice.get("logprobs"),
    )


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def thinking_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A message's reasoning as blocks; text alone becomes one block without a signature."""
    blocks = message.get("thinking_blocks")
    if isinstance(blocks, list) and blocks:
        return [block for block in blocks if isinstance(block, dict)]
    text = _word(message.get("reasoning_content")) or _word(message.get("reasoning"))
    return [{"type": "thinking", "thinking": text, "signature": ""}] if text else []


class ToolCall(NamedTuple):
    """One tool call: its arguments are JSON text."""

    id: str
    name: str
    arguments: str


def calls_of(message: Mapping[str, Any]) -> Iterator[ToolCall]:
    """The tool calls of a whole message that are calls of functions."""
    found = message.get("tool_calls")
    for place, call in enumerate(found if isinstance(found, list) else ()):
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            id_ = _word(call.get("id")) or f"call_{place}"
            yield ToolCall(id_, _word(function.get("name")), _word(function.get("arguments")) or "{}")


class _Growing:
    """A tool call whose pieces arrive: `held` is what could not be told yet."""

    __slots__ = ("arguments", "held", "id", "name")

    def __init__(self, id_: str, name: str) -> None:
        self.id = id_
        self.name = name
        self.arguments: list[str] = []
        self.held: list[str] = []

    def complete(self) -> bool:
        """Whether the arguments so far are a whole JSON value."""
        try:
            _decode("".join(self.arguments))
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


class _Calls:
    """Puts the pieces of several tool calls in order. Pieces of a later call wait until the one that is told is complete."""

    def __init__(self) -> None:
        self._calls: list[_Growing] = []
        self._places: dict[Any, int] = {}
        self._told = -1

    def push(self, found: Any) -> Iterator[Step]:
        """One entry of `delta.tool_calls`."""
        if not isinstance(found, Mapping):
            return
        function = found.get("function")
        function = function if isinstance(function, Mapping) else {}
        place = self._place(found.get("index"), _word(found.get("id")), _word(function.get("name")))
        piece = function.get("arguments")
        if isinstance(piece, str) and piece:
            self._calls[place].arguments.append(piece)
            self._calls[place].held.append(piece)
        if place < self._told and self._calls[place].held:
            raise UpstreamBroken("went on with a tool call that was complete")
        yield from self._tell(last=False)

    def end(self) -> Iterator[Step]:
        """Whatever still waits."""
        yield from self._tell(last=True)

    def _place(self, index: Any, id_: str, name: str) -> int:
        """Which call a piece belongs to. Some upstreams leave the index out, or give each call the same."""
        if index is None and not id_ and self._calls:
            return len(self._calls) - 1
        known = self._places.get(index) if index is not None else None
        if known is None or (id_ and self._calls[known].id != id_):
            known = len(self._calls)
            self._calls.append(_Growing(id_ or f"call_{known}", name))
            if index is not None:
                self._places[index] = known
        return known

    def _tell(self, *, last: bool) -> Iterator[Step]:
        while True:
            if self._told >= 0:
                call = self._calls[self._told]
                if call.held:
                    yield Step("arguments", "".join(call.held))
                    call.held.clear()
                if not (last or (self._told + 1 < len(self._calls) and call.complete())):
                    return
            if self._told + 1 >= len(self._calls):
                return
            self._told += 1
            call = self._calls[self._told]
            yield Step("tool", call.id, call.name)


class StreamReader:
    """Reads one stream. `usage`, `finish_reason` and `stopped_at` are complete when `done`."""

    def __init__(self) -> None:
        self.usage = Counted()
        self.finish_reason = ""
        self.stopped_at = ""
        self.model = ""
        self.done = False
        self._calls = _Calls()
        self._plain: list[str] = []

    def push(self, events: bytes) -> list[Step]:
        """Whole events in, steps out; raises UpstreamBroken for what is no chunk."""
        steps: list[Step] = []
        for event in events.split(b"\n\n"):
            if event.startswith(b"data:"):
                self._event(event[5:], steps)
            elif b"\ndata:" in event:
                self._event(event.partition(b"\ndata:")[2], steps)
        return steps

    def _event(self, data: bytes, steps: list[Step]) -> None:
        if data.strip() == b"[DONE]":
            steps.extend(self._calls.end())
            self.done = True
            return
        try:
            chunk = _decode_chunk(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamBroken("sent an event that is not a chunk") from error
        if chunk.usage is not None:
            self.usage = counted(chunk.usage)
        if not self.model and isinstance(chunk.model, str):
            self.model = chunk.model
        for choice in chunk.choices or ():
            if choice.index in (0, None):
                self._choice(choice, steps)

    def _choice(self, choice: Choice, steps: list[Step]) -> None:
        delta = choice.delta or NOTHING
        self._reasoning(delta, steps)
        if delta.content:
            text = text_of(delta.content)
            if text:
                steps.append(Step("text", text, logprobs=choice.logprobs))
        if delta.refusal and isinstance(delta.refusal, str):
            steps.append(Step("refusal", delta.refusal))
        if isinstance(delta.tool_calls, list):
            for call in delta.tool_calls:
                steps.extend(self._calls.push(call))
        if choice.finish_reason and isinstance(choice.finish_reason, str):
            self.finish_reason = choice.finish_reason
            self.stopped_at = _word(choice.stop_sequence) or _word(choice.stop_reason)

    def _reasoning(self, delta: Delta, steps: list[Step]) -> None:
        blocks = delta.thinking_blocks if isinstance(delta.thinking_blocks, list) else []
        plain = _word(delta.reasoning_content) or _word(delta.reasoning)
        if plain and not any(isinstance(block, Mapping) and block.get("thinking") for block in blocks):
            self._plain.append(plain)
            steps.append(Step("thinking", plain))
        for block in blocks:
            if isinstance(block, Mapping):
                self._block(block, steps)

    def _block(self, block: Mapping[str, Any], steps: list[Step]) -> None:
        if block.get("type") == "redacted_thinking":
            steps.append(Step("redacted", _word(block.get("data"))))
            return
        text, signature = _word(block.get("thinking")), _word(block.get("signature"))
        # Some say a block's text in pieces of `reasoning_content`, and then the block as a whole.
        told = bool(text) and text == "".join(self._plain)
        if text and not told:
            steps.append(Step("thinking", text))
        if signature or told:
            steps.append(Step("signature", signature))
            self._plain.clear()
