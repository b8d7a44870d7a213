"""From the tables [policies] and [aliases] of a configuration to what decides: policies loaded, wrapped, checked.

Whatever does not load or does not fit is an error that says which table is wrong. Nothing is ever replaced by a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from junctor.artefact import load_policy
from junctor.config import Config
from junctor.encoders import load_encoder
from junctor.encoders.base import Encoder
from junctor.engine.aliases import Alias, encoded
from junctor.engine.engine import is_quick
from junctor.engine.facts import Detector, facts_for
from junctor.engine.learning import Learning, Store
from junctor.engine.sessions import Sessions
from junctor.engine.sticky import Sticky
from junctor.engine.trials import Trials
from junctor.engine.wrapped import innermost
from junctor.errors import ConfigError, UserError
from junctor.features import Features
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.policy import Learner, Policy
from junctor.sections import AliasSection, LearnSection, PolicySection
from junctor.types import Catalogue, Target


@dataclass(frozen=True, slots=True)
class Chooser:
    """A policy that is ready to decide, the encoder it needs, and the targets it was fitted on (None: any)."""

    policy: Policy
    encoder: Encoder | None
    knows: tuple[str, ...] | None


def build_aliases(
    config: Config,
    catalogue: Catalogue,
    detectors: Mapping[str, Detector] | None = None,
    old: Mapping[str, Alias] | None = None,
) -> dict[str, Alias]:
    """All aliases; raises ConfigError or ArtefactError for the first that cannot be had.

    `detectors`: label name -> what works it out (junctor.engine.facts), for policies that read such labels. `old`: the aliases
    of the engine whose place this one takes: sessions, and what was learned since the same fit, go on.
    """
    before = old or {}
    choosers = {name: _chooser(config, name, section, catalogue) for name, section in config.policies.items()}
    for name, section in config.aliases.items():
        choosers[section.policy] = _experienced(choosers[section.policy], before.get(name))
    aliases = {
        name: _alias(config, name, section, choosers, catalogue, before.get(name)) for name, section in config.aliases.items()
    }
    return {name: _informed(alias, detectors or {}, f"aliases.{name}") for name, alias in aliases.items()}


def _experienced(chooser: Chooser, old: Alias | None) -> Chooser:
    """With the learner that served before, when it goes back to the same fit."""
    known = None if old is None or old.learning is not None else innermost(old.policy)
    fresh = chooser.policy
    if not isinstance(known, Learner) or type(known) is not type(fresh) or not fresh.version:
        return chooser
    return replace(chooser, policy=known) if known.version == fresh.version else chooser


def _informed(alias: Alias, detectors: Mapping[str, Detector], path: str) -> Alias:
    """With the labels that only the gateway may give, where the policy reads them."""
    sides = {name: _informed(side, detectors, f"{path}.trials") for name, side in alias.sides.items()}
    facts = facts_for(alias.policy.label_names, detectors, path)
    return alias if facts is None and not sides else replace(alias, facts=facts, sides=sides)


def _chooser(config: Config, name: str, section: PolicySection, catalogue: Catalogue) -> Chooser:
    if section.artefact:
        return _from_artefact(config, name, section.artefact)
    return _from_settings(f"policies.{name}", section.use, section.settings, catalogue)


def _from_artefact(config: Config, name: str, folder: str) -> Chooser:
    artefact = load_policy(config.path(folder))
    try:
        encoder = load_encoder(artefact.encoder) if artefact.encoder else None
    except UserError as error:
        raise ConfigError(
            f"needs the encoder {artefact.encoder!r}: {error.message}", field=f"policies.{name}.artefact", fix=error.fix
        ) from error
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


def _alias(
    config: Config,
    name: str,
    section: AliasSection,
    choosers: Mapping[str, Chooser],
    catalogue: Catalogue,
    old: Alias | None = None,
) -> Alias:
    path = f"aliases.{name}"
    chooser = choosers[section.policy]
    targets = _targets(section, chooser, catalogue, path)
    learning = None if section.learn is None else _learning(config, name, section.learn, chooser, targets, old)
    sessions = None if section.sticky is None else _sessions(section, path)
    if sessions is not None and old is not None and old.sessions is not None:
        sessions.inherit(old.sessions)
    sides = {
        trial.name: Alias(
            name=f"{name}~{trial.name}",
            policy=_wrapped(choosers[trial.policy], sessions if trial.share else None, config),
            targets=_targets(section, choosers[trial.policy], catalogue, f"{path}.trials[{place}].policy"),
            encoder=choosers[trial.policy].encoder,
            default=section.default,
            sessions=sessions if trial.share else None,
        )
        for place, trial in enumerate(section.trials)
    }
    return Alias(
        name=name,
        policy=_wrapped(chooser if learning is None else replace(chooser, policy=learning), sessions, config),
        targets=targets,
        encoder=chooser.encoder,
        default=section.default,
        hedge=section.hedge,
        trials=Trials(name, section.trials, sessions) if section.trials else None,
        sides=sides,
        sessions=sessions,
        learning=learning,
    )


def _wrapped(chooser: Chooser, sessions: Sessions | None, config: Config) -> Policy:
    """Sticky, where there are sessions; what other workers serve can be guessed where that is quick and always the same."""
    policy, encoder = chooser.policy, chooser.encoder
    if sessions is None:
        return policy
    if config.gateway.workers < 2 or isinstance(policy, Learner) or (encoder is not None and not is_quick(encoder)):
        return Sticky(policy, sessions)
    return Sticky(policy, sessions, (lambda request: request) if encoder is None else partial(encoded, encoder))


def _learning(
    config: Config, name: str, section: LearnSection, chooser: Chooser, targets: Catalogue, old: Alias | None
) -> Learning:
    beside = config.path(config.journal.path).parent if config.journal.path else config.folder
    folder = config.path(section.folder) if section.folder else beside / "policies" / name
    encoder = chooser.encoder
    known = targets if chooser.knows is None else Catalogue.of([targets.get(id_) or Target(id=id_) for id_ in chooser.knows])
    store = Store(
        folder,
        known,
        encoder="" if encoder is None else encoder.name,
        digest="" if encoder is None else encoder.digest,
        keep=section.keep,
    )
    if old is not None and old.learning is not None and old.learning.same(chooser.policy, section, store):
        return old.learning
    return Learning(chooser.policy, section, store, path=f"aliases.{name}.learn")


def _sessions(section: AliasSection, path: str) -> Sessions:
    sticky = section.sticky
    assert sticky is not None
    for name, least in (("ttl_s", 1e-9), ("margin", 0.0), ("most", 1)):
        if not least <= getattr(sticky, name) < float("inf"):
            raise ConfigError("is too small", field=f"{path}.sticky.{name}", fix="leave it out for the default")
    if not sticky.by:
        raise ConfigError("is empty", field=f"{path}.sticky.by", fix='for example "conversation"')
    return Sessions(sticky)


def _targets(section: AliasSection, chooser: Chooser, catalogue: Catalogue, path: str) -> Catalogue:
    """The targets that a policy may use here: those that are named, else all that it knows. A named one is never dropped."""
    if chooser.knows is None:
        return catalogue.only(section.targets) if section.targets else catalogue
    known = ", ".join(chooser.knows)
    strange = [id_ for id_ in section.targets if id_ not in chooser.knows]
    if strange:
        raise ConfigError(
            f"names {strange[0]!r}, which its policy was not fitted on", field=path, fix=f"leave it out; it knows: {known}"
        )
    found = catalogue.only(section.targets or chooser.knows)
    if not len(found):
        raise ConfigError("none of its targets is known to its policy", field=path, fix=f"the policy was fitted on: {known}")
    return found
