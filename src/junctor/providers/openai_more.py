"""What an OpenAI-compatible upstream does beside chats: embeddings and moderation. Bodies pass as they came, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from junctor.errors import RequestError, UpstreamGarbage
from junctor.providers.base import Reply
from junctor.providers.openai_wire import used
from junctor.types import Request, Target

EMBEDDINGS = "/embeddings"
MODERATIONS = "/moderations"
LISTS = {EMBEDDINGS: "data", MODERATIONS: "results"}
"""What an answer of each path must hold."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def plain_body(request: Request, target: Target) -> bytes:
    """What is sent: the caller's fields, the target's settings over them, the upstream's name of the model."""
    body = {**request.params, **target.settings, "model": target.upstream_model}
    try:
        return _encode(body)
    except (OverflowError, ValueError, TypeError, RecursionError) as error:
        raise RequestError("cannot be sent on as JSON", fix="use plain values") from error


def plain_reply(path: str, raw: bytes, target: Target) -> Reply:
    """The answer as it came, with its usage read out. Raises UpstreamGarbage when it is none.

    Nothing is made but what was asked for, so what the upstream says of the prompt is all there is to bill.
    """
    try:
        found: Any = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if not isinstance(found, Mapping) or not isinstance(found.get(LISTS[path]), list):
        raise UpstreamGarbage(f"answered 200 with something that holds no {LISTS[path]}", target=target.id)
    said = found.get("usage")
    usage, cost = used({"completion_tokens": 0, **said} if isinstance(said, dict) else said)
    return Reply(body=raw, usage=usage, finish_reason="stop", cost_usd=cost)
