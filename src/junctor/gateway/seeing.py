"""Everything that lets people see into the gateway, put together: figures, traces, the dashboard.

`prepare` once before workers are started: they share a folder of figures and, where the configuration names no admin key, one
that is made for this run. `Seeing` once in every worker.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from junctor.config import Config, resolve_secrets
from junctor.errors import JunctorError
from junctor.gateway.access import Access, dashboard_link, is_loopback, new_key
from junctor.gateway.admin_keys import key_pages
from junctor.gateway.dashboard import dashboard_pages
from junctor.gateway.pages import Page
from junctor.service import Service
from junctor.telemetry.exporting import build_tracer, trace_engine
from junctor.telemetry.metrics import Metrics


@dataclass(frozen=True)
class Prepared:
    """What all workers of one gateway have in common. `folder` None: there is one worker. `key` "": nobody may look."""

    folder: Path | None
    key: str
    made: bool

    def remove(self) -> None:
        """The gateway has ended."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def prepare(config: Config) -> Prepared:
    """Before the workers start. Raises ConfigError for an admin key that refers to nothing."""
    gateway = config.gateway
    folder = Path(tempfile.mkdtemp(prefix="junctor-")) if gateway.workers > 1 else None
    if gateway.admin_key:
        return Prepared(folder, str(resolve_secrets(gateway.admin_key, "gateway.admin_key", config.folder)), made=False)
    local = gateway.dashboard and is_loopback(gateway.host)
    return Prepared(folder, new_key() if local else "", made=local)


class Seeing:
    """One worker's part. `attach` it to every service that takes calls; run `keep` beside the server."""

    def __init__(self, config: Config, prepared: Prepared, worker: int = 0) -> None:
        self.config = config
        self.prepared = prepared
        self.metrics = Metrics(prepared.folder, worker)
        self._service: Service | None = None
        self.metrics.watch(self._queue)
        self.tracer = build_tracer(config)

    def attach(self, service: Service, config: Config | None = None) -> Service:
        """See what this service does from now on; gives it back. `config` is what it was built from, when that has changed."""
        self.config = config or self.config
        self._service = service
        self.metrics.attach(service.engine)
        if self.tracer is not None:
            trace_engine(self.tracer, service.engine)
        return service

    def refused(self, error: JunctorError, id_: str) -> None:
        """A call was answered with an error; those that were decided have been counted already."""
        service = self._service
        if service is None or not service.engine.ledger.knows(id_):
            self.metrics.refused(error.code)

    def pages(self, service: Callable[[], Service]) -> dict[tuple[str, str], Page]:
        """The pages; `service` gives the one that takes calls now."""
        pages = dashboard_pages(self.config, service, self.metrics, self.prepared.key, current=lambda: self.config)
        if self.prepared.key:
            access = Access(self.prepared.key, self.config.gateway.host, self.config.telemetry.dashboard_hosts)
            pages |= key_pages(self.config, service, access)
        return pages

    def _queue(self) -> list[tuple[tuple[str, ...], float]]:
        queue = self._service.queue if self._service is not None else None
        return [] if queue is None else [(("waiting",), float(len(queue))), (("running",), float(queue.running))]

    def line(self, host: str, port: int) -> str:
        """For whoever started the gateway: where the dashboard is."""
        if not self.prepared.key or not self.config.gateway.dashboard:
            return ""
        return f"dashboard {dashboard_link(host, port, self.prepared.key if self.prepared.made else '')}"

    async def keep(self) -> None:
        """Keep figures and history until cancelled; then write the last ones."""
        things = [self.metrics.keep()] + ([self.tracer.keep()] if self.tracer is not None else [])
        try:
            await asyncio.gather(*things)
        finally:
            self.metrics.close()
