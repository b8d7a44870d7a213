"""Google's Gemini API: generateContent, and embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import quote

from junctor.providers import answers
from junctor.providers.base import Provider, Reply, Why
from junctor.providers.conversation import encoded
from junctor.providers.gemini_answers import GeneratedStream, read_embedded, read_generated
from junctor.providers.gemini_wire import CANNOT, Style, content_body, embedding_body
from junctor.providers.translated import Exchange, Meaning, TranslatedProvider, UpstreamSettings, checked_settings, secrets_in
from junctor.providers.upstream import Upstream
from junctor.types import Request, Target

_SECONDS = re.compile(r"\d+(\.\d+)?s")


class GeminiSettings(UpstreamSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[providers.NAME]` with `kind = "gemini"`. `api_key` arrives here resolved; it travels in a header, never in the URL.

    reasoning   see `junctor.providers.gemini_wire.Style`
    """

    base_url: str = "https://generativelanguage.googleapis.com/v1beta"
    api_key: str = ""
    reasoning: Literal["budget", "level"] = "budget"


class GeminiProvider(TranslatedProvider):
    """One upstream. `base_url` ends where `/models/NAME:generateContent` is appended."""

    name: ClassVar[str] = "gemini"
    cannot: ClassVar[Mapping[str, Why]] = CANNOT
    capabilities: ClassVar[frozenset[str] | None] = frozenset(
        {"stream", "tools", "vision", "files", "audio", "video", "json", "reasoning", "embeddings"}
    )

    def __init__(self, settings: GeminiSettings) -> None:
        headers = {"content-type": "application/json", **settings.headers}
        if settings.api_key:
            headers["x-goog-api-key"] = settings.api_key
        self.upstream = Upstream(
            settings.base_url,
            headers,
            connect_timeout_s=settings.connect_timeout_s,
            read_timeout_s=settings.read_timeout_s,
            secrets=(settings.api_key, *secrets_in(settings.headers)),
        )
        self.ignored = settings.ignore
        self.style = Style(reasoning=settings.reasoning, ignore=settings.ignore)

    def __repr__(self) -> str:
        return f"GeminiProvider({self.upstream.base_url!r})"

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Provider:
        """From a configuration table; raises ConfigError that names the key."""
        return cls(checked_settings(settings, GeminiSettings, ("api_key",)))

    def exchange(self, request: Request, target: Target, *, stream: bool) -> Exchange:
        """`POST …:generateContent`, or `:streamGenerateContent?alt=sse`."""
        model = target.upstream_model
        with_usage = answers.wants_usage(request)
        return Exchange(
            path=_path(model, "streamGenerateContent?alt=sse" if stream else "generateContent"),
            body=encoded(content_body(request, target, self.style)),
            read=lambda raw: read_generated(raw, target.id, model),
            reader=lambda: GeneratedStream(target.id, model, with_usage=with_usage, redacted=self.redacted),
        )

    async def embed(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        """`POST …:batchEmbedContents`. Usage is known only where the API states it."""
        body = encoded(embedding_body(request.params, target))
        raw = await self.fetch(_path(target.upstream_model, "batchEmbedContents"), body, target, timeout_s)
        as_base64 = request.params.get("encoding_format") == "base64"
        return read_embedded(raw, target.id, target.upstream_model, as_base64=as_base64)

    def meaning(self, status: int, body: Any) -> Meaning:
        """A wrong key is answered with 400 there; how long to wait stands in the details."""
        found = super().meaning(status, body)
        error = body.get("error") if isinstance(body, dict) else None
        details = error.get("details") if isinstance(error, dict) else None
        wait_s = None
        for detail in details if isinstance(details, list) else ():
            if not isinstance(detail, dict):
                continue
            if detail.get("reason") == "API_KEY_INVALID":
                status = 401
            delay = detail.get("retryDelay")
            if isinstance(delay, str) and _SECONDS.fullmatch(delay):
                wait_s = float(delay[:-1])
        return Meaning(status, found.kind, found.said, wait_s)


def _path(model: str, method: str) -> str:
    return f"/models/{quote(model, safe='')}:{method}"
