"""Building answers in the shapes of the OpenAI chat API: whole bodies, stream events, error bodies.

For providers that make their answers themselves. Those that pass an upstream's bytes on need none of this.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from junctor.providers.base import Reply, StreamReply, Usage
from junctor.types import Request

DONE = b"data: [DONE]\n\n"
LONG_WORD = 6

_encode = msgspec.json.Encoder().encode
_PIECE = re.compile(rf"\w{{1,{LONG_WORD}}}|[^\w\s]")
_CHUNK = re.compile(r"\s*\S+\s*$|\s*\S+")


def count_tokens(text: str) -> int:
    """Our token count: every punctuation mark is one; a word is one per six characters begun. White space is free."""
    return len(_PIECE.findall(text))


def content_text(content: Any) -> str:
    """The text of a message's content: the string itself, or its text parts joined; other parts have none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    parts = [part.get("text") for part in content if isinstance(part, Mapping)]
    return "\n".join(part for part in parts if isinstance(part, str))


def prompt_text(request: Request) -> str:
    """What is asked: the request's text, or the last user turn where the text was not filled in."""
    if request.text:
        return request.text
    turns = [message for message in request.messages if message.role == "user"]
    return content_text(turns[-1].content) if turns else ""


def prompt_length(request: Request) -> int:
    """Characters of everything that is sent; a quick upper bound on its tokens."""
    return sum(len(content_text(m.content)) for m in request.messages) or len(request.text)


def prompt_tokens(request: Request) -> int:
    """Tokens of everything that is sent."""
    if not request.messages:
        return count_tokens(request.text)
    return sum(count_tokens(content_text(message.content)) for message in request.messages)


def output_limit(request: Request) -> int | None:
    """The caller's limit on output tokens, or None."""
    for name in ("max_completion_tokens", "max_tokens"):
        limit = request.params.get(name)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


def cut(text: str, limit: int | None) -> tuple[str, str]:
    """The text within a token limit and the finish reason: "stop", or "length" where something was cut off."""
    if limit is None or count_tokens(text) <= limit:
        return text, "stop"
    kept = ""
    for word in words(text):
        if count_tokens(kept + word) > limit:
            break
        kept += word
    return kept, "length"


def encodable(text: str) -> str:
    """The text with lone surrogates, which have no bytes in UTF-8, written as question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def words(text: str) -> list[str]:
    """The text in word-wise pieces that join to it exactly."""
    return _CHUNK.findall(text) or ([text] if text else [])


def new_id(request: Request) -> str:
    """An answer's id: made from the request's own where it has one."""
    return f"chatcmpl-{request.id or uuid.uuid4().hex}"


def usage_json(usage: Usage) -> dict[str, Any]:
    """Usage as the chat API writes it; what is not known counts as zero, because the API has no word for it."""
    sent, made = usage.input_tokens or 0, usage.output_tokens or 0
    out: dict[str, Any] = {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made}
    if usage.cached_tokens is not None:
        out["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.cache_write_tokens is not None:
        out.setdefault("prompt_tokens_details", {})["cache_write_tokens"] = usage.cache_write_tokens
    if usage.reasoning_tokens is not None:
        out["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return out


def completion_body(id_: str, model: str, content: str, usage: Usage, finish_reason: str = "stop") -> bytes:
    """A chat.completion object with one choice."""
    message = {"role": "assistant", "content": encodable(content), "refusal": None}
    return _encode(
        {
            "id": id_,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
            "usage": usage_json(usage),
        }
    )


def error_body(message: str, code: str, kind: str = "invalid_request_error") -> bytes:
    """An error object, as the chat API answers a refused request."""
    return _encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


def wants_usage(request: Request) -> bool:
    """Whether the caller asked for a last chunk with the usage."""
    options = request.params.get("stream_options")
    return isinstance(options, Mapping) and bool(options.get("include_usage"))


class Chunks:
    """Writes the events of one stream: the same id, model and time in each, `usage` null in all but the last when asked for."""

    __slots__ = ("_base", "_with_usage")

    def __init__(self, id_: str, model: str, *, with_usage: bool = False) -> None:
        self._base = {"id": id_, "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
        self._with_usage = with_usage

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        extra = {"usage": usage} if self._with_usage else {}
        return b"data: " + _encode({**self._base, "choices": choices, **extra}) + b"\n\n"

    def _choice(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        return self._event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])

    def role(self) -> bytes:
        """The first event: who speaks."""
        return self._choice({"role": "assistant", "content": ""})

    def content(self, text: str) -> bytes:
        """A piece of the answer."""
        return self._choice({"content": encodable(text)})

    def finish(self, reason: str = "stop") -> bytes:
        """The end of the answer."""
        return self._choice({}, reason)

    def usage(self, usage: Usage) -> bytes:
        """What it took; has no choices."""
        return self._event([], usage_json(usage))

    def whole(self, pieces: Sequence[str], usage: Usage, reason: str = "stop") -> Iterator[bytes]:
        """All events of an answer that is already there, `[DONE]` included."""
        yield self.role()
        for piece in pieces:
            yield self.content(piece)
        yield self.finish(reason)
        if self._with_usage:
            yield self.usage(usage)
        yield DONE


class ReadyStream(StreamReply):
    """A stream of an answer that is already complete."""

    def __init__(self, request: Request, model: str, content: str, reply: Reply) -> None:
        self.usage = reply.usage
        self.finish_reason = reply.finish_reason
        self.cost_usd = reply.cost_usd
        chunks = Chunks(new_id(request), model, with_usage=wants_usage(request))
        self._events = chunks.whole(words(content), reply.usage, reply.finish_reason)
        self._open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The events, once."""
        for event in self._events:
            if not self._open:
                return
            yield event

    async def aclose(self) -> None:
        """Stop early."""
        self._open = False
