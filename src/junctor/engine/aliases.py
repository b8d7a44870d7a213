"""A model name that stands for a policy, and the exact names that stand for themselves."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from junctor.encoders.base import Encoder
from junctor.engine.filters import Filter
from junctor.errors import ConfigError, UnknownModel
from junctor.policy import Policy
from junctor.providers.base import Provider
from junctor.types import Catalogue, Target

KNOWN_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """`name` -> a policy over some targets.

    encoder   must be there when the policy needs "embedding"
    default   the target that is called when the encoder takes too long; the first of `targets` when empty
    """

    name: str
    policy: Policy
    targets: Catalogue
    encoder: Encoder | None = None
    default: str = ""

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


@dataclass(frozen=True, slots=True)
class Names:
    """Everything that a request's `model` may say: aliases with their filters, and targets that are passed straight to."""

    aliases: Mapping[str, Alias]
    alias_filters: Mapping[str, Filter] = field(default_factory=dict)
    direct: Mapping[str, Filter] = field(default_factory=dict)

    @classmethod
    def of(cls, catalogue: Catalogue, providers: Mapping[str, Provider], aliases: Mapping[str, Alias]) -> Names:
        """Check that every name leads somewhere; raises ConfigError."""
        for target in catalogue:
            if target.provider not in providers:
                known = ", ".join(providers) or "none"
                raise ConfigError(
                    f"names the provider {target.provider!r}, which is not there",
                    field=f"targets.{target.id}.provider",
                    fix=f"there are: {known}",
                )
        for name, alias in aliases.items():
            if catalogue.position(name) is not None:
                raise ConfigError("is also the id of a target", field=f"aliases.{name}", fix="give the alias another name")
            for id_ in alias.targets.ids:
                if catalogue.position(id_) is None:
                    raise ConfigError(f"names {id_!r}, which is not a target", field=f"aliases.{name}", fix="add the target")
        can = {target.id: capabilities(target, providers[target.provider]) for target in catalogue}
        return cls(
            aliases,
            {name: Filter(alias.targets, can) for name, alias in aliases.items()},
            {target.id: Filter(Catalogue([target]), can) for target in catalogue},
        )

    def unknown(self, model: str) -> UnknownModel:
        """The error for a name that nothing answers to."""
        known = [*self.aliases, *self.direct]
        near = difflib.get_close_matches(model, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        shown = ", ".join(known[:KNOWN_SHOWN]) + (f" and {len(known) - KNOWN_SHOWN} more" if len(known) > KNOWN_SHOWN else "")
        short = model if len(model) <= 80 else model[:77] + "…"
        return UnknownModel(f"no model is called {short!r}", field="model", fix=f"{hint}known: {shown}")


def capabilities(target: Target, provider: Provider) -> frozenset[str] | None:
    """What a target can do: its own list, else what its provider says of all of them, else None: not known, let it try."""
    return target.capabilities or provider.capabilities
