"""HTTP/1.1 in front of the gateway: an asyncio Protocol over httptools (llhttp), no more than an API server needs.

A request is handed on when it is there as a whole, its size bounded; an answer leaves in one write, a stream in chunks that
wait for a slow reader. A client that goes away cancels its request. Why not a general server: docs/gateway.md has the figures.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import httptools

from junctor.errors import HeadTooLarge, JunctorError, RequestError, RequestTimeout, RequestTooLarge
from junctor.gateway.replies import JSON_TYPE, Headers, error_body

MAX_HEAD_BYTES = 64 * 1024
LINGER_S = 2.0
SWEEP_S = 1.0
MOST_OUTGOING = 64
BODY_CAME, NO_BODY_SINCE = -1, -2
BODIED = frozenset({b"content-length", b"transfer-encoding"})
NO_UPGRADE = frozenset({b"upgrade", b"connection", b"http2-settings", b"expect"})
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


Head = Iterable[tuple[bytes, bytes]] | bytes


class _Clock:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._line = b"date: " + formatdate(now, usegmt=True).encode() + b"\r\n"
        return self._line


_clock = _Clock()


class Exchange:
    """One request, and the way to answer it: either `reply`, or `start`, `write` … and `end`."""

    __slots__ = ("_chunked", "_connection", "body", "ended", "headers", "keep_alive", "method", "path", "query", "started")

    def __init__(
        self,
        connection: Connection,
        method: str,
        path: str,
        headers: Headers,
        body: bytes,
        *,
        keep_alive: bool,
        chunked: bool,
        query: bytes = b"",
    ) -> None:
        self._connection = connection
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.started = False
        self.ended = False
        self._chunked = chunked

    def reply(self, status: int, headers: Head, body: bytes) -> None:
        """A whole answer; `headers` are pairs, or lines that are ready to be sent."""
        self.started = self.ended = True
        parts = self._head(status, headers)
        parts.append(b"content-length: %d\r\n\r\n" % len(body))
        if self.method != "HEAD":
            parts.append(body)
        self._connection.send_soon(b"".join(parts))

    def start(self, headers: Head) -> None:
        """The head of a stream. HTTP/1.0 knows no chunks: there the end of the connection is the end of the stream."""
        self.started = True
        if not self._chunked:
            self.keep_alive = False
        parts = self._head(200, headers)
        parts.append(b"transfer-encoding: chunked\r\n\r\n" if self._chunked else b"\r\n")
        self._connection.send_soon(b"".join(parts))

    async def write(self, data: bytes) -> None:
        """A part of a stream; waits while the client does not read."""
        self.write_now(data)
        if self._connection.paused is not None:
            await self._connection.paused

    def write_now(self, data: bytes) -> None:
        """A part of a stream, without waiting; nothing for nothing, because an empty chunk would mean the end."""
        if data:
            self._connection.send_soon(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        """The end of a stream."""
        self.ended = True
        if self._chunked:
            self._connection.send_soon(b"0\r\n\r\n")

    def _head(self, status: int, headers: Head) -> list[bytes]:
        said = headers if isinstance(headers, bytes) else b"".join([b"%b: %b\r\n" % pair for pair in headers])
        parts = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, _clock.line(), said]
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        return parts


App = Callable[[Exchange], Awaitable[None]]
Refusal = Callable[[JunctorError, str], bytes]


class Connection(asyncio.Protocol):
    """One client. Requests are answered one after the other; those that come early wait."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.paused: asyncio.Future[None] | None = None
        self.since = 0.0
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Exchange] = deque()
        self._outgoing: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._reading = False
        self._refused = False
        self._last = False
        self._closing = False
        self._url = b""
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._size = 0
        self._head_size = self._count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = cast(asyncio.Transport, transport)
        self.since = self._loop.time()
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It went: nobody waits for what is being done."""
        del exc
        self.server.lost(self)
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self.paused = self._loop.create_future()

    def resume_writing(self) -> None:
        """It has caught up, or is gone."""
        paused, self.paused = self.paused, None
        if paused is not None and not paused.done():  # done already when its waiter ran out of time
            paused.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Parse; what follows a refused request is read and dropped, so that the client gets to see why."""
        if self._refused:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._last = True  # nothing to upgrade to: the request is answered as if it had not asked
            if self._reading:
                self._read_again(data[upgrade.args[0] :])
                return
        except httptools.HttpParserError:
            self._refuse(RequestError("is not HTTP/1.1", field="request", fix="speak HTTP to this port"))
        if self._reading and not self._head_size_ok(len(data)):
            self._refuse(HeadTooLarge(f"is over {MAX_HEAD_BYTES} bytes", field="head", fix="send fewer headers"))

    def _body_behind(self) -> bool:
        """Whether a body comes yet that the parser leaves alone, because the request asks for an upgrade."""
        bodied = any(name in BODIED and value != b"0" for name, value in self._headers)
        return bodied and self._parser.get_method() != b"CONNECT"

    def _read_again(self, rest: bytes) -> None:
        """The parser gives up at a body behind `upgrade`, which some clients send with every request: read it without."""
        method = self._parser.get_method()
        kept = [b"%b: %b\r\n" % pair for pair in self._headers if pair[0] not in NO_UPGRADE]
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, self._url, b"".join(kept), rest))

    def _head_size_ok(self, more: int) -> bool:
        """Bounds the head, and whatever comes after it without being body: trailers, extensions of chunks."""
        if self._head_size == BODY_CAME:
            self._head_size = NO_BODY_SINCE
            return True
        if self._head_size < 0:
            self._head_size -= more
            return self._head_size >= NO_BODY_SINCE - MAX_HEAD_BYTES
        self._head_size += more
        return self._head_size <= MAX_HEAD_BYTES

    def on_message_begin(self) -> None:
        """httptools: a request begins."""
        self._reading = True
        self.since = self._loop.time()
        self._url = b""
        self._headers = []
        self._body = []
        self._size = self._head_size = 0

    def on_url(self, url: bytes) -> None:
        """httptools: a piece of the URL."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header, or what stands behind a body and is none."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """httptools: the head is there; what is announced too large is refused before it comes."""
        self._head_size = BODY_CAME
        self._count = len(self._headers)
        for name, value in self._headers:
            if name == b"content-length":
                self._grow(int(value))
                self._size = 0
            elif name == b"expect" and value.lower() == b"100-continue" and not self._refused:
                self._transport.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        """httptools: a piece of the body."""
        self._head_size = BODY_CAME
        self._grow(len(body))
        if not self._refused:
            self._body.append(body)

    def _grow(self, more: int) -> None:
        self._size += more
        if self._size > self.server.max_body_bytes and not self._refused:
            most = self.server.max_body_bytes
            self._refuse(RequestTooLarge(f"is over {most} bytes", field="body", fix="send less, or raise max_body_bytes"))

    def on_message_complete(self) -> None:
        """httptools: the request is whole."""
        parser = self._parser
        if parser.should_upgrade() and self._body_behind():
            return
        version = parser.get_http_version()
        if version != "1.1" and any(name == b"transfer-encoding" for name, _ in self._headers):
            # A proxy of that age takes what follows for another request.
            self._refuse(RequestError("has chunks before HTTP/1.1", field="request", fix="send a content-length"))
        if len(self._headers) > self._count:
            del self._headers[self._count :]
        self._reading = False
        if self._refused:
            return
        path, _, query = self._url.partition(b"?")
        exchange = Exchange(
            self,
            parser.get_method().decode("ascii"),
            path.decode("latin-1"),
            self._headers,
            self._body[0] if len(self._body) == 1 else b"".join(self._body),
            keep_alive=parser.should_keep_alive() and not self.server.stopping,
            chunked=version != "1.0",
            query=query,
        )
        self._body = []
        if self._task is None:
            self._task = self._loop.create_task(self._answer(exchange))
        else:
            self._waiting.append(exchange)
            self._transport.pause_reading()

    async def _answer(self, exchange: Exchange) -> None:
        while True:
            await self.server.app(exchange)
            if not exchange.ended:
                self._flush()
                self._transport.abort()  # a stream that broke off without a last word must not look complete
            if not exchange.keep_alive or self._last or self.server.stopping:
                self._loop.call_soon(self._transport.close)  # after what was said last, and that after the journal's write
                self._closing = True
            self.since = self._loop.time()
            if not self._waiting or self._closing or self._transport.is_closing():
                break
            exchange = self._waiting.popleft()
        self._task = None
        if not self._closing and not self._transport.is_closing():
            self._transport.resume_reading()

    def send(self, data: bytes) -> None:
        """Hand bytes to the socket, unless it is closed."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def send_soon(self, data: bytes) -> None:
        """The same when the work at hand is done: what becomes ready together leaves in one write, nothing waits longer.

        The journal writes in the same way (`Journal.batch`), so what is sent like this leaves after its records are written.
        """
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)
        if len(self._outgoing) >= MOST_OUTGOING:  # a source that never pauses must not fill the memory
            self._flush()

    def _flush(self) -> None:
        if self._outgoing:
            self.send(b"".join(self._outgoing))
            self._outgoing.clear()

    def _refuse(self, error: JunctorError) -> None:
        """Answer what cannot be a request, then linger: closing at once could reset the answer away."""
        if self._refused:
            return
        self._refused = True
        self.since = self._loop.time()
        if self._task is not None:
            self._last = True  # an earlier request is still being answered: after that, the connection ends
            return
        exchange = Exchange(self, "", "", [], b"", keep_alive=False, chunked=True)
        path = self._url.partition(b"?")[0].decode("latin-1")
        exchange.reply(error.http_status, [JSON_TYPE], self.server.refusal(error, path))

    def sweep(self, now: float) -> None:
        """Called once a second: end what has been idle, unfinished or refused for too long."""
        waited = now - self.since
        if self._task is not None:
            return
        if self._refused:
            if waited > LINGER_S:
                self._transport.abort()
        elif self._reading:
            if waited > self.server.body_timeout_s:
                seconds = self.server.body_timeout_s
                self._refuse(RequestTimeout(f"did not arrive within {seconds:g} s", field="body", fix="send it again"))
        elif waited > self.server.keep_alive_s:
            self._transport.abort()

    def stop(self) -> None:
        """The server stops: an idle connection ends now, a busy one after its answer."""
        if self._task is None:
            self._transport.close()

    def give_up(self) -> None:
        """The server waits no longer."""
        self._transport.abort()


