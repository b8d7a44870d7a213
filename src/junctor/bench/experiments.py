"""The experiments by name, lazily: one that is not there yet, or lacks an extra, is reported and never stops the others."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from junctor import registry
from junctor.bench.experiment import Experiment
from junctor.errors import JunctorError, UnknownName
from junctor.fitting import config_with
from junctor.outcomes.files import near

EXPERIMENTS: dict[str, str] = {
    "standard": "junctor.bench.standard:Standard",
    "ood": "junctor.bench.unseen:OutOfDistribution",
    "onboarding": "junctor.bench.onboarding:Onboarding",
    "ood+onboarding": "junctor.bench.onboarding:BothAtOnce",
    "guarded": "junctor.bench.guarded:Guarded",
    "bandit": "junctor.bench.online:Bandit",
    "off-policy": "junctor.bench.off_policy:OffPolicy",
    "stream": "junctor.bench.stream:Stream",
}

LEFT_OUT = {"utility": "it is the trade over an estimator: it takes part under each estimator's name"}
"""Registered policies that would only say again what others say."""


def experiment(name: str) -> Experiment:
    """The experiment of this name; raises UnknownName when there is none, or when its module cannot be loaded."""
    if name not in EXPERIMENTS:
        raise UnknownName("no experiment is called so", field=f"experiments: {name}", fix=near(name, list(EXPERIMENTS)))
    return _made(name)


@cache
def _made(name: str) -> Experiment:
    module, _, attribute = EXPERIMENTS[name].partition(":")
    try:
        made: Experiment = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise UnknownName(f"cannot be loaded: {error}", field=f"experiments: {name}", fix="leave it out") from error
    return made


@dataclass(frozen=True, slots=True)
class Participants:
    """Who can be fitted without a setting, what each reads, and why the others are left out."""

    needs: dict[str, frozenset[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@cache
def participants() -> Participants:
    """Every registered estimator and policy, plug-ins' too."""
    found = Participants()
    names = [entry.name for kind in ("estimator", "policy") for entry in registry.entries(kind)]
    for name in dict.fromkeys(names):
        if name in LEFT_OUT:
            found.left_out[name] = LEFT_OUT[name]
            continue
        try:
            found.needs[name] = config_with(name, "static").needs
        except (JunctorError, TypeError) as error:
            found.left_out[name] = f"it needs a setting or a package: {error}"
    return found


def able(reads: Sequence[str]) -> tuple[str, ...]:
    """The participants that need nothing but what is named."""
    given = frozenset(reads)
    return tuple(name for name, needs in participants().needs.items() if needs <= given)
