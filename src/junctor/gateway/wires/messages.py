"""The Anthropic Messages API: `POST /v1/messages`, and `/v1/messages/count_tokens` with an estimate of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from junctor.errors import JunctorError, NoTarget
from junctor.gateway import replies, wire
from junctor.gateway.http import Exchange
from junctor.gateway.pages import Page
from junctor.gateway.wires.base import Asked, EventWriter, Headers, Wire
from junctor.gateway.wires.messages_call import chat_params
from junctor.gateway.wires.messages_stream import MessagesWriter, stop_reason, usage_object
from junctor.gateway.wires.reading import Said, calls_of, read_whole, text_of, thinking_of
from junctor.providers.answers import count_tokens
from junctor.service import Service
from junctor.tenancy.contracts import Principal

TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
TOKENS_PER_MESSAGE = 4
TOKENS_PER_IMAGE = 1600

_encode = msgspec.json.Encoder().encode


class MessagesWire(Wire):
    """`POST /v1/messages`."""

    path: ClassVar[str] = "/v1/messages"

    def parse(self, body: bytes, id_: str, headers: Headers, principal: Principal) -> Asked:
        """See `messages_call`."""
        del principal
        params = chat_params(wire.parse_json(body))
        call = wire.check_chat(params, id_, headers, "messages")
        if call.stream:
            params["stream_options"] = {"include_usage": True}
        return Asked(*call)

    def whole(self, asked: Asked, body: bytes) -> bytes:
        """A `message` object; raises UpstreamGarbage."""
        said = read_whole(body)
        reason, sequence = stop_reason(
            said.finish_reason, said.stopped_at, _stops(asked), refused=bool(said.message.get("refusal"))
        )
        return _encode(
            {
                "id": _id(asked),
                "type": "message",
                "role": "assistant",
                "model": said.model or asked.model,
                "content": blocks_of(said),
                "stop_reason": reason,
                "stop_sequence": sequence,
                "usage": usage_object(said.usage),
            }
        )

    def writer(self, asked: Asked) -> EventWriter:
        """Typed events."""
        return MessagesWriter(_id(asked), asked.model, _stops(asked), error_object)

    def error(self, error: JunctorError) -> bytes:
        """`{"type": "error", "error": {"type", "message"}}`."""
        return _encode({"type": "error", "error": error_object(error)})

    def error_event(self, error: JunctorError) -> bytes:
        """The same as an event."""
        return b"event: error\ndata: " + self.error(error) + b"\n\n"

    def pages(self, serving: Callable[[], Service]) -> Mapping[tuple[str, str], Page]:
        """Counting tokens calls nobody."""

        async def count(exchange: Exchange, principal: Principal) -> None:
            found = wire.parse_json(exchange.body)
            params = chat_params({"max_tokens": 1, **found})
            call = wire.check_chat(params, "", exchange.headers)
            principal.permit(call.model)
            names = serving().engine.names
            if call.model not in names.aliases and call.model not in names.direct:
                raise names.unknown(call.model)
            body = {"input_tokens": estimated_tokens(params), "estimated": True}
            exchange.reply(200, (replies.JSON_TYPE,), _encode(body))

        return {("POST", f"{self.path}/count_tokens"): Page(count)}


def _id(asked: Asked) -> str:
    return "msg_" + asked.request.id.removeprefix("dec-")


def _stops(asked: Asked) -> list[str]:
    stops = asked.request.params.get("stop")
    return stops if isinstance(stops, list) else []


def blocks_of(said: Said) -> list[dict[str, Any]]:
    """The content of an answer: reasoning, text, refusal, tool calls."""
    message = said.message
    blocks = [
        block if block.get("signature") or "data" in block else {**block, "signature": ""} for block in thinking_of(message)
    ]
    texts = (text_of(message.get("content")), text_of(message.get("refusal")))
    blocks += [{"type": "text", "text": text} for text in texts if text]
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call.arguments)}
        for call in calls_of(message)
    ]
    return blocks


def _arguments(text: str) -> Any:
    """Arguments are an object here. A model that wrote none gets its words passed on, so that they are not lost."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {"_raw": text}
    return found if isinstance(found, dict) else {"_raw": text}


def error_object(error: JunctorError) -> dict[str, Any]:
    """The type by status, one line of message; our code and the reasons of every target as extra fields."""
    status = error.http_status
    kind = TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
    found: dict[str, Any] = {"type": kind, "message": str(error), "code": error.code}
    if isinstance(error, NoTarget):
        found["refusals"] = error.refusals
    return found


def estimated_tokens(params: Mapping[str, Any]) -> int:
    """What a prompt will take, about: words count one token per six characters begun, images a flat 1,600."""
    total = 0
    for message in params["messages"]:
        total += TOKENS_PER_MESSAGE + _content_tokens(message.get("content"))
        total += count_tokens(message.get("reasoning_content") or "")
        total += sum(count_tokens(call.name) + count_tokens(call.arguments) for call in calls_of(message))
    tools = params.get("tools")
    return total + (count_tokens(_encode(tools).decode()) if tools else 0)


def _content_tokens(content: Any) -> int:
    if isinstance(content, str):
        return count_tokens(content)
    return sum(count_tokens(part["text"]) if part["type"] == "text" else TOKENS_PER_IMAGE for part in content or ())
