"""Calls that are no chats: `POST /v1/embeddings` and `POST /v1/moderations`. Bodies pass as they are, both ways.

They are decided, limited, billed and journalled like a chat. A target must be able to do "embeddings" or "moderations"; one of
which nothing is known is tried.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from junctor.engine.run import ask_embeddings, ask_moderation
from junctor.errors import JunctorError, RequestError
from junctor.gateway import replies, wire
from junctor.gateway.wires.base import Asked, Headers, Wire
from junctor.gateway.wishes import wishes_of
from junctor.tenancy.contracts import Principal
from junctor.types import Request

MOST_INPUTS = 2048
MODERATED = {"text": "text", "image_url": "image_url"}


class _PlainWire(Wire):
    """What both have in common: one call, one answer, the errors of the chat API."""

    needs: ClassVar[frozenset[str]]

    def parse(self, body: bytes, id_: str, headers: Headers, principal: Principal) -> Asked:
        """Check a call; raises RequestError."""
        del principal
        params = wire.parse_json(body)
        model = wire.named_model(params)
        if params.get("stream"):
            raise RequestError("is not there", field="stream", fix="leave it out")
        metadata = params.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise RequestError("is not an object", field="metadata", fix="send {…}, or leave it out")
        text = self.read(params)
        wishes = wishes_of(params, headers)
        request = Request(
            id=id_,
            text=text,
            labels=wishes.labels,
            needs=self.needs,
            tenant=wishes.tenant,
            constraints=wishes.constraints,
            params=params,
            session=wishes.session,
        )
        return Asked(request, model, stream=False)

    def read(self, params: dict[str, Any]) -> str:
        """The text of the call: what policies read and prices are estimated from."""
        raise NotImplementedError

    def error(self, error: JunctorError) -> bytes:
        """`{"error": {…}}`."""
        return replies.error_body(error)

    def error_event(self, error: JunctorError) -> bytes:
        """Never needed: nothing is streamed."""
        return replies.error_event(error)


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int and token >= 0 for token in value)


def _listed(value: Any) -> list[Any]:
    """The inputs one by one, bounded. Raises RequestError."""
    if value is None or value in ("", []):
        raise RequestError("is missing" if value is None else "is empty", field="input", fix="send a text, or a list of texts")
    found = value if isinstance(value, list) and not _is_tokens(value) else [value]
    if len(found) > MOST_INPUTS:
        raise RequestError(f"has {len(found)} entries", field="input", fix=f"send at most {MOST_INPUTS}")
    return found


def _joined(texts: Iterable[Any]) -> str:
    return "\n".join(text for text in texts if isinstance(text, str))


class EmbeddingsWire(_PlainWire):
    """`POST /v1/embeddings`: `input` is a text, a list of texts, token numbers, or a list of lists of them."""

    path: ClassVar[str] = "/v1/embeddings"
    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})
    ask = staticmethod(ask_embeddings)

    def read(self, params: dict[str, Any]) -> str:
        """All texts."""
        found = _listed(params.get("input"))
        for place, entry in enumerate(found):
            if not (isinstance(entry, str) and entry) and not _is_tokens(entry):
                path = f"input[{place}]" if len(found) > 1 else "input"
                raise RequestError("is neither text nor a list of token numbers", field=path, fix="send a text")
        dimensions = params.get("dimensions")
        if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
            raise RequestError("is not a whole number above 0", field="dimensions", fix="leave it out")
        if params.get("encoding_format") not in (None, "float", "base64"):
            raise RequestError("is not a known format", field="encoding_format", fix="use one of: float, base64")
        return _joined(found)


class ModerationsWire(_PlainWire):
    """`POST /v1/moderations`: `input` is a text, a list of texts, or a list of text and image parts."""

    path: ClassVar[str] = "/v1/moderations"
    needs: ClassVar[frozenset[str]] = frozenset({"moderations"})
    ask = staticmethod(ask_moderation)

    def read(self, params: dict[str, Any]) -> str:
        """All texts."""
        found = _listed(params.get("input"))
        texts = [_moderated(entry, f"input[{place}]" if len(found) > 1 else "input") for place, entry in enumerate(found)]
        return _joined(texts)


def _moderated(entry: Any, path: str) -> str:
    if isinstance(entry, str):
        return entry
    kind = entry.get("type") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in MODERATED or entry.get(MODERATED[kind]) is None:
        raise RequestError("is neither text nor a part", field=path, fix='send a text, or {"type": "text", "text": "…"}')
    text = entry.get("text")
    if kind == "text" and not isinstance(text, str):
        raise RequestError("is not text", field=f"{path}.text", fix="send a string")
    return text if isinstance(text, str) else ""
