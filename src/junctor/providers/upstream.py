"""HTTP/1.1 to an upstream: an asyncio Protocol over httptools (llhttp), a pool of kept-alive connections, nothing else.

Why not a general client: a call costs about a quarter of the processor time of aiohttp's (docs/gateway.md has the figures), and
every request of the gateway makes one. What an upstream may do to us is bounded here: the size of head and body, the number of
interim (1xx) answers, what is buffered of a stream that nobody reads. Redirects are never followed, cookies never kept.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from junctor.errors import ConfigError, UpstreamBroken, UpstreamError, UpstreamGarbage, UpstreamRefused, UpstreamTimeout
from junctor.providers.tracing import CURRENT

IDLE_S = 15.0
MOST_HEAD_BYTES = 64 * 1024
MOST_BODY_BYTES = 128 * 1024 * 1024
MOST_INTERIM = 32
SWEEP_S = 0.02
"""How far over its limit an answer may be before that is noticed."""
MANY = 500
HIGH_WATER = 512 * 1024
CALM = (204, 304)
PLAIN = frozenset({"accept", "accept-encoding", "content-type", "user-agent", "host", "anthropic-version", "anthropic-beta"})
SECRET_CHARS = 8


def checked_base(base_url: str, field: str = "base_url") -> str:
    """The URL without a slash at its end; raises ConfigError for what is no http(s) URL, or holds a user or a password."""
    url = base_url.rstrip("/")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError("is not a URL", field=field, fix="for example https://host/v1") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError("is not an http or https URL", field=field, fix="for example https://host/v1")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("holds a user or a password", field=field, fix="put the key into api_key, as a reference")
    if not url.isprintable() or " " in url or parts.query or parts.fragment:
        raise ConfigError("holds a space, a query or a fragment", field=field, fix="for example https://host/v1")
    return url


class Response:
    """An answer that has begun: its status and headers are there, its body is read with `read` or `readany`."""

    __slots__ = ("_chunks", "_connection", "_error", "_headers", "_size", "_unzip", "_waiter", "complete", "status", "target")

    def __init__(self, connection: Connection, target: str) -> None:
        self._connection = connection
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._size = 0
        self._unzip: Any = None
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.status = 0
        self.complete = False
        self.target = target

    def header(self, name: str) -> str:
        """The value of a header; "" when it is not there."""
        wanted = name.lower().encode("ascii")
        return next((value.decode("latin-1") for key, value in self._headers if key == wanted), "")

    async def read(self) -> bytes:
        """The whole body. Raises UpstreamError."""
        while not self.complete:
            await self._progress()
        chunks, self._chunks = self._chunks, []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def readany(self) -> bytes:
        """What has come since the last time, at least a byte; b"" at the end. Raises UpstreamError."""
        while not self._chunks:
            if self.complete:
                return b""
            await self._progress()
        chunks, self._chunks = self._chunks, []
        self._size = 0
        self._connection.resume()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def close(self) -> None:
        """Give the answer up. An unfinished one takes its connection along."""
        if not self.complete:
            self._connection.abort()

    release = close

    async def _progress(self) -> None:
        """Wait for news; raises what went wrong."""
        self._raise()
        waiter = self._waiter = self._connection.loop.create_future()
        try:
            if self._connection.upstream.read_timeout_s is None:
                await waiter
            else:
                await self._not_silent(waiter, self._connection.upstream.read_timeout_s)
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None
        if not self._chunks:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    async def _not_silent(self, waiter: asyncio.Future[None], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError as error:
            self.close()
            raise UpstreamTimeout("silent for too long", target=self.target) from error

    def wake(self) -> None:
        """There is something new."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, error: UpstreamError) -> None:
        """It will never be complete."""
        if not self.complete and self._error is None:
            self._error = error
            self.wake()


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, upstream: Upstream, loop: asyncio.AbstractEventLoop) -> None:
        self.upstream = upstream
        self.loop = loop
        self.idle_since = 0.0
        self.response: Response | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.ends, self.limit_s = 0.0, 0.0
        self._paused = False
        self._head_size = 0
        self._interim = 0
        self._framed = False
        self._spoiled = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone; an answer without a length is complete with it, any other is not."""
        del exc
        self.upstream.forget(self)
        response = self.response
        if response is None:
            return
        if response.status >= 200 and not self._framed:
            self._done()
        else:
            self._fail(UpstreamBroken("closed the connection before the answer was complete", target=response.target))

    @property
    def usable(self) -> bool:
        """Whether it can take another request."""
        return self.response is None and not self.transport.is_closing()

    def send(self, data: bytes, target: str, timeout_s: float | None) -> Response:
        """Begin a request; the answer's status is there when it has been awaited with `head`."""
        response = self.response = Response(self, target)
        self._interim = self._head_size = 0
        if timeout_s is not None:
            self.ends, self.limit_s = self.loop.time() + timeout_s, timeout_s
            self.upstream.time(self)
        self.transport.write(data)
        return response

    async def head(self, response: Response) -> None:
        """Wait for status and headers. Raises UpstreamError."""
        while response.status < 200:
            await response._progress()

    def expire(self) -> None:
        """The time for this answer is up."""
        if self.response is not None:
            self._fail(UpstreamTimeout(f"silent for {self.limit_s:.3g} s", target=self.response.target))
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Parse; whatever is not an answer to a question ends the connection."""
        response = self.response
        if response is None:
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._garbage("switched to another protocol")
        except (httptools.HttpParserError, httptools.HttpParserCallbackError, zlib.error):
            self._garbage("answered with something that is not HTTP")
        if response.status < 200 and not response.complete:
            self._head_size += len(data)
            if self._head_size > MOST_HEAD_BYTES:
                self._garbage(f"sent a head of over {MOST_HEAD_BYTES} bytes")
        if self._spoiled:
            self.abort()
        response.wake()
        if response._size > HIGH_WATER and not response.complete and response._waiter is None and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """What had come was read: more may come."""
        if self._paused:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def on_message_begin(self) -> None:
        """httptools: an answer begins; one that nobody asked for spoils the connection."""
        self._framed = False
        self._spoiled = self.response is None

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header."""
        if self.response is not None:
            self.response._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """httptools: the head is there."""
        response, status = self.response, self._parser.get_status_code()
        if response is None:
            return
        if status < 200:
            response._headers.clear()
            self._interim += 1
            if self._interim > MOST_INTERIM or status == 101:
                self._garbage("sent interim answers without an end" if status != 101 else "switched to another protocol")
            return
        self._framed = status in CALM
        for name, value in response._headers:
            if name == b"content-length" or (name == b"transfer-encoding" and b"chunked" in value.lower()):
                self._framed = True
            elif name == b"content-encoding" and value.strip().lower() in (b"gzip", b"x-gzip", b"deflate"):
                response._unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        response.status = status

    def on_body(self, body: bytes) -> None:
        """httptools: a piece of the body."""
        response = self.response
        if response is None:
            return
        if response._unzip is not None:
            body = response._unzip.decompress(body, MOST_BODY_BYTES + 1)
        response._size += len(body)
        if response._size > MOST_BODY_BYTES:
            self._garbage(f"sent a body of over {MOST_BODY_BYTES} bytes")
        elif body:
            response._chunks.append(body)

    def on_message_complete(self) -> None:
        """httptools: the answer is whole."""
        if self.response is not None and self.response.status >= 200:
            keep = self._framed and self._parser.should_keep_alive()
            self._done()
            if keep:
                self.upstream.give_back(self)
            else:
                self.transport.close()

    def _done(self) -> None:
        response, self.response = self.response, None
        self.upstream.timed.discard(self)
        if response is not None:
            response.complete = True
            self.resume()
            response.wake()

    def _garbage(self, what: str) -> None:
        if self.response is not None:
            self._fail(UpstreamGarbage(what, target=self.response.target, fix="check its base_url"))
        self.abort()

    def _fail(self, error: UpstreamError) -> None:
        response, self.response = self.response, None
        self.upstream.timed.discard(self)
        if response is not None:
            response.fail(error)

    def abort(self) -> None:
        """Cut it; nothing that comes after belongs to anybody."""
        self.upstream.timed.discard(self)
        if not self.transport.is_closing():
            self.transport.abort()


