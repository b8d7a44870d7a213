"""The OpenAI chat completion: our own form, so answers and streams pass as they are."""

from __future__ import annotations

from typing import ClassVar

from junctor.errors import JunctorError
from junctor.gateway import replies, wire
from junctor.gateway.wires.base import Asked, Headers, Wire
from junctor.tenancy.contracts import Principal


class ChatWire(Wire):
    """`POST /v1/chat/completions`."""

    path: ClassVar[str] = "/v1/chat/completions"

    def parse(self, body: bytes, id_: str, headers: Headers, principal: Principal) -> Asked:
        """See `junctor.gateway.wire`."""
        del principal
        return Asked(*wire.parse_chat(body, id_, headers))

    def error(self, error: JunctorError) -> bytes:
        """`{"error": {…}}`."""
        return replies.error_body(error)

    def error_event(self, error: JunctorError) -> bytes:
        """The same as an event."""
        return replies.error_event(error)
