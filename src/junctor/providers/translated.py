"""What providers of other APIs have in common: their settings, the way there and back, and what an error answer means.

A subclass says how one call is written and read (`exchange`); everything that goes over the connection is here. Redirects are
never followed, an address in a message is never fetched: it is the upstream's to fetch.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec import Struct

from junctor.errors import (
    ConfigError,
    UpstreamError,
    UpstreamGarbage,
    UpstreamTimeout,
)
from junctor.providers import answers
from junctor.providers.base import Provider, Reply, StreamReply
from junctor.providers.event_reading import EventReader, status_error
from junctor.providers.openai_wire import message_of, retry_after_s
from junctor.providers.upstream import Response, Upstream
from junctor.types import Request, Target

ERROR_BODY_BYTES = 64 * 1024

SECRET_SIGNS = ("auth", "key", "token", "secret", "cookie")

S = TypeVar("S", bound=Struct)


class UpstreamSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys that every such provider takes.

    connect_timeout_s  for the connection alone; read_timeout_s  longest silence while reading (None: the deadline alone)
    ignore             fields of the chat API that are left out where the upstream has no such thing, instead of refused
    """

    headers: Mapping[str, str] = {}
    connect_timeout_s: float = 5.0
    read_timeout_s: float | None = None
    ignore: frozenset[str] = frozenset()


def checked_settings(settings: dict[str, Any], kind: type[S], secrets: tuple[str, ...]) -> S:
    """A configuration table as its struct; raises ConfigError that names the key and shows no value."""
    try:
        found = msgspec.convert(settings, kind)
    except msgspec.ValidationError as error:
        # msgspec names keys and types; a value only where one of a few words is wanted, and that is cut here.
        message, _, where = str(error).partition(" - at `$.")
        if message.startswith("Invalid enum value"):
            message = "Is not one of the words that it may be"
        known = ", ".join(kind.__struct_fields__)
        raise ConfigError(message[0].lower() + message[1:], field=where.rstrip("`"), fix=f"known here: {known}") from None
    for name in ("connect_timeout_s", "read_timeout_s"):
        seconds = getattr(found, name)
        if seconds is not None and not 0 < seconds < float("inf"):
            raise ConfigError("is not a number of seconds above 0", field=name, fix="leave it out for the default")
    headers = found.headers  # type: ignore[attr-defined]
    for name, texts in (*((s, [getattr(found, s)]) for s in secrets), ("headers", [*headers, *headers.values()])):
        if any(not text.isprintable() or not text.isascii() for text in texts):
            raise ConfigError("holds a character that no header may", field=name, fix="use printable ASCII")
    return found


def secrets_in(headers: Mapping[str, str]) -> list[str]:
    """The values of those headers that carry secrets by their name, with and without a word before them ("Bearer …")."""
    found = [value for name, value in headers.items() if any(sign in name.lower() for sign in SECRET_SIGNS)]
    return [secret for value in found for secret in {value, *value.split()[-1:]}]


class Exchange(Struct, frozen=True):
    """One call: where it goes, what is sent, and how what comes back is read."""

    path: str
    body: bytes
    read: Callable[[bytes], Reply]
    reader: Callable[[], EventReader]
    headers: Mapping[str, str] | None = None


class Meaning(Struct, frozen=True):
    """An error answer: what its status really is, the API's name of the error, its words, seconds to wait where it says so."""

    status: int
    kind: str
    said: str
    wait_s: float | None = None