class Upstream:
    """One upstream's address and its connections.

    base_url           scheme, host, port and the path that others are appended to
    headers            sent with every request; a `host` header is made
    connect_timeout_s  for the connection alone; read_timeout_s  longest silence while waiting (None: any)
    secrets            never appear in `repr` or in what `redacted` gives back; nor do long values of `headers`

    Connections belong to the event loop that opened them. Raises ConfigError for an address that is none.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str] | None = None,
        *,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float | None = None,
        secrets: Iterable[str] = (),
    ) -> None:
        self.base_url = checked_base(base_url)
        parts = urlsplit(self.base_url)
        self.secure = parts.scheme == "https"
        self.host = str(parts.hostname)
        self.port = parts.port or (443 if self.secure else 80)
        self.connect_timeout_s = connect_timeout_s
        self.read_timeout_s = read_timeout_s
        self._secrets = tuple(secret.encode() for secret in (*secrets, *_telling(headers or {})) if secret)
        self._path = parts.path
        named = f"[{self.host}]" if ":" in self.host else self.host
        default = parts.port in (None, 443 if self.secure else 80)
        fixed = {"host": named if default else f"{named}:{self.port}", "accept-encoding": "identity", **(headers or {})}
        self._fixed = b"".join(_header(name, value) for name, value in fixed.items())
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self.timed: set[Connection] = set()
        self._sweeping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ssl: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"Upstream({self.base_url!r})"

    async def post(
        self, path: str, body: bytes, timeout_s: float | None, target: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        """`request` with POST."""
        return await self.request("POST", path, body, timeout_s, target, headers)

    async def request(
        self,
        method: str,
        path: str,
        body: bytes,
        timeout_s: float | None,
        target: str,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request and wait for status and headers. `path` is appended to the base URL's.

        `timeout_s` runs until the answer is whole; None: whoever calls keeps the time. `target` is named in errors. Raises
        UpstreamRefused, UpstreamTimeout, UpstreamBroken or UpstreamGarbage.
        """
        head = self._heads.get((method, path))
        if head is None:
            head = self._head(method, path)
        extra = b"".join(_header(name, value) for name, value in headers.items()) if headers else b""
        place = CURRENT.get()
        if place is not None:
            extra += place.headers
        connection = self._take()
        if connection is None:
            connection = await self._connect(timeout_s, target)
        response = connection.send(b"%b%bcontent-length: %d\r\n\r\n%b" % (head, extra, len(body), body), target, timeout_s)
        try:
            await connection.head(response)
        except BaseException:
            connection.abort()
            raise
        return response

    def redacted(self, said: bytes) -> bytes:
        """The upstream's own words without our secrets."""
        for secret in self._secrets:
            said = said.replace(secret, b"***")
        return said

    def _head(self, method: str, path: str) -> bytes:
        whole = self._path + path
        if not whole.isascii() or not whole.isprintable() or " " in whole:
            raise ConfigError("cannot be part of a URL", field="path", fix="quote it")
        head = f"{method} {whole or '/'} HTTP/1.1\r\n".encode("ascii") + self._fixed
        if len(self._heads) < 256:
            self._heads[method, path] = head
        return head

    def _take(self) -> Connection | None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._idle.clear()
            self._open.clear()
            self.timed.clear()
            self._sweeping = False
            self._loop = loop
            return None
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and loop.time() - connection.idle_since < IDLE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self, timeout_s: float | None, target: str) -> Connection:
        loop = asyncio.get_running_loop()
        limit = self.connect_timeout_s if timeout_s is None else min(self.connect_timeout_s, timeout_s)
        fix = "check that it runs, and its base_url"
        try:
            async with asyncio.timeout(limit):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, loop),
                    self.host,
                    self.port,
                    ssl=self._context(),
                    server_hostname=self.host if self.secure else None,
                )
        except TimeoutError as error:
            if timeout_s is not None and timeout_s < self.connect_timeout_s:
                raise UpstreamTimeout(f"silent for {timeout_s:.3g} s", target=target) from error
            raise UpstreamRefused("no connection could be made", target=target, fix=fix) from error
        except (OSError, UnicodeError) as error:
            raise UpstreamRefused("no connection could be made", target=target, fix=fix) from error
        self._open.add(connection)
        return connection

    def _context(self) -> ssl.SSLContext | None:
        if self.secure and self._ssl is None:
            self._ssl = ssl.create_default_context()
        return self._ssl

    def give_back(self, connection: Connection) -> None:
        """Its answer is whole: it can be used again. What has been idle for too long goes."""
        now = connection.idle_since = connection.loop.time()
        idle = self._idle
        idle.append(connection)
        while now - idle[0].idle_since > IDLE_S:
            idle.popleft().abort()

    def time(self, connection: Connection) -> None:
        """Look after the time of its answer: one look over all of them now and then costs less than a timer for each."""
        self.timed.add(connection)
        if not self._sweeping:
            self._sweeping = True
            connection.loop.call_later(min(SWEEP_S, max(connection.limit_s, 0.0)), self._sweep, connection.loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        now = loop.time()
        for connection in [one for one in self.timed if one.ends <= now]:
            connection.expire()
        self._sweeping = bool(self.timed)
        if self.timed:
            loop.call_later(SWEEP_S if len(self.timed) < MANY else 5 * SWEEP_S, self._sweep, loop)

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        self._open.discard(connection)

    async def aclose(self) -> None:
        """Close all connections."""
        self._idle.clear()
        if self._loop is asyncio.get_running_loop():
            for connection in list(self._open):
                connection.abort()
            await asyncio.sleep(0)
        self._open.clear()


def _telling(headers: Mapping[str, str]) -> list[str]:
    """Values of configured headers that may be secrets: an upstream that quotes what it was sent must not give them away."""
    return [value for name, value in headers.items() if name.lower() not in PLAIN and len(value) >= SECRET_CHARS]


def _header(name: str, value: str) -> bytes:
    if not (name.isascii() and name.isprintable() and value.isprintable()) or ":" in name or " " in name:
        raise ConfigError("holds a character that no header may", field="headers", fix="use printable characters")
    return f"{name}: {value}\r\n".encode("latin-1", "replace")
