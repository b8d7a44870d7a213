"""Amazon Bedrock's Converse API. Requests are signed here; the secret is never sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import quote, urlsplit

from junctor.errors import ConfigError
from junctor.providers import answers
from junctor.providers.aws_signing import Credentials, Signer
from junctor.providers.base import Provider, Why
from junctor.providers.bedrock_answers import ConverseStream, read_converse
from junctor.providers.bedrock_wire import CANNOT, Style, converse_body
from junctor.providers.conversation import encoded, uses_json_tool
from junctor.providers.translated import Exchange, Meaning, TranslatedProvider, UpstreamSettings, checked_settings, secrets_in
from junctor.providers.upstream import Upstream
from junctor.types import Request, Target

SECRETS = ("access_key_id", "secret_access_key", "session_token", "api_key")
MODEL_ERROR = 424


class BedrockSettings(UpstreamSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[providers.NAME]` with `kind = "bedrock"`. Credentials arrive here resolved.

    region       names the address and goes into the signature; base_url  another address (a private endpoint)
    access_key_id, secret_access_key, session_token   of a key pair; or api_key, a Bedrock API key, sent as a bearer token
    structured, reasoning   see `junctor.providers.bedrock_wire.Style`
    """

    region: str
    base_url: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = ""
    api_key: str = ""
    structured: Literal["native", "tool"] = "native"
    reasoning: Literal["budget", "effort", "field"] = "budget"


class BedrockProvider(TranslatedProvider):
    """One region's Bedrock. A target's `model` is a model id, an inference profile or an ARN."""

    name: ClassVar[str] = "bedrock"
    cannot: ClassVar[Mapping[str, Why]] = CANNOT
    stream_type: ClassVar[str] = "vnd.amazon.eventstream"
    capabilities: ClassVar[frozenset[str] | None] = frozenset(
        {"stream", "tools", "vision", "files", "audio", "video", "json", "reasoning"}
    )

    def __init__(self, settings: BedrockSettings) -> None:
        headers = {"content-type": "application/json", **settings.headers}
        if settings.api_key:
            headers["authorization"] = f"Bearer {settings.api_key}"
        self.upstream = Upstream(
            settings.base_url or f"https://bedrock-runtime.{settings.region}.amazonaws.com",
            headers,
            connect_timeout_s=settings.connect_timeout_s,
            read_timeout_s=settings.read_timeout_s,
            secrets=[*(getattr(settings, name) for name in SECRETS), *secrets_in(settings.headers)],
        )
        self.ignored = settings.ignore
        self.style = Style(structured=settings.structured, reasoning=settings.reasoning, ignore=settings.ignore)
        pair = Credentials(settings.access_key_id, settings.secret_access_key, settings.session_token)
        self._signer = Signer(pair, settings.region, "bedrock") if settings.access_key_id else None
        parts = urlsplit(self.upstream.base_url)
        default = parts.port in (None, 443 if parts.scheme == "https" else 80)
        self._host = parts.netloc.rpartition(":")[0] if default and parts.port else parts.netloc
        self._prefix = parts.path

    def __repr__(self) -> str:
        return f"BedrockProvider({self.upstream.base_url!r})"

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Provider:
        """From a configuration table; raises ConfigError that names the key."""
        found = checked_settings(settings, BedrockSettings, SECRETS)
        if not found.region.replace("-", "").isalnum() or not found.region.isascii():
            raise ConfigError("is not the name of a region", field="region", fix='for example "eu-central-1"')
        pair = {"access_key_id": found.access_key_id, "secret_access_key": found.secret_access_key}
        missing = [name for name, value in pair.items() if not value]
        if len(missing) == 1:
            raise ConfigError("is missing", field=missing[0], fix="access_key_id and secret_access_key go together")
        if found.api_key and not missing:
            raise ConfigError("is there beside a key pair", field="api_key", fix="keep one of them")
        return cls(found)

    def exchange(self, request: Request, target: Target, *, stream: bool) -> Exchange:
        """`POST /model/NAME/converse`, or `/converse-stream`."""
        model = target.upstream_model
        json_tool = uses_json_tool({**request.params, **target.settings}, self.style.structured)
        path = f"/model/{quote(model, safe='-_.~')}/{'converse-stream' if stream else 'converse'}"
        body = encoded(converse_body(request, target, self.style))
        with_usage = answers.wants_usage(request)
        return Exchange(
            path=path,
            body=body,
            read=lambda raw: read_converse(raw, target.id, model, json_tool=json_tool),
            reader=lambda: ConverseStream(target.id, model, with_usage=with_usage, json_tool=json_tool, redacted=self.redacted),
            headers=self._signed(path, body),
        )

    def _signed(self, path: str, body: bytes) -> dict[str, str] | None:
        if self._signer is None:
            return None
        return self._signer.headers("POST", self._prefix + path, {"host": self._host}, body)

    def meaning(self, status: int, body: Any) -> Meaning:
        """A model that failed (424) is an upstream's fault, not the caller's."""
        found = super().meaning(status, body)
        return Meaning(502 if status == MODEL_ERROR else status, found.kind, found.said)
