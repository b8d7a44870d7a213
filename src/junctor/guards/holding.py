"""A streamed reply held back until all of it is there, for a guard that can judge nothing less.

The client hears nothing until then; it gets the events as they came when the guard changed nothing, and new ones otherwise.
When the guard refuses, the stream ends with an error event and without `[DONE]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from junctor.errors import ReplyRefused
from junctor.guards.events import DONE, TEXTS, chunk_of, event_of
from junctor.types import Request

if TYPE_CHECKING:
    from junctor.guards.contracts import Guard, Noticed

MOST_BYTES = 64 * 1024 * 1024
_encode = msgspec.json.Encoder().encode


class HeldBack:
    """An EventFilter that gives nothing until `[DONE]`, then everything."""

    def __init__(self, guard: Guard, request: Request, noticed: Noticed) -> None:
        self._guard = guard
        self._request = request
        self._noticed = noticed
        self._kept: list[bytes] = []
        self._bytes = 0

    def push(self, events: bytes) -> bytes:
        """Keep events; gives them out with the last. Raises ReplyRefused, also when there are more than 64 MiB of them."""
        self._kept.append(events)
        self._bytes += len(events)
        if self._bytes > MOST_BYTES:
            raise ReplyRefused("the reply is too long to be held back", guard=self._guard.label, fix="ask for a whole answer")
        if not (events.startswith(DONE) or b"\n" + DONE in events):
            return b""
        return self.end()

    def end(self) -> bytes:
        """Judge what was kept; raises ReplyRefused."""
        if not self._kept:
            return b""
        whole, self._kept = b"".join(self._kept), []
        events = [event + b"\n\n" for event in whole.split(b"\n\n") if event]
        gathered = gather(events)
        if gathered is None:
            return whole
        body = _encode(gathered)
        after = self._guard.after(self._request, body, self._noticed)
        return whole if after == body else respoken(events, msgspec.json.decode(after))


def gather(events: list[bytes]) -> dict[str, Any] | None:
    """The chat.completion that a stream's chunks add up to; None when there is none in it."""
    chunks = [chunk for event in events if (chunk := chunk_of(event)) is not None]
    if not any(chunk["choices"] for chunk in chunks):
        return None
    choices: dict[int, dict[str, Any]] = {}
    out = {key: value for key, value in chunks[0].items() if key not in ("choices", "object", "usage")}
    for chunk in chunks:
        if chunk.get("usage"):
            out["usage"] = chunk["usage"]
        for choice in chunk["choices"]:
            if isinstance(choice, dict):
                _add(choices, choice)
    return {**out, "object": "chat.completion", "choices": [choices[index] for index in sorted(choices)]}


def _add(choices: dict[int, dict[str, Any]], choice: dict[str, Any]) -> None:
    index = choice.get("index", 0)
    known = choices.setdefault(
        index, {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}
    )
    if choice.get("finish_reason"):
        known["finish_reason"] = choice["finish_reason"]
    delta = choice.get("delta")
    message = known["message"]
    for key, value in (delta if isinstance(delta, dict) else {}).items():
        if key == "tool_calls" and isinstance(value, list):
            _add_calls(message, value)
        elif key == "function_call" and isinstance(value, dict):
            _join(message.setdefault(key, {}), value)
        elif key in TEXTS and isinstance(value, str):
            message[key] = (message.get(key) or "") + value
        elif value is not None:
            message[key] = value


def _add_calls(message: dict[str, Any], calls: list[Any]) -> None:
    known = message.setdefault("tool_calls", [])
    for place, call in enumerate(calls):
        if not isinstance(call, dict):
            continue
        number = call.get("index", place)
        entry = next((one for one in known if one["index"] == number), None)
        if entry is None:
            entry = {"index": number, "function": {}}
            known.append(entry)
        entry.update({key: value for key, value in call.items() if key != "function" and value is not None})
        if isinstance(call.get("function"), dict):
            _join(entry["function"], call["function"])


def _join(known: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        if key == "arguments" and isinstance(value, str):
            known[key] = known.get(key, "") + value
        elif value is not None:
            known[key] = value


def respoken(events: list[bytes], body: dict[str, Any]) -> bytes:
    """The events of a stream that says what `body` says: what carries no text stays (usage, comments, `[DONE]`)."""
    said = {choice.get("index", place): choice.get("message", {}) for place, choice in enumerate(body.get("choices", []))}
    out: list[bytes] = []
    for event in events:
        chunk = chunk_of(event)
        if chunk is None:
            out.append(event)
            continue
        kept = []
        for choice in chunk["choices"]:
            message = said.pop(choice.get("index", 0), None) if isinstance(choice, dict) else None
            if message is not None:
                kept.append({**choice, "delta": _delta(message), "finish_reason": None})
            if isinstance(choice, dict) and choice.get("finish_reason"):
                kept.append({**choice, "delta": {}})
        if kept or not chunk["choices"]:
            out.extend(event_of({**chunk, "choices": [one]}) for one in kept)
            if not chunk["choices"]:
                out.append(event)
    return b"".join(out)


def _delta(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if value is not None}


class Checked:
    """An EventFilter that passes a stream on as it comes and judges it at its end, too late to mend anything.

    The last piece waits for the judgement: a stream that is refused ends with an error event and without `[DONE]`.
    """

    def __init__(self, guard: Guard, request: Request, noticed: Noticed) -> None:
        self._guard = guard
        self._request = request
        self._noticed = noticed
        self._kept: list[bytes] = []
        self._bytes = 0

    def push(self, events: bytes) -> bytes:
        """The same events. Raises ReplyRefused, also when there are more than 64 MiB of them."""
        self._kept.append(events)
        self._bytes += len(events)
        if self._bytes > MOST_BYTES:
            raise ReplyRefused("the reply is too long to be checked", guard=self._guard.label, fix="ask for a whole answer")
        if events.startswith(DONE) or b"\n" + DONE in events:
            self._judge()
        return events

    def end(self) -> bytes:
        """Nothing is held back."""
        return b""

    def _judge(self) -> None:
        gathered = gather([event + b"\n\n" for event in b"".join(self._kept).split(b"\n\n") if event])
        if gathered is None:
            return
        body = _encode(gathered)
        if self._guard.after(self._request, body, self._noticed) != body:
            raise ReplyRefused(
                "the reply needs mending, and a stream that is passed on cannot be mended",
                guard=self._guard.label,
                fix='hold streams back (streams = "hold"), or ask for a whole answer',
            )
