"""Azure OpenAI: the OpenAI API under a deployment's path, with a version and a header of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from junctor.errors import ConfigError
from junctor.providers.base import Provider
from junctor.providers.openai_compatible import OpenAICompatibleProvider
from junctor.providers.translated import UpstreamSettings, checked_settings, secrets_in
from junctor.providers.upstream import Upstream
from junctor.types import Target


class AzureSettings(UpstreamSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[providers.NAME]` with `kind = "azure"`. `api_key` arrives here resolved and is sent as the header `api-key`.

    base_url      the resource, for example https://NAME.openai.azure.com
    api_version   what stands in the query; "" for the newer API under /openai/v1, which needs none
    """

    base_url: str
    api_key: str = ""
    api_version: str = "2024-10-21"
    stream_usage: bool = True


class AzureProvider(OpenAICompatibleProvider):
    """One resource. A target's `model` is the name of a deployment there."""

    name: ClassVar[str] = "azure"

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        headers: Mapping[str, str] | None = None,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float | None = None,
        stream_usage: bool = True,
        api_version: str = "2024-10-21",
    ) -> None:
        super().__init__(base_url, stream_usage=stream_usage)
        sent = {"content-type": "application/json", **(headers or {})}
        if api_key:
            sent["api-key"] = api_key
        self.upstream = Upstream(
            base_url,
            sent,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            secrets=(api_key, *secrets_in(headers or {})),
        )
        self.api_version = api_version

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Provider:
        """From a configuration table; raises ConfigError that names the key."""
        found = checked_settings(settings, AzureSettings, ("api_key", "api_version"))
        if found.ignore:
            raise ConfigError("is of no use here", field="ignore", fix="leave it out: fields are passed on as they are")
        return cls(
            base_url=found.base_url,
            api_key=found.api_key,
            headers=found.headers,
            connect_timeout_s=found.connect_timeout_s,
            read_timeout_s=found.read_timeout_s,
            stream_usage=found.stream_usage,
            api_version=found.api_version,
        )

    def place(self, path: str, target: Target) -> str:
        """`/openai/deployments/NAME/…?api-version=…`, or `/openai/v1/…`."""
        if not self.api_version:
            return f"/openai/v1{path}"
        deployment = quote(target.upstream_model, safe="")
        return f"/openai/deployments/{deployment}{path}?api-version={quote(self.api_version, safe='')}"
