"""The bare pass-through that the gateway is compared with: uvicorn + uvloop + httptools + aiohttp, one worker, no logic at all.

    python benchmarks/bare_passthrough.py PORT UPSTREAM_URL

It reads the body, posts it upstream, and copies status, content type and bytes back. Nothing is parsed, checked or recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import uvicorn

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class BarePassthrough:
    """An ASGI app that forwards."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Forward one request."""
        if scope["type"] != "http":
            return
        if self.session is None:
            connector = aiohttp.TCPConnector(limit=0)
            self.session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {"content-type": "application/json"}
        async with self.session.post(self.upstream, data=body, headers=headers) as reply:
            kind = reply.headers.get("content-type", "").encode()
            await send({"type": "http.response.start", "status": reply.status, "headers": [(b"content-type", kind)]})
            if b"event-stream" not in kind:
                await send({"type": "http.response.body", "body": await reply.read()})
                return
            async for chunk in reply.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body"})


if __name__ == "__main__":
    uvicorn.run(
        BarePassthrough(sys.argv[2]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="error",
    )
