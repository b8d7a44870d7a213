"""The gateway: paths, requests and answers of the OpenAI API in front of an engine.

    POST /v1/chat/completions   whole or streamed
    GET  /v1/models             aliases and targets
    POST /v1/feedback           what somebody says later about a decision
    GET  /v1/decisions/ID       a decision and what came of it
    GET  /healthz               200 while it serves

Everything that goes wrong is answered in the OpenAI error shape. Neither prompts nor tracebacks with values are logged or sent.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from urllib.parse import unquote

import msgspec

from junctor.engine import Engine
from junctor.engine.engine import new_id
from junctor.errors import JunctorError, NoSuchPath, UnknownModel, WrongMethod
from junctor.gateway import replies, wire
from junctor.gateway.http import Exchange

log = logging.getLogger("junctor.gateway")
CHAT = "/v1/chat/completions"
DECISIONS = "/v1/decisions/"
JSON = (replies.JSON_TYPE,)


class Gateway:
    """Answers exchanges; `await gateway(exchange)` never raises but for cancellation."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._models = replies.models_body(engine)
        self._pages: dict[str, tuple[str, Callable[[Exchange], Awaitable[None]]]] = {
            CHAT: ("POST", self._chat),
            "/v1/feedback": ("POST", self._feedback),
            "/v1/models": ("GET", self._list_models),
            "/healthz": ("GET", self._health),
        }

    async def __call__(self, exchange: Exchange) -> None:
        """One request."""
        try:
            method, page = self._page(exchange.path)
            if exchange.method != method:
                raise WrongMethod(f"{exchange.path[:80]} takes {method} only", field="method", fix=f"send a {method}")
            await page(exchange)
        except JunctorError as error:
            _refuse(exchange, error)
        except Exception as error:  # noqa: BLE001 - the process boundary
            # A bug of ours or of a plug-in. Type and places are logged, no message: it may hold a prompt.
            log.error("a request failed with %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            if not exchange.started:
                _refuse(exchange, JunctorError("something went wrong here", fix="the server's log names the error's type"))

    def _page(self, path: str) -> tuple[str, Callable[[Exchange], Awaitable[None]]]:
        found = self._pages.get(path)
        if found is not None:
            return found
        if path.startswith(DECISIONS):
            return "GET", self._decision
        raise NoSuchPath("there is nothing here", field="path", fix=f"there are: {', '.join(self._pages)}, {DECISIONS}ID")

    async def _chat(self, exchange: Exchange) -> None:
        id_ = new_id()
        call = wire.parse_chat(exchange.body, id_, exchange.headers)
        try:
            if call.stream:
                await self._stream(call, exchange)
                return
            answer = await self.engine.complete(call.request, call.model)
        except UnknownModel:
            raise
        except JunctorError as error:
            _refuse(exchange, error, id_)
        else:
            exchange.reply(200, replies.whole_headers(answer), answer.reply.body)

    async def _stream(self, call: wire.ChatCall, exchange: Exchange) -> None:
        answer = await self.engine.stream(call.request, call.model)
        try:
            async with answer:
                exchange.start(replies.stream_headers(answer))
                async for events in answer:
                    await exchange.write(events)
        except JunctorError as error:
            # Not waited for: a client that does not read would hold this up for ever.
            exchange.write_now(replies.error_event(error))
        exchange.end()

    async def _feedback(self, exchange: Exchange) -> None:
        said = wire.parse_feedback(exchange.body)
        record = await self.engine.feedback(said.decision_id, said.outcome, said.comment)
        exchange.reply(200, JSON, msgspec.json.encode({"object": "feedback", "decision_id": record.id}))

    async def _decision(self, exchange: Exchange) -> None:
        known = await self.engine.explain(unquote(exchange.path[len(DECISIONS) :]))
        exchange.reply(200, JSON, msgspec.json.encode(known))

    async def _list_models(self, exchange: Exchange) -> None:
        exchange.reply(200, JSON, self._models)

    async def _health(self, exchange: Exchange) -> None:
        exchange.reply(200, JSON, b'{"status":"ok"}')


def _refuse(exchange: Exchange, error: JunctorError, decision: str = "") -> None:
    exchange.reply(error.http_status, replies.error_headers(error, decision), replies.error_body(error))
