"""Real sockets on 127.0.0.1: upstreams that misbehave on purpose, and a gateway in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from junctor.engine import Alias, Engine, Health
from junctor.gateway import serve_async
from junctor.journal import Journal, read
from junctor.policy import Policy, State
from junctor.providers.openai_compatible import OpenAICompatibleProvider
from junctor.types import Call, Catalogue, Decision, Fallback, Outcome, Price, Ranked, Target

BODY = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "up",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "pong"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}


class InOrder(Policy):
    """The targets in their own order, each the fallback of the one before."""

    name = "in-order"
    version = "v1"

    def decide(self, request, targets, rng):
        ranked = tuple(
            Ranked(target=id_, score=-float(i), predicted=Outcome(cost_usd=0.001)) for i, id_ in enumerate(targets.ids)
        )
        plan = Fallback(tuple(Call(id_) for id_ in targets.ids))
        return Decision(id=request.id, plan=plan, target=targets.ids[0], ranked=ranked, policy=self.name, version="v1")

    def decide_many(self, features, targets, rng):
        return np.zeros(len(features), dtype=np.intp), np.ones(len(features))

    def state(self):
        return State()

    @classmethod
    def from_state(cls, state):
        return cls()


def event(text: str | None = None, **more: Any) -> bytes:
    """One stream event."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": more.pop("finish_reason", None)}
    found = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "up", "choices": [choice], **more}
    return b"data: " + json.dumps(found, separators=(",", ":")).encode() + b"\n\n"


@dataclass
class Upstream:
    """A server of one behaviour; `bodies` and `heads` are what it was sent."""

    port: int
    server: asyncio.Server | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Behaviour = Callable[[Upstream, Reader, Writer], Awaitable[None]]


def whole(body: bytes, status: str = "200 OK", extra: str = "", kind: str = "application/json") -> bytes:
    """A response with a length."""
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{extra}content-length: {len(body)}\r\n\r\n".encode() + body


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


async def answer(up: Upstream, reader: Reader, writer: Writer) -> None:
    """Answers, whole or as a stream, as it was asked."""
    if not up.bodies[-1].get("stream"):
        writer.write(whole(json.dumps(BODY).encode()))
        return
    usage = {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}}
    writer.write(STREAM_HEAD)
    for part in (event(""), event("po"), event("ng"), event(finish_reason="stop")):
        writer.write(chunk(part))
        await writer.drain()
        await asyncio.sleep(0)
    if (up.bodies[-1].get("stream_options") or {}).get("include_usage"):
        last = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "up", "choices": [], **usage}
        writer.write(chunk(b"data: " + json.dumps(last).encode() + b"\n\n"))
    writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def status(line: str, body: bytes = b'{"error":{"message":"no luck","type":"server_error"}}', extra: str = "") -> Behaviour:
    """Answers with a status."""

    async def act(up: Upstream, reader: Reader, writer: Writer) -> None:
        writer.write(whole(body, line, extra))

    return act


def raw(data: bytes, *, then: str = "close") -> Behaviour:
    """Sends these bytes, then closes or stays silent."""

    async def act(up: Upstream, reader: Reader, writer: Writer) -> None:
        writer.write(data)
        await writer.drain()
        if then == "stall":
            await stall(up, reader, writer)
        else:
            writer.close()

    return act


def in_turn(*parts: bytes) -> Behaviour:
    """Sends these one after the other with a pause between them, then closes."""

    async def act(up: Upstream, reader: Reader, writer: Writer) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.close()

    return act


async def stall(up: Upstream, reader: Reader, writer: Writer) -> None:
    """Says nothing until the other side hangs up."""
    await reader.read()
    up.gone.set()
    writer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[Callable[..., Awaitable[Upstream]]]:
    """Starts an upstream of a behaviour; `None` gives the address of one that refuses."""
    running: list[tuple[Upstream, set[asyncio.Task[None]]]] = []

    async def start(behaviour: Behaviour | None = answer) -> Upstream:
        up = Upstream(0)
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: Reader, writer: Writer) -> None:
            tasks.add(asyncio.current_task())
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while not writer.is_closing():
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = next(
                        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
                    )
                    up.heads.append(head)
                    up.bodies.append(json.loads(await reader.readexactly(length)))
                    up.asked.set()
                    await behaviour(up, reader, writer)
            writer.close()

        up.server = await asyncio.start_server(serve, "127.0.0.1", 0)
        up.port = up.server.sockets[0].getsockname()[1]
        running.append((up, tasks))
        if behaviour is None:
            up.server.close()
            await up.server.wait_closed()
        return up

    yield start
    for up, tasks in running:
        up.server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Served:
    """A running gateway and a client for it."""

    url: str
    engine: Engine
    session: aiohttp.ClientSession
    journal: Path
    stop: asyncio.Event

    async def chat(self, model: str = "auto", headers: dict[str, str] | None = None, **more: Any) -> aiohttp.ClientResponse:
        """One call."""
        body = {"model": model, "messages": [{"role": "user", "content": "ping"}], **more}
        data = io.BytesIO(json.dumps(body).encode())
        head = {"content-type": "application/json", **(headers or {})}
        reply = await self.session.post(self.url + "/v1/chat/completions", data=data, headers=head)
        if not more.get("stream"):
            await reply.read()
        return reply

    def records(self) -> list[Any]:
        """Everything in the journal."""
        return list(read(self.journal))


def engine_over(ups: list[Upstream], tmp: Path, policy: Policy | None = None, **more: Any) -> Engine:
    """Targets t0, t1, … over these upstreams, and the alias `auto` that tries them in order, or over another policy."""
    providers = {
        f"p{i}": OpenAICompatibleProvider(up.url, api_key="sk-secret", connect_timeout_s=2) for i, up in enumerate(ups)
    }
    price = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
    targets = Catalogue([Target(id=f"t{i}", provider=f"p{i}", model="up", price=price) for i in range(len(ups))])
    aliases = {"auto": Alias(name="auto", policy=policy or InOrder(), targets=targets)}
    more.setdefault("health", Health(base_s=0.05))
    return Engine(targets, providers, aliases, Journal(tmp / "j.journal", fsync="never"), **more)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Served]]]:
    """Starts a gateway over upstreams or a given engine."""
    stops: list[tuple[Served, asyncio.Task[None]]] = []

    async def start(*ups: Upstream, engine: Engine | None = None, **more: Any) -> Served:
        serving = {k: more.pop(k) for k in ("max_body_bytes", "shutdown_s", "body_timeout_s") if k in more}
        engine = engine or engine_over(list(ups), tmp_path, **more)
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        task = asyncio.create_task(
            serve_async(engine, port=0, on_ready=lambda _, port: ready.set_result(port), until=stop, **serving)
        )
        port = await ready
        served = Served(f"http://127.0.0.1:{port}", engine, aiohttp.ClientSession(), tmp_path / "j.journal", stop)
        stops.append((served, task))
        return served

    yield start
    for served, task in stops:
        await served.session.close()
        served.stop.set()
        await asyncio.wait_for(task, 20)
