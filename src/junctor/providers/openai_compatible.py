"""Any upstream that speaks the OpenAI chat-completion API, over aiohttp.

Bytes pass through as they came: a whole answer is parsed once for its usage, a streamed one only where an event says "usage",
"finish_reason" or "error". The key is sent and never shown: not in `repr`, not in an error, not in an upstream's own words.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from junctor.errors import (
    ConfigError,
    UpstreamBroken,
    UpstreamError,
    UpstreamGarbage,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)
from junctor.providers.base import Provider, Reply, StreamReply
from junctor.providers.openai_wire import (
    SAID_CHARS,
    chat_body,
    decode_event,
    decode_whole,
    done_at,
    finish_reason,
    message_of,
    retry_after_s,
    said_in,
    telling,
    used,
)
from junctor.types import Request, Target

DONE = b"data: [DONE]\n\n"
ERROR_BODY_BYTES = 64 * 1024
LARGE_BODY_BYTES = 512 * 1024
EVENT_BYTES = 8 * 1024 * 1024
LINE_STARTS = (b"data: {", b"data:{", b":", b"event:", b"id:", b"retry:")
KEY_STATUSES = (401, 403, 407)


class OpenAICompatibleSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[providers.NAME]` with `kind = "openai_compatible"`. `api_key` arrives here resolved."""

    base_url: str
    api_key: str = ""
    headers: Mapping[str, str] = {}
    connect_timeout_s: float = 5.0
    read_timeout_s: float | None = None
    stream_usage: bool = True


class OpenAICompatibleProvider(Provider):
    """One upstream. `base_url` ends where `/chat/completions` is appended, for example `https://host/v1`.

    connect_timeout_s  for the connection alone; read_timeout_s  longest silence while reading (None: the deadline alone)
    stream_usage       ask for usage at the end of streams even when the caller did not, and keep that event to ourselves

    A target's `settings` are merged into the body and win over the caller's, because they are what makes it that target.
    """

    name: ClassVar[str] = "openai_compatible"

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        headers: Mapping[str, str] | None = None,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float | None = None,
        stream_usage: bool = True,
    ) -> None:
        self.url = _checked_url(base_url)
        self.connect_timeout_s = connect_timeout_s
        self.read_timeout_s = read_timeout_s
        self.stream_usage = stream_usage
        self._key = api_key
        self._headers = {"content-type": "application/json", "accept-encoding": "identity", **(headers or {})}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"OpenAICompatibleProvider({str(self.url)!r})"

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Provider:
        """From a configuration table; raises ConfigError that names the key."""
        try:
            found = msgspec.convert(settings, OpenAICompatibleSettings)
        except msgspec.ValidationError as error:
            # msgspec names keys and types, never values: no secret can get into the message.
            message, _, where = str(error).partition(" - at `$.")
            known = ", ".join(OpenAICompatibleSettings.__struct_fields__)
            raise ConfigError(message[0].lower() + message[1:], field=where.rstrip("`"), fix=f"known here: {known}") from None
        for name in ("connect_timeout_s", "read_timeout_s"):
            seconds = getattr(found, name)
            if seconds is not None and not 0 < seconds < float("inf"):
                raise ConfigError("is not a number of seconds above 0", field=name, fix="leave it out for the default")
        for name, texts in (("api_key", [found.api_key]), ("headers", [*found.headers, *found.headers.values()])):
            if any(not text.isprintable() for text in texts):
                raise ConfigError("holds a character that no header may", field=name, fix="use printable characters")
        return cls(**msgspec.structs.asdict(found))

    async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        """Ask for a whole answer; its bytes are passed on as they came."""
        body = chat_body(request, target, stream=False, usage=False)
        try:
            async with await self._post(body, timeout_s) as response:
                await self._check_status(response, target)
                raw = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(error, target) from error
        try:
            whole = decode_whole.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamGarbage("answered 200 with something that is not a chat completion", target=target.id) from error
        usage, cost = used(whole.usage)
        return Reply(body=raw, usage=usage, finish_reason=finish_reason(whole.choices), cost_usd=cost)

    async def stream(self, request: Request, target: Target, timeout_s: float | None) -> StreamReply:
        """Ask for a stream; returns once the first data event is there."""
        wanted = request.params.get("stream_options")
        asked = isinstance(wanted, Mapping) and bool(wanted.get("include_usage"))
        body = chat_body(request, target, stream=True, usage=self.stream_usage)
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._post(body, None)
                reply = _Stream(self, response, target, hide_usage=self.stream_usage and not asked)
                try:
                    await self._check_status(response, target)
                    await reply.begin()
                except BaseException:
                    response.close()
                    raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(error, target) from error
        return reply

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None and self._loop is asyncio.get_running_loop():
            await session.close()

    async def _post(self, body: bytes, timeout_s: float | None) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(
            total=timeout_s, sock_connect=self.connect_timeout_s, sock_read=self.read_timeout_s, ceil_threshold=1e9
        )
        # aiohttp writes what can be read from in portions, so that a large body does not hold up the event loop.
        data = body if len(body) < LARGE_BODY_BYTES else io.BytesIO(body)
        return await self._connected().post(self.url, data=data, headers=self._headers, timeout=timeout, allow_redirects=False)

    def _connected(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("user-agent",),
            )
        return self._session

    async def _check_status(self, response: aiohttp.ClientResponse, target: Target) -> None:
        status = response.status
        if status == 200:
            return
        if status < 400:
            raise UpstreamGarbage(f"answered with status {status}", target=target.id, fix="check its base_url")
        body = await response.content.read(ERROR_BODY_BYTES)
        # What is said about our own key may quote the key, and is none of the caller's business.
        private = status in KEY_STATUSES
        shown = b"" if private else self._redacted(body)
        said = "" if private else said_in(shown)
        raise UpstreamStatus(
            f"answered with status {status}" + (f": {said}" if said else ""),
            upstream_status=status,
            target=target.id,
            retry_after_s=retry_after_s(response.headers.get("retry-after", "")),
            body=shown,
        )

    def _redacted(self, body: bytes) -> bytes:
        return body.replace(self._key.encode(), b"***") if self._key else body

    def _failure(self, error: BaseException, target: Target) -> UpstreamError:
        if isinstance(error, (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError)):
            return UpstreamRefused("no connection could be made", target=target.id, fix="check that it runs, and its base_url")
        if isinstance(error, TimeoutError):
            return UpstreamTimeout("silent for too long", target=target.id)
        if isinstance(error, (aiohttp.ClientResponseError, aiohttp.InvalidURL)):
            return UpstreamGarbage("answered with something that is not HTTP", target=target.id, fix="check its base_url")
        return UpstreamBroken("closed the connection before the answer was complete", target=target.id)


