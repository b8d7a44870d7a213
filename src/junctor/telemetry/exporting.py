"""Spans on their way to a collector: OTLP over HTTP, as protocol buffers, to the address that the configuration names."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import junctor
from junctor.config import Config, resolve_secrets
from junctor.engine import Engine
from junctor.errors import ConfigError
from junctor.telemetry.otlp import Span, encode_request
from junctor.telemetry.traces import Tracer

TIMEOUT_S = 5.0
SYSTEMS = {
    "anthropic": "anthropic",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "openai": "openai",
    "azure": "azure.ai.openai",
}
"""Kinds of providers -> what the conventions call them."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A collector that points elsewhere is not followed: it was given a secret header, and elsewhere is not configured."""

    def redirect_request(self, *_: object) -> None:
        """Nowhere."""
        return


class HttpExporter:
    """Posts batches to `endpoint`. Raises ConfigError for an address that is none; `export` raises OSError."""

    def __init__(self, endpoint: str, headers: Mapping[str, str] | None = None, service: str = "junctor") -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                "is no address of a collector",
                field="telemetry.otlp_endpoint",
                fix="for example http://127.0.0.1:4318/v1/traces",
            )
        self.endpoint = endpoint
        self.headers = {"content-type": "application/x-protobuf", **(headers or {})}
        self.resource = {
            "service.name": service,
            "service.version": junctor.__version__,
            "service.instance.id": str(os.getpid()),
            "telemetry.sdk.name": "junctor",
            "telemetry.sdk.language": "python",
        }
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)

    def export(self, spans: Sequence[Span]) -> None:
        """Send them; raises OSError when they were not taken."""
        body = encode_request(spans, self.resource, "junctor", junctor.__version__)
        request = urllib.request.Request(self.endpoint, body, self.headers, method="POST")  # noqa: S310 - checked above
        with self._opener.open(request, timeout=TIMEOUT_S) as reply:
            reply.read()


def build_tracer(config: Config) -> Tracer | None:
    """The tracer that `[telemetry]` asks for; None without an endpoint. Raises ConfigError."""
    section = config.telemetry
    if not section.otlp_endpoint:
        return None
    headers = resolve_secrets(section.otlp_headers, "telemetry.otlp_headers", config.folder)
    systems = {name: SYSTEMS[provider.kind] for name, provider in config.providers.items() if provider.kind in SYSTEMS}
    exporter = HttpExporter(section.otlp_endpoint, headers, section.service_name)
    return Tracer(exporter, sample=section.sample, target=lambda id_: config.targets.get(id_), systems=systems)


def trace_engine(tracer: Tracer, engine: Engine) -> None:
    """Trace what this engine does from now on; its targets are the ones that spans speak of."""
    tracer.target = engine.catalogue.get
    engine.listen(tracer.ended)
