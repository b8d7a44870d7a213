"""Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from junctor.errors import ConfigError
from junctor.providers import answers
from junctor.providers.anthropic_answers import MessageStream, read_message
from junctor.providers.anthropic_wire import CANNOT, Style, message_body
from junctor.providers.base import Provider, Why
from junctor.providers.conversation import encoded, uses_json_tool
from junctor.providers.translated import Exchange, TranslatedProvider, UpstreamSettings, checked_settings, secrets_in
from junctor.providers.upstream import Upstream
from junctor.types import Request, Target


class AnthropicSettings(UpstreamSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[providers.NAME]` with `kind = "anthropic"`. `api_key` arrives here resolved.

    version      the `anthropic-version` that is asked for; beta  names for the header `anthropic-beta`
    max_tokens, structured, reasoning   see `junctor.providers.anthropic_wire.Style`
    """

    base_url: str = "https://api.anthropic.com"
    api_key: str = ""
    version: str = "2023-06-01"
    beta: tuple[str, ...] = ()
    max_tokens: int = 4096
    structured: Literal["native", "tool"] = "native"
    reasoning: Literal["budget", "adaptive"] = "budget"


class AnthropicProvider(TranslatedProvider):
    """One upstream. `base_url` ends where `/v1/messages` is appended."""

    name: ClassVar[str] = "anthropic"
    cannot: ClassVar[Mapping[str, Why]] = CANNOT
    capabilities: ClassVar[frozenset[str] | None] = frozenset({"stream", "tools", "vision", "files", "json", "reasoning"})

    def __init__(self, settings: AnthropicSettings) -> None:
        headers = {"content-type": "application/json", **settings.headers, "anthropic-version": settings.version}
        if settings.api_key:
            headers["x-api-key"] = settings.api_key
        if settings.beta:
            headers["anthropic-beta"] = ",".join(settings.beta)
        self.upstream = Upstream(
            settings.base_url,
            headers,
            connect_timeout_s=settings.connect_timeout_s,
            read_timeout_s=settings.read_timeout_s,
            secrets=(settings.api_key, *secrets_in(settings.headers)),
        )
        self.ignored = settings.ignore
        self.style = Style(
            max_tokens=settings.max_tokens,
            structured=settings.structured,
            reasoning=settings.reasoning,
            ignore=settings.ignore,
        )

    def __repr__(self) -> str:
        return f"AnthropicProvider({self.upstream.base_url!r})"

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Provider:
        """From a configuration table; raises ConfigError that names the key."""
        found = checked_settings(settings, AnthropicSettings, ("api_key", "version"))
        if found.max_tokens < 1:
            raise ConfigError("is not above 0", field="max_tokens", fix="leave it out for 4096")
        return cls(found)

    def exchange(self, request: Request, target: Target, *, stream: bool) -> Exchange:
        """`POST /v1/messages`."""
        params = {**request.params, **target.settings}
        json_tool = uses_json_tool(params, self.style.structured)
        with_usage = answers.wants_usage(request)
        return Exchange(
            path="/v1/messages",
            body=encoded(message_body(request, target, self.style, stream=stream)),
            read=lambda raw: read_message(raw, target.id, json_tool=json_tool),
            reader=lambda: MessageStream(target.id, with_usage=with_usage, json_tool=json_tool, redacted=self.redacted),
        )
