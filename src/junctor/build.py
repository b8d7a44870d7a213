"""From a checked configuration to a running engine: providers, policies and aliases made, secrets resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from junctor import registry
from junctor.artefact import load_policy
from junctor.config import Config, resolve_secrets, without_secrets
from junctor.encoders import load_encoder
from junctor.encoders.base import Encoder
from junctor.engine import Alias, Engine
from junctor.errors import ConfigError, UserError
from junctor.features import Features
from junctor.fitting import policy_config
from junctor.guards.building import build_chain
from junctor.journal import Journal
from junctor.outcomes import OutcomeTable
from junctor.policy import Policy
from junctor.providers.base import Provider
from junctor.sections import AliasSection, PolicySection
from junctor.service import Service
from junctor.service.queueing import Queue
from junctor.types import Catalogue


@dataclass(frozen=True, slots=True)
class Chooser:
    """A policy that is ready to decide, the encoder it needs, and the targets it was fitted on (None: any)."""

    policy: Policy
    encoder: Encoder | None
    knows: tuple[str, ...] | None


def build_service(config: Config, old: Service | None = None) -> Service:
    """The engine and all that stands around it; raises like `build_engine`.

    `old` is the service that this one takes over from, when a configuration is read again: the journal goes on.
    """
    engine = build_engine(config, journal=_same_journal(config, old))
    gateway = config.gateway
    queue = Queue(gateway.max_concurrent, gateway.max_waiting) if gateway.max_concurrent else None
    chains = {name: build_chain(config, alias.guards) for name, alias in config.aliases.items() if alias.guards}
    return Service(engine, chains=chains, queue=queue)


def _same_journal(config: Config, old: Service | None) -> Journal | None:
    journal = None if old is None else old.engine.ledger.journal
    section = config.journal
    if journal is None or not section.path or journal.path != config.path(section.path):
        return None
    return journal.share() if (journal.fsync, journal.text) == (section.fsync, section.text) else None


def build_engine(config: Config, *, dry_run: bool = False, journal: Journal | None = None) -> Engine:
    """Make everything that the configuration names; raises ConfigError or ArtefactError that says which part is wrong.

    A dry run decides and calls nobody: it keeps no journal and needs no secrets. `journal`: one that is open already.
    """
    catalogue = Catalogue(list(config.targets.values()))
    choosers = {name: _chooser(config, name, section, catalogue) for name, section in config.policies.items()}
    aliases = {name: _alias(name, section, choosers[section.policy], catalogue) for name, section in config.aliases.items()}
    providers = {name: _provider(config, name, dry_run=dry_run) for name in config.providers}
    if journal is None and config.journal.path and not dry_run:
        journal = Journal(config.path(config.journal.path), fsync=config.journal.fsync, text=config.journal.text)
    return Engine(
        catalogue, providers, aliases, journal, seed=config.gateway.seed, default_deadline_s=config.gateway.deadline_s
    )


def _provider(config: Config, name: str, *, dry_run: bool) -> Provider:
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


def _chooser(config: Config, name: str, section: PolicySection, catalogue: Catalogue) -> Chooser:
    if section.artefact:
        return _from_artefact(config, name, section.artefact)
    return _from_settings(f"policies.{name}", section.use, section.settings, catalogue)


def _from_artefact(config: Config, name: str, folder: str) -> Chooser:
    artefact = load_policy(config.path(folder))
    encoder = load_encoder(artefact.encoder) if artefact.encoder else None
    if encoder is not None and artefact.encoder_digest and encoder.digest != artefact.encoder_digest:
        raise ConfigError(
            f"was fitted with another version of the encoder {artefact.encoder!r}",
            field=f"policies.{name}.artefact",
            fix="fit it again: junctor fit",
        )
    return Chooser(artefact.policy, encoder, artefact.targets.ids)


def _from_settings(path: str, use: str, settings: Mapping[str, Any], catalogue: Catalogue) -> Chooser:
    """A policy that learns nothing: it is fitted on a table without rows."""
    nothing = OutcomeTable(texts=[], targets=catalogue, quality=np.empty((0, len(catalogue))))
    try:
        made = policy_config(use, dict(settings))
        if "embedding" in made.needs:
            raise ConfigError("learns from outcomes", field="use", fix="fit it (junctor fit) and name its folder: artefact = …")
        policy = made.fit(nothing, Features([]), np.random.default_rng(0))
    except UserError as error:
        raise ConfigError(error.message, field=f"{path}.{error.field}" if error.field else path, fix=error.fix) from error
    return Chooser(policy, None, None)


def _alias(name: str, section: AliasSection, chooser: Chooser, catalogue: Catalogue) -> Alias:
    wanted = section.targets or catalogue.ids
    known = [id_ for id_ in wanted if chooser.knows is None or id_ in chooser.knows]
    if not known:
        raise ConfigError(
            "none of its targets is known to its policy",
            field=f"aliases.{name}",
            fix=f"the policy was fitted on: {', '.join(chooser.knows or ())}",
        )
    return Alias(
        name=name, policy=chooser.policy, targets=catalogue.only(known), encoder=chooser.encoder, default=section.default
    )
