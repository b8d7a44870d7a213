"""A small HTTP/1.1 server on 127.0.0.1 for fakes of other companies' APIs: they check what they are sent and answer as the real
one would. `seen` is what they were sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Seen:
    """A request as it came in."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


@dataclass
class Answer:
    """What is sent back: a body, or the pieces of a stream."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] | None = None
    delay_s: float = 0.0


class Refused(Exception):
    """The request is wrong: what the real API would answer."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message


def demand(holds: Any, kind: str, message: str, status: int = 400) -> None:
    """Refuse unless it holds."""
    if not holds:
        raise Refused(status, kind, message)


class FakeServer:
    """Serves `answer` in a loop; `async with FakeX() as fake` gives it an address.

    `planned` answers come first, one per request, after the checks; `piece_bytes` cuts streams into pieces of that size.
    """

    def __init__(self, *, piece_bytes: int = 0) -> None:
        self.seen: list[Seen] = []
        self.refused: list[str] = []
        self.planned: list[Answer] = []
        self.piece_bytes = piece_bytes
        self.url = ""
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=64 * 1024 * 1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check(self, seen: Seen) -> None:
        """Raises Refused for what the real API would not take."""
        raise NotImplementedError

    def answer(self, seen: Seen) -> Answer:
        """A good answer."""
        raise NotImplementedError

    def refusal(self, error: Refused) -> Answer:
        """An error in the API's own shape."""
        raise NotImplementedError

    def respond(self, seen: Seen) -> Answer:
        """Check, then what was planned or a good answer."""
        try:
            self.check(seen)
        except Refused as error:
            self.refused.append(error.message)
            return self.refusal(error)
        return self.planned.pop(0) if self.planned else self.answer(seen)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while not writer.is_closing():
                seen = await _request(reader)
                self.seen.append(seen)
                await self._send(writer, self.respond(seen))
        writer.close()

    async def _send(self, writer: asyncio.StreamWriter, answer: Answer) -> None:
        await asyncio.sleep(answer.delay_s)
        headers = {"content-type": "application/json", **answer.headers}
        head = f"HTTP/1.1 {answer.status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        if answer.pieces is None:
            writer.write(f"{head}content-length: {len(answer.body)}\r\n\r\n".encode() + answer.body)
            await writer.drain()
            return
        writer.write(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        for piece in cut(answer.pieces, self.piece_bytes):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def cut(pieces: list[bytes], size: int) -> list[bytes]:
    """The same bytes in pieces of a size; 0: as they are."""
    if not size:
        return [piece for piece in pieces if piece]
    whole = b"".join(pieces)
    return [whole[i : i + size] for i in range(0, len(whole), size)]


async def _request(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, address, _ = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    path, _, query = address.partition("?")
    return Seen(method, path, query, headers, await reader.readexactly(int(headers.get("content-length", 0))))
