"""The gateway as a plain ASGI callable: no framework lies between the parser and the engine.

    POST /v1/chat/completions   whole or streamed
    GET  /v1/models             aliases and targets
    POST /v1/feedback           what somebody says later about a decision
    GET  /v1/decisions/ID       a decision and what came of it
    GET  /healthz               200 while it serves

Everything that goes wrong is answered in the OpenAI error shape. Neither prompts nor tracebacks are logged or sent.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Self

import msgspec

from junctor.engine import Engine
from junctor.engine.engine import new_id
from junctor.errors import (
    JunctorError,
    RequestError,
    RequestTooLarge,
    UnknownModel,
)
from junctor.gateway import replies, wire
from junctor.gateway.replies import Headers
from junctor.gateway.wire import NoSuchPath, WrongMethod

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Scope = MutableMapping[str, Any]

log = logging.getLogger("junctor.gateway")
DECISIONS = "/v1/decisions/"
WATCH_AFTER_S = 0.02
BODY_TIMEOUT_S = 30.0
LAST_WORD_S = 5.0
END: Event = {"type": "http.response.body", "body": b""}


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


class Watch:
    """Cancels the work on a request when its client goes away.

    Most answers are there before anybody can hang up, so the watching task starts only after a moment.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._owner = asyncio.current_task()
        self._gone = False

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(WATCH_AFTER_S, self._start)
        return self

    def _start(self) -> None:
        self._task = self._loop.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        assert self._owner is not None
        self._owner.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._gone and isinstance(error, asyncio.CancelledError):
            assert self._owner is not None
            self._owner.uncancel()
            raise ClientGone from error


class Gateway:
    """Speaks HTTP in front of an engine. `max_body_bytes` bounds what one request may send."""

    def __init__(
        self, engine: Engine, *, max_body_bytes: int = 8 * 1024 * 1024, body_timeout_s: float = BODY_TIMEOUT_S
    ) -> None:
        self.engine = engine
        self.max_body_bytes = max_body_bytes
        self.body_timeout_s = body_timeout_s
        self._models = replies.models_body(engine)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        try:
            await self._serve(scope, receive, send)
        except ClientGone:
            return
        except JunctorError as error:
            await _answer_error(send, error)
        except Exception as error:  # noqa: BLE001 - the process boundary
            # A bug of ours or of a plug-in. Type and places are logged, no message: it may hold a prompt.
            log.error("a request failed with %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            await _answer_error(send, JunctorError("something went wrong here", fix="the server's log names the error's type"))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == "/v1/chat/completions":
            _allow(method, "POST", path)
            await self._chat(scope, receive, send)
        elif path == "/v1/models":
            _allow(method, "GET", path)
            await _answer(send, 200, self._models)
        elif path == "/healthz":
            _allow(method, "GET", path)
            await _answer(send, 200, b'{"status":"ok"}')
        elif path == "/v1/feedback":
            _allow(method, "POST", path)
            said = wire.parse_feedback(await self._body(scope, receive))
            record = await self.engine.feedback(said.decision_id, said.outcome, said.comment)
            await _answer(send, 200, msgspec.json.encode({"object": "feedback", "decision_id": record.id}))
        elif path.startswith(DECISIONS):
            _allow(method, "GET", path)
            await _answer(send, 200, msgspec.json.encode(await self.engine.explain(path[len(DECISIONS) :])))
        else:
            raise NoSuchPath("there is nothing here", field="path", fix="try /v1/chat/completions, /v1/models or /healthz")

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(scope, receive)
        id_ = new_id()
        call = wire.parse_chat(body, id_, scope["headers"])
        try:
            with Watch(receive):
                if call.stream:
                    await self._stream(call, send)
                else:
                    answer = await self.engine.complete(call.request, call.model)
                    await send({"type": "http.response.start", "status": 200, "headers": replies.whole_headers(answer)})
                    await send({"type": "http.response.body", "body": answer.reply.body})
        except UnknownModel:
            raise
        except JunctorError as error:
            await _answer_error(send, error, id_)

    async def _stream(self, call: wire.ChatCall, send: Send) -> None:
        answer = await self.engine.stream(call.request, call.model)
        try:
            async with answer:
                headers = [*replies.answer_headers(answer), *replies.STREAM_HEAD]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                async for events in answer:
                    await send({"type": "http.response.body", "body": events, "more_body": True})
        except JunctorError as error:
            # A client that does not read would hold this up for ever; then its connection is simply closed.
            async with asyncio.timeout(LAST_WORD_S):
                await send({"type": "http.response.body", "body": replies.error_event(error), "more_body": True})
        await send(END)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body; raises RequestTooLarge, or RequestError when it does not come."""
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if len(declared) > 18 or int(declared) > self.max_body_bytes:
            raise self._too_large()
        event = await receive()
        if not event.get("more_body") and event["type"] == "http.request":
            body: bytes = event["body"]
            return body if len(body) <= self.max_body_bytes else _raise(self._too_large())
        try:
            async with asyncio.timeout(self.body_timeout_s):
                return await self._rest_of_body(event, receive)
        except TimeoutError as error:
            raise RequestError(f"did not arrive within {self.body_timeout_s:g} s", field="body", fix="send it again") from error

    async def _rest_of_body(self, event: Event, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            if event["type"] == "http.disconnect":
                raise ClientGone
            parts.append(event.get("body", b""))
            size += len(parts[-1])
            if size > self.max_body_bytes:
                raise self._too_large()
            if not event.get("more_body"):
                return b"".join(parts)
            event = await receive()

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"is over {self.max_body_bytes} bytes", field="body", fix="send less, or raise max_body_bytes")


def _raise(error: JunctorError) -> bytes:
    raise error


def _allow(method: str, allowed: str, path: str) -> None:
    if method != allowed:
        raise WrongMethod(f"{path} takes {allowed} only", field="method", fix=f"send a {allowed}")


async def _answer(send: Send, status: int, body: bytes, headers: Headers | None = None) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*(headers or [replies.JSON_TYPE]), length]})
    await send({"type": "http.response.body", "body": body})


async def _answer_error(send: Send, error: JunctorError, decision: str = "") -> None:
    headers = replies.error_headers(error, decision)
    await _answer(send, error.http_status, replies.error_body(error), headers)