class TranslatedProvider(Provider):
    """Talks to an upstream of another API. Subclasses make `self.upstream`."""

    keeps_time: ClassVar[bool] = True
    upstream: Upstream
    stream_type: ClassVar[str] = "event-stream"

    @abstractmethod
    def exchange(self, request: Request, target: Target, *, stream: bool) -> Exchange:
        """How a call is written and read; raises RequestError with the path of a field that cannot be said."""

    def meaning(self, status: int, body: Any) -> Meaning:
        """What a decoded error body says."""
        error = body.get("error", body) if isinstance(body, dict) else None
        kind = error.get("type") or error.get("status") if isinstance(error, dict) else None
        return Meaning(status, kind if isinstance(kind, str) else "", message_of(error or {}))

    async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        """Ask for a whole answer. Raises UpstreamError, or RequestError for what the API cannot be told."""
        call = self.exchange(request, target, stream=False)
        return call.read(await self.fetch(call.path, call.body, target, timeout_s, call.headers))

    async def fetch(
        self, path: str, body: bytes, target: Target, timeout_s: float | None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Post, and the body of a good answer. Raises UpstreamError."""
        response = await self.upstream.post(path, body, timeout_s, target.id, headers)
        if response.status != 200:
            raise await self._refusal(response, target)
        return await response.read()

    async def stream(self, request: Request, target: Target, timeout_s: float | None) -> StreamReply:
        """Ask for a stream; returns once something has been said. Raises like `complete`."""
        call = self.exchange(request, target, stream=True)
        try:
            async with asyncio.timeout(timeout_s):
                response = await self.upstream.post(call.path, call.body, None, target.id, call.headers)
                reply = TranslatedStream(response, call.reader(), target)
                try:
                    if response.status != 200:
                        raise await self._refusal(response, target)
                    if self.stream_type not in response.header("content-type"):
                        raise UpstreamGarbage("answered a stream with something that is not one", target=target.id)
                    await reply.begin()
                except BaseException:
                    response.close()
                    raise
        except TimeoutError as error:
            raise UpstreamTimeout("silent for too long", target=target.id) from error
        return reply

    def redacted(self, said: str) -> str:
        """The upstream's own words without our secrets."""
        return self.upstream.redacted(said.encode("utf-8", "replace")).decode("utf-8", "replace")

    async def aclose(self) -> None:
        """Close all connections."""
        await self.upstream.aclose()

    async def _refusal(self, response: Response, target: Target) -> UpstreamError:
        """What an answer other than 200 means; its body is told in OpenAI's shape, without our secrets."""
        status = response.status
        if status < 400:
            response.close()
            return UpstreamGarbage(f"answered with status {status}", target=target.id, fix="check its base_url")
        raw = self.upstream.redacted(await _beginning(response))
        try:
            found = self.meaning(status, msgspec.json.decode(raw))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            found = Meaning(status, "", "")
        kind = found.kind or response.header("x-amzn-errortype").partition(":")[0]
        wait_s = retry_after_s(response.header("retry-after"))
        return status_error(found.status, kind, found.said, target.id, found.wait_s if wait_s is None else wait_s)


async def _beginning(response: Response) -> bytes:
    """The first bytes of a body; what is longer, or breaks off, is cut."""
    body = b""
    try:
        while len(body) < ERROR_BODY_BYTES and (more := await response.readany()):
            body += more
    except UpstreamError:
        pass
    response.close()
    return body[:ERROR_BODY_BYTES]


class TranslatedStream(StreamReply):
    """A stream on its way through its reader."""

    def __init__(self, response: Response, reader: EventReader, target: Target) -> None:
        self._response = response
        self._reader = reader
        self._target = target
        self._first = b""

    async def begin(self) -> None:
        """Wait for the first events. Raises UpstreamError."""
        while not self._first:
            self._first = await self._next()

    async def _next(self) -> bytes:
        if self._reader.failure is not None:
            raise self._reader.failure
        chunk = await self._response.readany()
        events = self._reader.feed(chunk) if chunk else self._reader.end()
        self.usage, self.finish_reason = self._reader.usage, self._reader.finish_reason
        return events

    async def pieces(self) -> AsyncIterator[bytes]:
        """Whole events as they arrived together; `[DONE]` comes alone."""
        events, self._first = self._first, b""
        try:
            while not self._reader.done:
                if events:
                    yield events
                events = await self._next()
        finally:
            if not self._reader.done:
                self._response.close()
        if events != answers.DONE:
            yield events.removesuffix(answers.DONE)
        yield answers.DONE
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
        if not self._response.complete:
            try:
                async with asyncio.timeout(0.1):
                    await self._response.readany()
            except (UpstreamError, TimeoutError):
                pass
            self._response.close()