class Server:
    """Accepts connections and hands their requests to `app`.

    body_timeout_s  for a request from its first byte to its last; keep_alive_s  for a connection between two requests
    refusal         the body that answers what never became a request, by the path that it named as far as that is known
    """

    def __init__(
        self,
        app: App,
        *,
        max_body_bytes: int = 8 * 1024 * 1024,
        body_timeout_s: float = 30.0,
        keep_alive_s: float = 75.0,
        refusal: Refusal | None = None,
    ) -> None:
        self.refusal: Refusal = refusal or (lambda error, _: error_body(error))
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.body_timeout_s = body_timeout_s
        self.keep_alive_s = keep_alive_s
        self.connections: set[Connection] = set()
        self.stopping = False
        self._empty = asyncio.Event()

    def lost(self, connection: Connection) -> None:
        """A client is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def connection(self) -> Connection:
        """The protocol of a new client."""
        return Connection(self)

    async def sweep(self) -> None:
        """Look after all connections, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = loop.time()
            for connection in list(self.connections):
                connection.sweep(now)

    async def drain(self) -> None:
        """Let every answer that was begun finish."""
        self.stopping = True
        self._empty.clear()
        for connection in list(self.connections):
            connection.stop()
        if self.connections:
            await self._empty.wait()

    def give_up(self) -> None:
        """Cut what is still there."""
        for connection in list(self.connections):
            connection.give_up()
