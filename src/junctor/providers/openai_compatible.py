"""Any upstream that speaks the OpenAI chat-completion API.

Bytes pass through as they came: a whole answer is parsed once for its usage, a streamed one only where an event says "usage",
"finish_reason" or "error". The key is sent and never shown: not in `repr`, not in an error, not in an upstream's own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from junctor.errors import (
    ConfigError,
    UpstreamBroken,
    UpstreamError,
    UpstreamGarbage,
    UpstreamStatus,
    UpstreamTimeout,
)
from junctor.providers.base import Provider, Reply, StreamReply
from junctor.providers.openai_more import EMBEDDINGS, MODERATIONS, plain_body, plain_reply
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
from junctor.providers.upstream import Response, Upstream
from junctor.types import Request, Target

DONE = b"data: [DONE]\n\n"
ERROR_BODY_BYTES = 64 * 1024
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
    extras: bool = False


class OpenAICompatibleProvider(Provider):
    """One upstream. `base_url` ends where `/chat/completions` is appended, for example `https://host/v1`.

    connect_timeout_s  for the connection alone; read_timeout_s  longest silence while reading (None: the deadline alone)
    stream_usage       ask for usage at the end of streams even when the caller did not, and keep that event to ourselves
    extras             it knows `cache_control`, `thinking_blocks` and the like, so calls that came by other APIs keep them

    A target's `settings` are merged into the body and win over the caller's, because they are what makes it that target.
    """

    name: ClassVar[str] = "openai_compatible"
    keeps_time: ClassVar[bool] = True
    path: ClassVar[str] = "/chat/completions"

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        headers: Mapping[str, str] | None = None,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float | None = None,
        stream_usage: bool = True,
        extras: bool = False,
    ) -> None:
        sent = {"content-type": "application/json", **(headers or {})}
        if api_key:
            sent["authorization"] = f"Bearer {api_key}"
        self.upstream = Upstream(
            base_url, sent, connect_timeout_s=connect_timeout_s, read_timeout_s=read_timeout_s, secrets=(api_key,)
        )
        self.stream_usage = stream_usage
        self.extras = extras

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.upstream.base_url!r})"

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

    def place(self, path: str, target: Target) -> str:
        """What is appended to `base_url` for this target."""
        del target
        return path

    async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        """Ask for a whole answer; its bytes are passed on as they came."""
        body = chat_body(request, target, stream=False, usage=False, extras=self.extras)
        response = await self.upstream.post(self.place(self.path, target), body, timeout_s, target.id)
        if response.status != 200:
            raise await self._refusal(response, target)
        raw = await response.read()
        try:
            whole = decode_whole.decode(raw)
            if not raw.isascii():
                raw.decode()  # what is skipped above is not checked
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamGarbage("answered 200 with something that is not a chat completion", target=target.id) from error
        usage, cost = used(whole.usage)
        return Reply(body=raw, usage=usage, finish_reason=finish_reason(whole.choices), cost_usd=cost)

    async def stream(self, request: Request, target: Target, timeout_s: float | None) -> StreamReply:
        """Ask for a stream; returns once the first data event is there."""
        wanted = request.params.get("stream_options")
        asked = isinstance(wanted, Mapping) and bool(wanted.get("include_usage"))
        body = chat_body(request, target, stream=True, usage=self.stream_usage, extras=self.extras)
        try:
            async with asyncio.timeout(timeout_s):
                response = await self.upstream.post(self.place(self.path, target), body, None, target.id)
                reply = _Stream(self.upstream, response, target, hide_usage=self.stream_usage and not asked)
                try:
                    if response.status != 200:
                        raise await self._refusal(response, target)
                    await reply.begin()
                except BaseException:
                    response.close()
                    raise
        except TimeoutError as error:
            raise UpstreamTimeout("silent for too long", target=target.id) from error
        return reply

    async def embed(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        """Ask for embeddings; the answer's bytes are passed on as they came."""
        return await self._plain(EMBEDDINGS, request, target, timeout_s)

    async def moderate(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        """Ask for moderation; the answer's bytes are passed on as they came."""
        return await self._plain(MODERATIONS, request, target, timeout_s)

    async def _plain(self, path: str, request: Request, target: Target, timeout_s: float | None) -> Reply:
        response = await self.upstream.post(self.place(path, target), plain_body(request, target), timeout_s, target.id)
        if response.status != 200:
            raise await self._refusal(response, target)
        return plain_reply(path, await response.read(), target)

    async def aclose(self) -> None:
        """Close all connections."""
        await self.upstream.aclose()

    async def _refusal(self, response: Response, target: Target) -> UpstreamError:
        """What an answer other than 200 means."""
        status = response.status
        if status < 400:
            response.close()
            return UpstreamGarbage(f"answered with status {status}", target=target.id, fix="check its base_url")
        body = await _beginning(response, ERROR_BODY_BYTES)
        # What is said about our own key may quote the key, and is none of the caller's business.
        private = status in KEY_STATUSES
        shown = b"" if private else self.upstream.redacted(body)
        said = "" if private else said_in(shown)
        return UpstreamStatus(
            f"answered with status {status}" + (f": {said}" if said else ""),
            upstream_status=status,
            target=target.id,
            retry_after_s=retry_after_s(response.header("retry-after")),
            body=shown,
        )


def _is_text(events: bytes) -> bool:
    if events.isascii():
        return True
    try:
        events.decode()
    except UnicodeDecodeError:
        return False
    return True


async def _beginning(response: Response, most: int) -> bytes:
    """The first bytes of a body; what is longer, or breaks off, is cut."""
    body = b""
    try:
        while len(body) < most and (more := await response.readany()):
            body += more
    except UpstreamError:
        pass
    response.close()
    return body[:most]


class _Stream(StreamReply):
    """Cuts what arrives into whole events and reads usage and finish reason on the way."""

    def __init__(self, upstream: Upstream, response: Response, target: Target, *, hide_usage: bool) -> None:
        self._upstream = upstream
        self._response = response
        self._target = target
        self._hide_usage = hide_usage
        self._rest = b""
        self._first = b""
        self._done = False

    async def begin(self) -> None:
        """Wait for the first data event; raises UpstreamGarbage, UpstreamBroken or what the upstream reports."""
        kind = self._response.header("content-type")
        if "event-stream" not in kind:
            raise UpstreamGarbage("answered a stream with something that is not one", target=self._target.id)
        while not self._first:
            chunk = await self._response.readany()
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
        response = self._response
        try:
            while not self._done:
                chunk = await response.readany()
                if not chunk:
                    raise UpstreamBroken("ended its stream early", target=self._target.id)
                whole = self._cut(chunk)
                if whole and (piece := self._read(whole)):
                    yield piece
        finally:
            if not self._done:
                response.close()
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
        if self._response.complete:
            return
        try:
            async with asyncio.timeout(0.1):
                await self._response.readany()
        except (UpstreamError, TimeoutError):
            pass
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
        if events and not (events.startswith(LINE_STARTS) and _is_text(events)):
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
            said = self._upstream.redacted(said.encode()).decode()
            raise UpstreamBroken(f"reported an error: {said}", target=self._target.id)
        self.finish_reason = finish_reason(found.choices) or self.finish_reason
        if found.usage is not None:
            self.usage, self.cost_usd = used(found.usage)
        return not (self._hide_usage and found.usage is not None and not found.choices)
