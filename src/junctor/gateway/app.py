"""The gateway: paths, requests and answers in front of a service.

    POST /v1/chat/completions   whole or streamed, and the other APIs of `gateway.wires`
    GET  /v1/models             aliases and targets
    POST /v1/feedback           what somebody says later about a decision
    GET  /v1/decisions/ID       a decision and what came of it
    GET  /healthz               200 while it serves
    GET  /openapi.json          all of this, described

Everything that goes wrong is answered in the error shape of the API that was called. Neither prompts nor tracebacks with values
are logged or sent.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import unquote

import msgspec

from junctor.caching.headers import wants_fresh
from junctor.engine import Engine, Explained
from junctor.engine.engine import new_id
from junctor.engine.ledger import check_feedback
from junctor.errors import Forbidden, JunctorError, UnknownDecision, UnknownModel
from junctor.gateway import openapi, replies, wire
from junctor.gateway.http import Exchange
from junctor.gateway.pages import Page, Pages
from junctor.gateway.wires.base import Asked, EventWriter, Headers, Wire
from junctor.gateway.wires.every import every_wire, shape_of
from junctor.gateway.wires.response_store import MemoryStore, ResponseStore
from junctor.service import Service
from junctor.tenancy.contracts import ANYONE, Principal
from junctor.types import Request

log = logging.getLogger("junctor.gateway")
DECISIONS = "/v1/decisions/"
JSON = (replies.JSON_TYPE,)


class Gateway:
    """Answers exchanges; `await gateway(exchange)` never raises but for cancellation.

    `service` may be exchanged at any time: calls that are under way keep the one that they began with. `responses` keeps the
    answers of the Responses API; without one this process does, in memory.

    `on_refusal` hears of every error that was answered, with the id of the decision that may have been taken; `on_call` sees
    every call with its headers, once it was parsed and before anything else looks at it; `neighbours` sees what comes without a
    key, and may raise Forbidden.
    """

    on_refusal: Callable[[JunctorError, str], None] | None = None
    on_call: Callable[[Request, Headers], None] | None = None
    neighbours: Callable[[Exchange], None] | None = None

    def __init__(
        self,
        service: Service | Engine,
        pages: Mapping[tuple[str, str], Page] | None = None,
        responses: ResponseStore | None = None,
    ) -> None:
        self.responses = responses or MemoryStore()
        self.wires = every_wire(self.responses)
        self.pages = Pages(
            {("POST", wire_.path): Page(partial(self._call, wire_)) for wire_ in self.wires}
            | {name: page for wire_ in self.wires for name, page in wire_.pages(lambda: self.service).items()}
            | {
                ("POST", "/v1/feedback"): Page(self._feedback),
                ("GET", "/v1/models"): Page(self._list_models),
                ("GET", "/healthz"): Page(self._health, open=True),
                ("GET", f"{DECISIONS}*"): Page(self._decision),
                ("GET", openapi.PATH): Page(self._describe, open=True),
            }
            | dict(pages or {})
        )
        self._openapi = openapi.OpenApi(self.pages)
        self.serve(Service(service) if isinstance(service, Engine) else service)

    def serve(self, service: Service) -> None:
        """Take calls with this service from now on."""
        self.service = service
        self._models = replies.models_body(service.engine)

    def refusal(self, error: JunctorError, path: str) -> bytes:
        """The body of an error, in the shape of the API that speaks on this path."""
        return shape_of(path, self.wires).error(error)

    async def __call__(self, exchange: Exchange) -> None:
        """One request."""
        try:
            page = self.pages.find(exchange.method, exchange.path)
            principal = ANYONE
            if not page.open and self.service.tenancy is not None:
                found = self.service.identify(exchange.headers)
                principal = found if isinstance(found, Principal) else await found
            if principal is ANYONE and self.neighbours is not None and not page.open:
                self.neighbours(exchange)
            if page.admin and not principal.admin:
                raise Forbidden("this needs the admin key", fix="send the key that gateway.admin_key names")
            await page.answer(exchange, principal)
        except JunctorError as error:
            self._refuse(exchange, error, shape_of(exchange.path, self.wires))
        except Exception as error:  # noqa: BLE001 - the process boundary
            # A bug of ours or of a plug-in. Type and places are logged, no message: it may hold a prompt.
            log.error("a request failed with %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            if not exchange.started:
                broken = JunctorError("something went wrong here", fix="the server's log names the error's type")
                self._refuse(exchange, broken, shape_of(exchange.path, self.wires))

    async def aclose(self) -> None:
        """Close the service and what was kept."""
        await self.service.aclose()
        self.responses.close()

    async def _call(self, wire_: Wire, exchange: Exchange, principal: Principal) -> None:
        id_ = new_id()
        try:
            asked = wire_.parse(exchange.body, id_, exchange.headers, principal)
            if self.on_call is not None:
                self.on_call(asked.request, exchange.headers)
            fresh = bool(self.service.caches) and wants_fresh(exchange.headers)
            if asked.stream:
                await self._stream(wire_, asked, exchange, principal, fresh)
                return
            answer = await self.service.complete(asked.request, asked.model, principal, wire_.ask, fresh=fresh)
            body = wire_.whole(asked, answer.reply.body)
        except UnknownModel as error:
            self._refuse(exchange, error, wire_)
        except JunctorError as error:
            self._refuse(exchange, error, wire_, id_)
        else:
            exchange.reply(200, replies.whole_head(answer), body)

    async def _stream(self, wire_: Wire, asked: Asked, exchange: Exchange, principal: Principal, fresh: bool) -> None:
        writer = wire_.writer(asked)  # before there is an answer that somebody would have to close
        answer = await self.service.stream(asked.request, asked.model, principal, fresh=fresh)
        try:
            async with answer:
                exchange.start(replies.stream_head(answer))
                async for events in answer:
                    if writer is None:
                        await exchange.write(events)
                    elif out := writer.push(events):
                        await exchange.write(out)
        except JunctorError as error:
            # Not waited for: a client that does not read would hold this up for ever.
            exchange.write_now(_last_words(wire_, writer, error))
        exchange.end()

    def _refuse(self, exchange: Exchange, error: JunctorError, wire_: Wire, decision: str = "") -> None:
        exchange.reply(error.http_status, replies.error_headers(error, decision), wire_.error(error))
        if self.on_refusal is not None:
            self.on_refusal(error, decision)

    async def _feedback(self, exchange: Exchange, principal: Principal) -> None:
        said = wire.parse_feedback(exchange.body)
        check_feedback(said.outcome, said.comment)
        await self._own(said.decision_id, principal)
        record = await self.service.engine.feedback(said.decision_id, said.outcome, said.comment)
        exchange.reply(200, JSON, msgspec.json.encode({"object": "feedback", "decision_id": record.id}))

    async def _decision(self, exchange: Exchange, principal: Principal) -> None:
        known = await self._own(unquote(exchange.path[len(DECISIONS) :]), principal)
        exchange.reply(200, JSON, msgspec.json.encode(known))

    async def _own(self, id_: str, principal: Principal) -> Explained:
        """A decision that this caller may know of: others' look like none."""
        known = await self.service.engine.explain(id_)
        same = known.key == principal.key or (principal.tenant and known.tenant == principal.tenant)
        if self.service.tenancy is not None and not (same or principal.admin):
            raise UnknownDecision(f"there is no decision {id_[:80]!r}", field="decision_id", fix="use one of your own")
        return known

    async def _list_models(self, exchange: Exchange, principal: Principal) -> None:
        scope = principal.models
        body = self._models if scope is None else replies.models_body(self.service.engine, scope)
        exchange.reply(200, JSON, body)

    async def _describe(self, exchange: Exchange, principal: Principal) -> None:
        del principal
        exchange.reply(200, JSON, self._openapi.body())

    async def _health(self, exchange: Exchange, principal: Principal) -> None:
        del principal
        exchange.reply(200, JSON, b'{"status":"ok"}')


def _last_words(wire_: Wire, writer: EventWriter | None, error: JunctorError) -> bytes:
    return wire_.error_event(error) if writer is None else writer.broken(error)
