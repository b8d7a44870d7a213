"""Requests, replies and streams as guards see them, and gateways built from a configuration file."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from junctor.build import build_service
from junctor.config import load_config
from junctor.gateway import serve_async
from junctor.gateway.wire import parse_chat
from junctor.guards.contracts import Chain, Noticed
from junctor.types import Request

DONE = b"data: [DONE]\n\n"


def asked(*messages: Any, **more: Any) -> Request:
    """A request as the gateway parses it; a string is a user turn."""
    turns = [{"role": "user", "content": m} if isinstance(m, (str, list)) else m for m in messages]
    body = msgspec.json.encode({"model": "auto", "messages": turns, **more})
    return parse_chat(body, "r1").request


def replied(content: Any = None, **more: Any) -> bytes:
    """A chat.completion body."""
    message = {"role": "assistant", "content": content, **more}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}).encode()


def content_of(body: bytes) -> Any:
    """What a reply says."""
    return json.loads(body)["choices"][0]["message"]["content"]


def chunk(delta: dict[str, Any], index: int = 0, finish: str | None = None) -> bytes:
    """One event."""
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    found = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(found).encode() + b"\n\n"


def heard(events: bytes) -> dict[str, Any]:
    """What a client adds up from a stream: content, tool arguments by index, finish reason; order is checked."""
    out: dict[str, Any] = {"content": "", "arguments": {}, "finish": None, "done": False, "error": None}
    for event in events.split(b"\n\n"):
        if not event:
            continue
        assert event.startswith(b"data: ")
        assert not out["done"]
        if event == b"data: [DONE]":
            out["done"] = True
            continue
        found = json.loads(event[6:])
        if "error" in found:
            out["error"] = found["error"]
            continue
        for choice in found["choices"]:
            delta = choice["delta"]
            assert out["finish"] is None or not delta
            out["content"] += delta.get("content") or ""
            for call in delta.get("tool_calls") or ():
                known = out["arguments"].get(call["index"], "")
                out["arguments"][call["index"]] = known + call["function"].get("arguments", "")
            out["finish"] = choice["finish_reason"] or out["finish"]
    return out


def streamed(chain: Chain, request: Request, noticed: Noticed, pieces: list[bytes]) -> bytes:
    """What comes out of a chain's filters, piece by piece."""
    filters, out = chain.filters(request, noticed), b""
    for piece in pieces:
        for filter_ in filters:
            piece = filter_.push(piece)
        out += piece
    rest = b""
    for filter_ in filters:
        rest = (filter_.push(rest) if rest else b"") + filter_.end()
    return out + rest


class Door:
    """A running gateway and a client for it."""

    def __init__(self, url: str, session: aiohttp.ClientSession, folder: Path) -> None:
        self.url, self.session, self.folder = url, session, folder

    async def post(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> tuple[int, bytes, Any]:
        """Status, body and headers of one call."""
        data = io.BytesIO(json.dumps({"model": "auto", **body}).encode())
        head = {"content-type": "application/json"}
        async with self.session.post(self.url + path, data=data, headers=head) as reply:
            return reply.status, await reply.read(), reply.headers

    def journal(self) -> bytes:
        """All that was written down."""
        return (self.folder / "j.journal").read_bytes()


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Door]]]:
    """Serves a configuration: guards as TOML, in front of the upstream at `url`."""
    ends: list[Callable[[], Awaitable[None]]] = []

    async def start(url: str, guards: str, names: list[str]) -> Door:
        path = tmp_path / "junctor.toml"
        path.write_text(
            '[journal]\npath = "j.journal"\nfsync = "never"\n'
            f'[providers.up]\nkind = "openai_compatible"\nbase_url = "{url}"\n'
            '[targets."t0"]\nprovider = "up"\nmodel = "m"\n'
            '[policies.one]\nuse = "fixed"\nsettings = {target = "t0"}\n'
            f'[aliases.auto]\npolicy = "one"\nguards = {json.dumps(names)}\n{guards}',
            "utf-8",
        )
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        service = build_service(load_config(path))
        task = asyncio.create_task(
            serve_async(service, port=0, on_ready=lambda _, port: ready.set_result(port), until=stop, shutdown_s=1)
        )
        session = aiohttp.ClientSession()

        async def finish() -> None:
            await session.close()
            stop.set()
            await asyncio.wait_for(task, 20)

        ends.append(finish)
        return Door(f"http://127.0.0.1:{await ready}", session, tmp_path)

    yield start
    for end in ends:
        await end()


Answering = Callable[[dict[str, Any]], tuple[int, bytes, str]]


@pytest.fixture
async def upstream() -> AsyncIterator[Callable[[Answering], Awaitable[tuple[str, list[dict[str, Any]]]]]]:
    """An upstream that answers what a function says of the body; gives its address and the bodies that it got."""
    servers: list[asyncio.Server] = []
    writers: list[asyncio.StreamWriter] = []

    async def start(answer: Answering) -> tuple[str, list[dict[str, Any]]]:
        got: list[dict[str, Any]] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                    got.append(json.loads(await reader.readexactly(int(lengths[0].split(b":")[1]))))
                    status, body, kind = answer(got[-1])
                    writer.write(
                        f"HTTP/1.1 {status} OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
                    )
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", got

    yield start
    for server in servers:
        server.close()
    for writer in writers:
        writer.close()


def as_json(body: bytes) -> tuple[int, bytes, str]:
    """A whole answer of an upstream."""
    return 200, body, "application/json"


def as_events(body: bytes) -> tuple[int, bytes, str]:
    """A streamed answer of an upstream."""
    return 200, body, "text/event-stream"
