"""The gateway without HTTP: the same keys, guards, caches, budgets, decisions and journal, for a program of yours.

    with Junctor.open("junctor.toml") as junctor:
        answer = junctor.chat("What is 12 % of 80?")
        print(answer.text, answer.target, answer.cost_usd)

`AsyncJunctor` is the same for programs with an event loop. `Junctor` has a loop of its own in a thread, so it may be used from
several threads, and also where a loop is running already (a notebook, for example).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec
from msgspec import Struct

from junctor.errors import JunctorError, RequestError
from junctor.tenancy.contracts import ANYONE, Principal
from junctor.types import Outcome

if TYPE_CHECKING:
    from junctor.engine import StreamAnswer
    from junctor.engine.engine import Explained, Routed
    from junctor.gateway.wires.base import Asked
    from junctor.journal import FeedbackRecord
    from junctor.service import Service

T = TypeVar("T")
Messages = str | Sequence[Mapping[str, Any]]
WISHES = ("budget_usd", "deadline_s", "quality_floor", "weight", "session", "tenant")
AUTO = "auto"
AHEAD = 8
"""Pieces of a stream that are read before they are asked for."""


class ChatAnswer(Struct, frozen=True, kw_only=True):
    """A whole answer. `body` is the chat.completion object; `cache` says how it was found where it came from a cache."""

    text: str
    body: dict[str, Any]
    decision: str
    target: str
    policy: str
    attempts: int
    cost_usd: float | None = None
    cache: str = ""

    @property
    def message(self) -> dict[str, Any]:
        """The first choice's message: text, tool calls and all."""
        found: dict[str, Any] = self.body["choices"][0]["message"]
        return found

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tool calls of the message; empty without."""
        return self.message.get("tool_calls") or []


class ChatStream:
    """A streamed answer: iterate for its pieces of text. `chunks()` gives the chat.completion.chunk objects instead.

    `decision` and `target` are known from the start, `cost_usd` at the end. Who may leave early uses it in `async with`, or
    calls `aclose`: then the upstream is given up at once.
    """

    def __init__(self, answer: StreamAnswer) -> None:
        self._answer = answer
        self._reading: AsyncGenerator[dict[str, Any]] | None = None
        self.decision = answer.decision.id
        self.target = answer.target.id
        self.cost_usd: float | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        async for chunk in self.chunks():
            for choice in chunk.get("choices") or ():
                piece = (choice.get("delta") or {}).get("content")
                if piece:
                    yield piece

    def chunks(self) -> AsyncGenerator[dict[str, Any]]:
        """The events, decoded, once. Raises UpstreamBroken or DeadlineExceeded when the stream breaks off."""
        self._reading = self._chunks()
        return self._reading

    async def _chunks(self) -> AsyncGenerator[dict[str, Any]]:
        try:
            async with self._answer as answer:
                async for events in answer:
                    for line in events.splitlines():
                        if line.startswith(b"data: {"):
                            yield msgspec.json.decode(line[6:])
        finally:
            if self._answer.outcome is not None:
                self.cost_usd = self._answer.outcome.cost_usd

    async def aclose(self) -> None:
        """Leave: what has not come yet is given up."""
        if self._reading is not None:
            await self._reading.aclose()
        elif self._answer.outcome is None:
            async with self._answer:
                pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class AsyncJunctor:
    """Calls, routes and explains over one service. Use it from one event loop, in `async with` or until `aclose`.

    model   what is asked when a call does not say; empty: the alias `auto`, or the only alias there is
    key     a virtual key, where the configuration requires keys
    """

    def __init__(self, service: Service, *, model: str = "", key: str = "") -> None:
        self.service = service
        self.model = model or _usual_model(service)
        self._key = key

    @classmethod
    def open(cls, path: Path | str = "junctor.toml", *, model: str = "", key: str = "") -> Self:
        """From a configuration file; raises ConfigError or ArtefactError."""
        from junctor.build import build_service
        from junctor.config import load_config

        return cls(build_service(load_config(path)), model=model, key=key)

    async def chat(self, messages: Messages, *, model: str = "", cached: bool = True, **params: Any) -> ChatAnswer:
        """Answer a text or a list of messages whole. `cached=False`: nothing out of a cache, and nothing kept.

        `params` are fields of the chat API (temperature, tools, …), and what this request wants of the choice: budget_usd,
        deadline_s, quality_floor, weight, session, tenant. Raises what the gateway answers as errors (`junctor.errors`).
        """
        asked = self._asked(messages, model, params)
        answer = await self.service.complete(asked.request, asked.model, await self._principal(), fresh=not cached)
        body = msgspec.json.decode(answer.reply.body)
        notes = (answer.run.context.notes if answer.run.context is not None else None) or {}
        return ChatAnswer(
            text=_text(body),
            body=body,
            decision=answer.decision.id,
            target=answer.target.id,
            policy=answer.decision.policy,
            attempts=answer.tries,
            cost_usd=answer.outcome.cost_usd,
            cache="" if notes.get("cache") == "miss" else notes.get("cache", ""),
        )

    async def stream(self, messages: Messages, *, model: str = "", cached: bool = True, **params: Any) -> ChatStream:
        """Answer as a stream; returns once the first event is there. Takes and raises what `chat` does."""
        asked = self._asked(messages, model, {**params, "stream": True})
        return ChatStream(await self.service.stream(asked.request, asked.model, await self._principal(), fresh=not cached))

    def route(self, messages: Messages, *, model: str = "", **params: Any) -> Routed:
        """What would be decided: calls nobody, writes nothing down. Raises UnknownModel or NoTarget."""
        asked = self._asked(messages, model, params)
        return self.service.engine.route(asked.request, asked.model)

    async def feedback(
        self, decision: str, quality: float | None = None, comment: str = "", **measured: float
    ) -> FeedbackRecord:
        """Say what came of a decision: a quality in [0, 1], a comment, cost_usd, … Raises RequestError or UnknownDecision."""
        unknown = next((name for name in measured if name not in Outcome.__struct_fields__), "")
        if unknown:
            known = ", ".join(Outcome.__struct_fields__)
            raise RequestError("is not a known figure", field=unknown, fix=f"known: {known}")
        return await self.service.engine.feedback(decision, Outcome(quality=quality, **measured), comment)

    async def explain(self, decision: str) -> Explained:
        """A decision and everything that is known of what came of it. Raises UnknownDecision."""
        return await self.service.engine.explain(decision)

    def models(self) -> list[str]:
        """The aliases, then the targets."""
        return [*self.service.engine.aliases, *self.service.engine.catalogue.ids]

    async def aclose(self) -> None:
        """Close connections, journal and state."""
        await self.service.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _asked(self, messages: Messages, model: str, params: dict[str, Any]) -> Asked:
        """The call as the gateway would read it, with the same checks."""
        from junctor.engine.engine import new_id
        from junctor.gateway.wires.chat import ChatWire

        headers = [
            (f"x-junctor-{name.replace('_', '-')}".encode(), str(params.pop(name)).encode("latin-1", "replace"))
            for name in WISHES
            if params.get(name) is not None
        ]
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        try:
            body = msgspec.json.encode({**params, "model": model or self.model, "messages": turns})
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise RequestError("cannot be sent on as JSON", field="params", fix="use plain values") from error
        return ChatWire().parse(body, new_id(), headers, ANYONE)

    async def _principal(self) -> Principal:
        headers = [(b"authorization", f"Bearer {self._key}".encode())] if self._key else []
        found = self.service.identify(headers)
        return found if isinstance(found, Principal) else await found


class Junctor:
    """`AsyncJunctor` for programs without an event loop: the same calls, each returns when it is done.

    Open it with `Junctor.open("junctor.toml")`, in `with` or until `close`.
    """

    def __init__(self, inner: AsyncJunctor) -> None:
        self._inner = inner
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="junctor", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path | str = "junctor.toml", *, model: str = "", key: str = "") -> Self:
        """From a configuration file; raises ConfigError or ArtefactError."""
        return cls(AsyncJunctor.open(path, model=model, key=key))

    def _run(self, doing: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            doing.close()
            raise JunctorError("is closed", field="Junctor", fix="open it again")
        future = asyncio.run_coroutine_threadsafe(doing, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupted caller gives its call up
            raise

    def chat(self, messages: Messages, *, model: str = "", cached: bool = True, **params: Any) -> ChatAnswer:
        """See `AsyncJunctor.chat`."""
        return self._run(self._inner.chat(messages, model=model, cached=cached, **params))

    def stream(self, messages: Messages, *, model: str = "", cached: bool = True, **params: Any) -> Streamed:
        """See `AsyncJunctor.stream`."""
        return Streamed(self, self._run(self._inner.stream(messages, model=model, cached=cached, **params)))

    def route(self, messages: Messages, *, model: str = "", **params: Any) -> Routed:
        """See `AsyncJunctor.route`."""

        async def routed() -> Routed:
            return self._inner.route(messages, model=model, **params)

        return self._run(routed())

    def feedback(self, decision: str, quality: float | None = None, comment: str = "", **measured: float) -> FeedbackRecord:
        """See `AsyncJunctor.feedback`."""
        return self._run(self._inner.feedback(decision, quality, comment, **measured))

    def explain(self, decision: str) -> Explained:
        """See `AsyncJunctor.explain`."""
        return self._run(self._inner.explain(decision))

    def models(self) -> list[str]:
        """See `AsyncJunctor.models`."""
        return self._inner.models()

    def close(self) -> None:
        """Close connections, journal and state, and end the thread; a second call does nothing."""
        if self._loop.is_closed():
            return
        try:
            self._run(self._inner.aclose())
            self._run(_settled())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Streamed:
    """A streamed answer, iterated without a loop; the pieces of text. Leaving it early gives the call up."""

    def __init__(self, owner: Junctor, inner: ChatStream) -> None:
        self._owner = owner
        self._inner = inner

    @property
    def decision(self) -> str:
        """The decision's id."""
        return self._inner.decision

    @property
    def target(self) -> str:
        """Who answers."""
        return self._inner.target

    @property
    def cost_usd(self) -> float | None:
        """What it cost; known at the end."""
        return self._inner.cost_usd

    def __iter__(self) -> Iterator[str]:
        return self._pulled(self._inner.__aiter__())

    def chunks(self) -> Iterator[dict[str, Any]]:
        """The chat.completion.chunk objects instead."""
        return self._pulled(self._inner.chunks())

    def _pulled(self, source: AsyncIterator[T]) -> Iterator[T]:
        # One task of the loop reads the whole stream: a deadline belongs to the task that set it.
        queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(maxsize=AHEAD)

        async def read() -> None:
            try:
                async with self._inner:
                    async for item in source:
                        await queue.put(("item", item))
            except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                await queue.put(("error", error))
            else:
                await queue.put(("end", None))

        async def begin() -> asyncio.Task[None]:
            return asyncio.ensure_future(read())

        reading = self._owner._run(begin())
        try:
            while True:
                kind, value = self._owner._run(queue.get())
                if kind == "error":
                    raise value
                if kind == "end":
                    return
                yield value
        finally:
            self._owner._run(_given_up(reading))


async def _given_up(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _settled() -> None:
    """Let what was cancelled come to its end."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _usual_model(service: Service) -> str:
    aliases = list(service.engine.aliases)
    if AUTO in aliases or len(aliases) != 1:
        return AUTO
    return aliases[0]


def _text(body: Mapping[str, Any]) -> str:
    from junctor.providers.answers import content_text

    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    return content_text((first.get("message") or {}).get("content"))
