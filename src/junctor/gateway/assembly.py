"""From a checked configuration to a gateway with all its pages, ready to be served by one process."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from junctor.build import build_service
from junctor.config import Config
from junctor.gateway.access import Neighbours
from junctor.gateway.app import Gateway
from junctor.gateway.reloading import Reloader
from junctor.gateway.seeing import Prepared, Seeing, prepare
from junctor.gateway.wires.response_store import build_store
from junctor.service import Service

Alongside = Callable[[], Coroutine[Any, Any, Any]]


@dataclass
class Assembled:
    """A gateway, what runs beside it while it serves, and what a SIGHUP sets off."""

    gateway: Gateway
    alongside: list[Alongside] = field(default_factory=list)
    on_hangup: Alongside | None = None
    said: list[Callable[[str, int], str]] = field(default_factory=list)

    def lines(self, host: str, port: int) -> list[str]:
        """What is worth telling whoever started it."""
        return [line for say in self.said if (line := say(host, port))]


def assemble(config: Config, path: Path | None = None, worker: int = 0, prepared: Prepared | None = None) -> Assembled:
    """Build the service and its pages. `path` is the file to watch, `worker` this process's number. Raises ConfigError.

    `prepared` is what the workers of one gateway share; made here where there is but one.
    """
    seeing = Seeing(config, prepared or prepare(config), worker)

    def build(config: Config, old: Service | None = None) -> Service:
        return seeing.attach(build_service(config, old), config)

    gateway = Gateway(build(config), responses=build_store(config))
    gateway.neighbours = Neighbours(config.telemetry.dashboard_hosts).check
    gateway.on_refusal = seeing.refused
    gateway.on_call = None if seeing.tracer is None else seeing.tracer.begin
    for (method, where), page in seeing.pages(lambda: gateway.service).items():
        gateway.pages.add(method, where, page)
    assembled = Assembled(gateway, alongside=[seeing.keep], said=[seeing.line])
    if path is not None:
        reloader = Reloader(gateway, path, config, build)
        for (method, where), page in reloader.pages().items():
            gateway.pages.add(method, where, page)
        if config.gateway.watch_s > 0:
            assembled.alongside.append(partial(reloader.watch, config.gateway.watch_s))
        assembled.on_hangup = reloader.try_reload
    return assembled