class _Stream(StreamReply):
    """Cuts what arrives into whole events and reads usage and finish reason on the way."""

    def __init__(
        self, provider: OpenAICompatibleProvider, response: aiohttp.ClientResponse, target: Target, *, hide_usage: bool
    ) -> None:
        self._provider = provider
        self._response = response
        self._target = target
        self._hide_usage = hide_usage
        self._rest = b""
        self._first = b""
        self._done = False

    async def begin(self) -> None:
        """Wait for the first data event; raises UpstreamGarbage, UpstreamBroken or what the upstream reports."""
        kind = self._response.headers.get("content-type", "")
        if "event-stream" not in kind:
            raise UpstreamGarbage("answered a stream with something that is not one", target=self._target.id)
        while not self._first:
            chunk = await self._response.content.readany()
            if not chunk:
                raise UpstreamBroken("ended its stream before the first event", target=self._target.id)
            whole = self._cut(chunk)
            start = 0 if whole.startswith(b"data:") else whole.find(b"\ndata:") + 1
            if start or whole.startswith(b"data:"):
                self._first = self._read(whole[start:])
                if self._done:
                    return
                self._keep(self._first.partition(b"\n\n")[0])

    async def pieces(self) -> AsyncIterator[bytes]:
        """Whole events as they arrived together, then `[DONE]`."""
        if self._first:
            yield self._first
            self._first = b""
        content = self._response.content
        try:
            while not self._done:
                chunk = await content.readany()
                if not chunk:
                    raise UpstreamBroken("ended its stream early", target=self._target.id)
                whole = self._cut(chunk)
                if whole and (piece := self._read(whole)):
                    yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._provider._failure(error, self._target) from error
        finally:
            if not self._done:
                self._response.close()
        yield DONE
        await self._finish()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self.pieces():
            for event in piece.split(b"\n\n"):
                if event:
                    yield event + b"\n\n"

    async def aclose(self) -> None:
        """Close the connection: an unfinished answer cannot be reused."""
        self._response.close()

    async def _finish(self) -> None:
        # The end of the HTTP body usually came along already; reading it lets the connection be used again.
        if self._response.content.at_eof():
            return
        try:
            async with asyncio.timeout(0.1):
                await self._response.content.readany()
            self._response.release()
        except (aiohttp.ClientError, TimeoutError, OSError):
            self._response.close()

    def _cut(self, chunk: bytes) -> bytes:
        """The whole events at hand; what is left over waits for more."""
        data = self._rest + chunk if self._rest else chunk
        if b"\r\n" in data:
            data = data.replace(b"\r\n", b"\n")
        if data.endswith(b"\n\n"):
            self._rest = b""
            return data
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            end = 0
        self._rest = data[end:]
        if len(self._rest) > EVENT_BYTES:
            raise UpstreamGarbage(f"sent an event of over {EVENT_BYTES} bytes", target=self._target.id)
        return data[:end]

    def _read(self, events: bytes) -> bytes:
        """Take in what the events say; returns what the client gets, up to but without `[DONE]`."""
        end = done_at(events)
        if end >= 0:
            self._done = True
            events = events[:end]
        if events and not events.startswith(LINE_STARTS):
            raise UpstreamGarbage("sent an event that is not a chunk", target=self._target.id)
        hidden = [place for place in telling(events) if not self._keep(events[slice(*place)])]
        for start, stop in reversed(hidden):
            events = events[:start] + events[stop:]
        return events

    def _keep(self, event: bytes) -> bool:
        """Read one event; False when it is the usage that only we had asked for."""
        if not event.startswith(b"data:"):
            return True
        try:
            found = decode_event.decode(event[5:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamGarbage("sent an event that is not a chunk", target=self._target.id) from error
        if found.error:
            said = message_of(found.error)[:SAID_CHARS]
            said = self._provider._redacted(said.encode()).decode()
            raise UpstreamBroken(f"reported an error: {said}", target=self._target.id)
        self.finish_reason = finish_reason(found.choices) or self.finish_reason
        if found.usage is not None:
            self.usage, self.cost_usd = used(found.usage)
        return not (self._hide_usage and found.usage is not None and not found.choices)


def _checked_url(base_url: str) -> URL:
    try:
        url = URL(base_url.rstrip("/") + "/chat/completions")
    except ValueError as error:
        raise ConfigError("is not a URL", field="base_url", fix="for example https://host/v1") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError("is not an http or https URL", field="base_url", fix="for example https://host/v1")
    if url.user or url.password:
        raise ConfigError("holds a user or a password", field="base_url", fix="put the key into api_key, as a reference")
    return url
