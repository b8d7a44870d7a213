"""The OpenAI Responses API: `POST /v1/responses`, and `GET` and `DELETE /v1/responses/ID` over a bounded store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import unquote

import msgspec

from junctor.errors import JunctorError, RequestError, UnknownResponse
from junctor.gateway import replies, wire
from junctor.gateway.http import Exchange
from junctor.gateway.pages import Page
from junctor.gateway.wires.base import Asked, EventWriter, Headers, Wire
from junctor.gateway.wires.reading import read_whole
from junctor.gateway.wires.response_store import Kept, ResponseStore
from junctor.gateway.wires.responses_call import Turn, chat_params, input_turns
from junctor.gateway.wires.responses_items import Told, ended, new_told, output_of, response_object
from junctor.gateway.wires.responses_stream import ResponsesWriter
from junctor.gateway.wishes import TENANT_HEADER
from junctor.service import Service
from junctor.tenancy.contracts import Principal

MOST_TURNS_BYTES = 16 * 1024 * 1024

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def owner_of(principal: Principal, headers: Headers) -> str:
    """Whose responses these are: the tenant's, else the key's; without keys, whoever the tenant header names."""
    if principal.tenant:
        return f"tenant:{principal.tenant}"
    if principal.key:
        return f"key:{principal.key}"
    named = next((value for name, value in headers if name == TENANT_HEADER), b"")
    return f"header:{named.decode('latin-1')}"


class ResponsesWire(Wire):
    """`POST /v1/responses`. Answers are kept in `store` unless the caller says `"store": false`."""

    path: ClassVar[str] = "/v1/responses"

    def __init__(self, store: ResponseStore) -> None:
        self.store = store

    def parse(self, body: bytes, id_: str, headers: Headers, principal: Principal) -> Asked:
        """See `responses_call`. Raises UnknownResponse too, for a `previous_response_id` that is not the caller's."""
        params = wire.parse_json(body)
        owner = owner_of(principal, headers)
        turns = [*self._before(owner, params.get("previous_response_id")), *input_turns(params.get("input"))]
        chat = chat_params(params, turns)
        call = wire.check_chat(chat, id_, headers, "responses")
        if call.stream:
            chat["stream_options"] = {"include_usage": True}
        params["metadata"] = chat.get("metadata")
        told = new_told(id_, params, owner, turns, store=_flag(params, "store"))
        return Asked(*call, memo=told)

    def _before(self, owner: str, id_: Any) -> list[Turn]:
        if id_ is None:
            return []
        if not isinstance(id_, str):
            raise RequestError("is not text", field="previous_response_id", fix="use the id of a response")
        turns: list[Turn] = _decode(self._kept(owner, id_, "previous_response_id").turns)
        return turns

    def _kept(self, owner: str, id_: str, field: str) -> Kept:
        found = self.store.find(owner, id_)
        if found is None:
            raise UnknownResponse("there is no such response", field=field, fix="it was not kept, has ended, or is not yours")
        return found

    def whole(self, asked: Asked, body: bytes) -> bytes:
        """A `response` object; raises UpstreamGarbage."""
        told: Told = asked.memo
        said = read_whole(body)
        status, reason = ended(said.finish_reason)
        model = said.model or asked.model
        found = response_object(told, status, model, output_of(told, said), said.usage, reason)
        return _encode(self._keep(told, found))

    def _keep(self, told: Told, found: dict[str, Any]) -> dict[str, Any]:
        if told.store:
            turns = _encode([*told.turns, *(input_turns(found["output"]) if found["output"] else ())])
            kept = len(turns) <= MOST_TURNS_BYTES and self.store.keep(told.owner, told.id, Kept(_encode(found), turns))
            found["store"] = kept
        return found

    def writer(self, asked: Asked) -> EventWriter:
        """Typed events."""
        return ResponsesWriter(asked.memo, asked.model, self._keep)

    def error(self, error: JunctorError) -> bytes:
        """`{"error": {…}}`."""
        return replies.error_body(error)

    def error_event(self, error: JunctorError) -> bytes:
        """An `error` event."""
        found = replies.error_object(error)
        body = _encode({"type": "error", "code": found["code"], "message": found["message"], "param": found["param"]})
        return b"event: error\ndata: " + body + b"\n\n"

    def pages(self, serving: Callable[[], Service]) -> Mapping[tuple[str, str], Page]:
        """What was kept."""
        del serving
        return {("GET", f"{self.path}/*"): Page(self._get), ("DELETE", f"{self.path}/*"): Page(self._delete)}

    def _named(self, exchange: Exchange) -> str:
        return unquote(exchange.path[len(self.path) + 1 :])

    async def _get(self, exchange: Exchange, principal: Principal) -> None:
        found = self._kept(owner_of(principal, exchange.headers), self._named(exchange), "id")
        exchange.reply(200, (replies.JSON_TYPE,), found.body)

    async def _delete(self, exchange: Exchange, principal: Principal) -> None:
        id_ = self._named(exchange)
        owner = owner_of(principal, exchange.headers)
        self._kept(owner, id_, "id")
        self.store.drop(owner, id_)
        exchange.reply(200, (replies.JSON_TYPE,), _encode({"id": id_, "object": "response", "deleted": True}))


def _flag(params: Mapping[str, Any], name: str) -> bool:
    value = params.get(name)
    if value is not None and not isinstance(value, bool):
        raise RequestError("is not true or false", field=name, fix="leave it out for true")
    return value is not False
