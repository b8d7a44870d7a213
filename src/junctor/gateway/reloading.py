"""The configuration file is read again while the gateway runs: checked first, taken over only when everything in it works.

Calls under way end with the service that they began with. A file that cannot be used changes nothing: one line says why.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from junctor.config import Config, load_config
from junctor.errors import JunctorError
from junctor.gateway.app import Gateway
from junctor.gateway.http import Exchange
from junctor.gateway.pages import Page
from junctor.gateway.replies import JSON_TYPE
from junctor.service import Service
from junctor.tenancy.contracts import Principal

log = logging.getLogger("junctor.gateway")
Build = Callable[[Config, Service], Service]
LONGEST_S = 86_400.0
FIXED = ("host", "port", "workers", "admin_key", "keys")
"""Settings of [gateway] that only a restart changes."""


class Reloader:
    """Watches one file. `build(config, old)` makes the next service; it runs in a thread, so that nobody waits for it."""

    def __init__(self, gateway: Gateway, path: Path, config: Config, build: Build) -> None:
        self.gateway = gateway
        self.path = path
        self.config = config
        self._build = build
        self._seen = _signature(path)
        self._retired: list[tuple[Service, asyncio.Task[None]]] = []
        self._busy = asyncio.Lock()

    async def watch(self, every_s: float) -> None:
        """Look at the file again and again; a mistake in it is logged once per change."""
        while True:
            await asyncio.sleep(every_s)
            if _signature(self.path) != self._seen:
                await self.try_reload()

    async def try_reload(self) -> bool:
        """Reload, and log how it went; False when the old configuration stays."""
        try:
            await self.reload()
        except JunctorError as error:
            log.error("the configuration stays as it was: %s", error)
            return False
        return True

    async def reload(self) -> None:
        """Read, check, build, exchange; raises ConfigError or ArtefactError and changes nothing then."""
        async with self._busy:
            self._seen = _signature(self.path)
            config = await asyncio.to_thread(load_config, self.path)
            old = self.gateway.service
            fresh = await asyncio.to_thread(self._build, config, old)
            for name in FIXED:
                if getattr(config.gateway, name) != getattr(self.config.gateway, name):
                    log.warning("gateway.%s has changed, but takes a restart", name)
            self.config = config
            journal = fresh.engine.ledger.journal
            if journal is not None:
                journal.batch(asyncio.get_running_loop().call_soon)
            self.gateway.serve(fresh)
            log.warning("the configuration was read again: %d targets, %d aliases", len(config.targets), len(config.aliases))
            if fresh.tenancy is not None:
                fresh.tenancy.audit("gateway", "config.reloaded", self.path.name, process=os.getpid())
            self._retire(old)

    def _retire(self, old: Service) -> None:
        """Close a service when the longest call that it can still have is over."""
        task = asyncio.create_task(_close_later(old))
        self._retired.append((old, task))
        task.add_done_callback(lambda _: self._retired.remove((old, task)))

    async def aclose(self) -> None:
        """Close those that wait."""
        for old, task in list(self._retired):
            task.cancel()
            await old.aclose()

    def pages(self) -> dict[tuple[str, str], Page]:
        """`POST /admin/reload`."""
        return {("POST", "/admin/reload"): Page(self._reload_now, admin=True)}

    async def _reload_now(self, exchange: Exchange, principal: Principal) -> None:
        del principal
        await self.reload()
        known = {"targets": list(self.config.targets), "aliases": list(self.config.aliases)}
        exchange.reply(200, (JSON_TYPE,), msgspec.json.encode(known))


async def _close_later(service: Service) -> None:
    """Callers may have asked for more time than is usual, also those who waited in line until now."""
    began = time.monotonic()
    while (left := began + min(service.engine.longest_deadline_s, LONGEST_S) - time.monotonic()) > 0:  # noqa: ASYNC110 - a time, no event
        await asyncio.sleep(left)
    await service.aclose()


def _signature(path: Path) -> tuple[int, int, int]:
    """Changes when the file does, also when it is exchanged for another."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
