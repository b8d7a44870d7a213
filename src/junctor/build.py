"""From a checked configuration to a running engine: providers, policies and aliases made, secrets resolved."""

from __future__ import annotations

from typing import Any

from junctor import registry
from junctor.caching.building import build_caches
from junctor.config import Config, resolve_secrets, without_secrets
from junctor.engine import Engine, Health
from junctor.engine.choosers import build_aliases
from junctor.engine.retrying import Retries
from junctor.errors import ConfigError
from junctor.guards.building import build_chain
from junctor.guards.detecting import DETECTORS
from junctor.journal import Journal
from junctor.providers.base import Provider
from junctor.sections import GatewaySection
from junctor.service import Service
from junctor.service.queueing import Queue
from junctor.tenancy.building import build_tenancy
from junctor.types import Catalogue


def build_service(config: Config, old: Service | None = None) -> Service:
    """The engine and all that stands around it; raises like `build_engine`.

    `old` is the service that this one takes over from, when a configuration is read again: the journal goes on.
    """
    engine = build_engine(config, journal=_same_journal(config, old), old=None if old is None else old.engine)
    chains = {name: build_chain(config, alias.guards) for name, alias in config.aliases.items() if alias.guards}
    return Service(
        engine, tenancy=build_tenancy(config), chains=chains, caches=build_caches(config), queue=_queue(config.gateway, old)
    )


def _queue(section: GatewaySection, old: Service | None) -> Queue | None:
    """The queue of the service before goes on under the new bounds: its calls are counted here as well."""
    for name in ("max_concurrent", "max_waiting"):
        if getattr(section, name) < 0:
            raise ConfigError("is negative", field=f"gateway.{name}", fix="use 0 or more")
    if not section.max_concurrent:
        return None
    if old is None or old.queue is None:
        return Queue(section.max_concurrent, section.max_waiting)
    old.queue.resize(section.max_concurrent, section.max_waiting)
    return old.queue


def _same_journal(config: Config, old: Service | None) -> Journal | None:
    journal = None if old is None else old.engine.ledger.journal
    section = config.journal
    if journal is None or not section.path or journal.path != config.path(section.path):
        return None
    return journal.share() if (journal.fsync, journal.text) == (section.fsync, section.text) else None


def build_engine(config: Config, *, dry_run: bool = False, journal: Journal | None = None, old: Engine | None = None) -> Engine:
    """Make everything that the configuration names; raises ConfigError or ArtefactError that says which part is wrong.

    A dry run decides and calls nobody: it keeps no journal and needs no secrets. `journal`: one that is open already.
    `old`: the engine whose place this one takes; what it knows of the health of targets is kept.
    """
    catalogue = Catalogue(list(config.targets.values()))
    aliases = build_aliases(config, catalogue, DETECTORS, None if old is None else old.aliases)
    providers = {name: build_provider(config, name, dry_run=dry_run) for name in config.providers}
    if journal is None and config.journal.path and not dry_run:
        journal = Journal(config.path(config.journal.path), fsync=config.journal.fsync, text=config.journal.text)
    return Engine(
        catalogue,
        providers,
        aliases,
        journal,
        seed=config.gateway.seed,
        default_deadline_s=config.gateway.deadline_s,
        health=Health.of(config.health, old=None if old is None else old.health),
        retries=Retries.of(config.retries),
    )


def build_provider(config: Config, name: str, *, dry_run: bool = False) -> Provider:
    """The provider of one table, its secrets resolved. Raises ConfigError with the dotted path of what is wrong."""
    section = config.providers[name]
    path = f"providers.{name}"
    known = without_secrets(section.settings) if dry_run else resolve_secrets(section.settings, path, config.folder)
    settings: dict[str, Any] = dict(known)
    make: type[Provider] = registry.load("provider", section.kind)
    settings |= {key: str(config.path(settings[key])) for key in make.paths if isinstance(settings.get(key), str)}
    try:
        return make.from_settings(settings)
    except ConfigError as error:
        raise ConfigError(error.message, field=f"{path}.{error.field}" if error.field else path, fix=error.fix) from error
