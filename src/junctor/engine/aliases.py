"""A model name that stands for a policy, and the exact names that stand for themselves."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from junctor.encoders.base import Encoder
from junctor.engine.deployments import places
from junctor.engine.facts import Facts
from junctor.engine.filters import Filter
from junctor.engine.learning import Learning
from junctor.engine.sessions import Sessions
from junctor.engine.trials import Trials
from junctor.errors import ConfigError, UnknownModel
from junctor.features import Features
from junctor.policy import Policy
from junctor.providers.base import Provider
from junctor.sections import HedgeSection
from junctor.types import Catalogue, Request

KNOWN_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """`name` -> a policy over some targets.

    encoder   must be there when the policy needs "embedding"
    default   the target that is called when the encoder takes too long; the first of `targets` when empty
    hedge     when a second target is asked beside a slow one; None: never
    trials    candidates beside the policy; `sides` holds what each one decides with, by the name of the trial
    sessions  which conversations are served by whom, for a sticky alias; its policy is a `Sticky` one then
    learning  what makes the next version of its policy beside the traffic; None: a Learner learns where it serves
    facts     labels that only the gateway may give, and its policy reads
    """

    name: str
    policy: Policy
    targets: Catalogue
    encoder: Encoder | None = None
    default: str = ""
    hedge: HedgeSection | None = None
    trials: Trials | None = None
    sides: Mapping[str, Alias] = field(default_factory=dict)
    sessions: Sessions | None = None
    learning: Learning | None = None
    facts: Facts | None = None

    def __post_init__(self) -> None:
        path = f"aliases.{self.name}"
        if not len(self.targets):
            raise ConfigError("has no targets", field=path, fix="name at least one")
        if "embedding" in self.policy.needs and self.encoder is None:
            raise ConfigError(f"its policy {self.policy.title} needs an encoder", field=path, fix="configure one")
        if self.default and self.targets.position(self.default) is None:
            raise ConfigError(f"its default {self.default!r} is not one of its targets", field=path, fix="name one of them")

    @property
    def fallback_target(self) -> str:
        """What is called when there was no time to decide."""
        return self.default or self.targets.ids[0]

    @property
    def with_sides(self) -> tuple[Alias, ...]:
        """Itself, then what its trials decide with."""
        return (self, *self.sides.values())


def wants_encoding(alias: Alias, request: Request) -> bool:
    """Whether the policy reads an embedding that is not there yet."""
    return alias.encoder is not None and request.features is None and "embedding" in alias.policy.needs


def featured(alias: Alias, request: Request) -> Request:
    """The request with what the policy reads of it."""
    if alias.encoder is None or not wants_encoding(alias, request):
        return request
    return encoded(alias.encoder, request)


def encoded(encoder: Encoder, request: Request) -> Request:
    """The request with its embedding and its labels."""
    vector = encoder.encode_one(request.text)
    labels = {name: [value] for name, value in request.labels.items()}
    return msgspec.structs.replace(request, features=Features([request.text], vector[None, :], labels))


@dataclass(frozen=True, slots=True)
class Names:
    """Everything that a request's `model` may say: aliases with their filters, and targets that are passed straight to."""

    aliases: Mapping[str, Alias]
    alias_filters: Mapping[str, Filter] = field(default_factory=dict)
    direct: Mapping[str, Filter] = field(default_factory=dict)

    @classmethod
    def of(cls, catalogue: Catalogue, providers: Mapping[str, Provider], aliases: Mapping[str, Alias]) -> Names:
        """Check that every name leads somewhere; raises ConfigError."""
        everyone = [side for alias in aliases.values() for side in alias.with_sides]
        where = {target.id: places(target, providers) for target in catalogue}
        for name, alias in aliases.items():
            if catalogue.position(name) is not None:
                raise ConfigError("is also the id of a target", field=f"aliases.{name}", fix="give the alias another name")
            for id_ in alias.targets.ids:
                if catalogue.position(id_) is None:
                    raise ConfigError(f"names {id_!r}, which is not a target", field=f"aliases.{name}", fix="add the target")
        return cls(
            aliases,
            {side.name: Filter.over(side.targets, where) for side in everyone},
            {target.id: Filter.over(Catalogue([target]), where) for target in catalogue},
        )

    def unknown(self, model: str) -> UnknownModel:
        """The error for a name that nothing answers to."""
        known = [*self.aliases, *self.direct]
        near = difflib.get_close_matches(model, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        shown = ", ".join(known[:KNOWN_SHOWN]) + (f" and {len(known) - KNOWN_SHOWN} more" if len(known) > KNOWN_SHOWN else "")
        short = model if len(model) <= 80 else model[:77] + "…"
        return UnknownModel(f"no model is called {short!r}", field="model", fix=f"{hint}known: {shown}")
