"""Writing chat completions and their chunks, for providers that read an answer in the words of another API."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from junctor.providers import answers
from junctor.providers.base import Usage

DONE = answers.DONE
_encode = msgspec.json.Encoder().encode


def usage_json(usage: Usage) -> dict[str, Any]:
    """Usage as the chat API writes it, with tokens written to the upstream's cache beside those read from it."""
    out = answers.usage_json(usage)
    if usage.cache_write_tokens is not None:
        out.setdefault("prompt_tokens_details", {})["cache_write_tokens"] = usage.cache_write_tokens
    return out


def whole_body(
    id_: str,
    model: str,
    message: dict[str, Any],
    usage: Usage,
    finish_reason: str,
    more: Mapping[str, Any] | None = None,
) -> bytes:
    """A chat.completion object with one choice; `more` goes into the choice."""
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason, **(more or {})}
    return _encode(
        {
            "id": id_,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            "usage": usage_json(usage),
        }
    )


def call_json(id_: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call; `arguments` is JSON text."""
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def arguments_text(given: Any) -> str:
    """A tool call's arguments as JSON text."""
    return _encode(given).decode()


class Chunks:
    """Writes the chunks of one stream: the first one says who speaks, `usage` is null in all but the last when asked for."""

    __slots__ = ("_base", "_before", "_tail", "_usage")

    def __init__(self, id_: str, model: str, *, with_usage: bool) -> None:
        base = {"id": id_, "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
        self._base = b"data: " + _encode(base)[:-1] + b',"choices":['
        self._before = b'{"index":0,"delta":'
        self._usage = with_usage
        self._tail = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"

    def delta(self, delta: Mapping[str, Any]) -> bytes:
        """A piece of the message."""
        return b'%b%b%b,"logprobs":null,"finish_reason":null}%b' % (self._base, self._before, _encode(delta), self._tail)

    def start(self) -> bytes:
        """Who speaks."""
        return self.delta({"role": "assistant", "content": ""})

    def text(self, text: str) -> bytes:
        """A piece of what is said."""
        return self.delta({"content": text})

    def finish(self, reason: str, more: Mapping[str, Any] | None = None) -> bytes:
        """The end of the message."""
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason, **(more or {})}
        return self._base + _encode(choice) + self._tail

    def end(self, usage: Usage) -> bytes:
        """What comes after the message: the usage where it was asked for, and `[DONE]`."""
        said = b'%b],"usage":%b}\n\n' % (self._base, _encode(usage_json(usage))) if self._usage else b""
        return said + DONE
