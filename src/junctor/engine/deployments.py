"""Where targets are called: one site for most, several for a target with deployments, and the rule that picks one of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from junctor.engine.balancing import Balancer, Load, balancer
from junctor.engine.breaker import Vital
from junctor.engine.health import Health
from junctor.errors import ConfigError
from junctor.providers.base import Provider
from junctor.types import Catalogue, Deployment, Request, Target

MOST_SITES = 3
REVIEW_CALLS = 64
IDEMPOTENT = "idempotent"
ACTING_KINDS = frozenset({"tool", "agent"})


class Place(Struct, frozen=True, kw_only=True):
    """Where a target can be called.

    target    as the provider is to see it: with the name of the model there
    can       what can be done there; None: not known, let it try
    """

    target: Target
    provider: Provider
    can: frozenset[str] | None
    deployment: str = ""
    weight: float = 1.0

    @classmethod
    def of(cls, target: Target, provider: Provider, deployment: Deployment | None = None) -> Place:
        """The place of a target without deployments, or that of one of them."""
        seen = target
        if deployment is not None:
            seen = msgspec.structs.replace(
                target, provider=deployment.provider, model=deployment.model or target.upstream_model, deployments=()
            )
        if IDEMPOTENT in target.settings and target.kind in ACTING_KINDS:
            sent = {key: value for key, value in target.settings.items() if key != IDEMPOTENT}
            seen = msgspec.structs.replace(seen, settings=sent)
        if deployment is None:
            return cls(target=seen, provider=provider, can=capabilities(target, provider))
        can = _both(target.capabilities, provider.capabilities)
        return cls(target=seen, provider=provider, can=can, deployment=deployment.id, weight=deployment.weight)


class Site(Load):
    """A place with its load and health: `target`, `provider`, `can` and `deployment` are the place's."""

    __slots__ = ("can", "deployment", "provider", "target")

    def __init__(self, place: Place, vital: Vital) -> None:
        super().__init__(place.deployment or place.target.id, place.weight, vital)
        self.target = place.target
        self.provider = place.provider
        self.can = place.can
        self.deployment = place.deployment


class Pool:
    """A target and its sites.

    only      the one site of a target without deployments, else None
    acts      a second call might do a second time what the first one did: a tool or an agent that is not said to be idempotent
    """

    __slots__ = ("_balancer", "_calls", "_health", "_odd", "_weighty", "acts", "only", "sites", "target")

    def __init__(self, target: Target, sites: Sequence[Site], rule: Balancer, health: Health) -> None:
        self.target = target
        self.sites = tuple(sites)
        self.only = self.sites[0] if len(self.sites) == 1 else None
        self.acts = target.kind in ACTING_KINDS and target.settings.get(IDEMPOTENT) is not True
        self._weighty = tuple(site for site in self.sites if site.weight > 0) or self.sites[:1]
        self._odd = odd_fields(self.sites)
        self._balancer = rule
        self._health = health
        self._calls = 0

    def pick(self, request: Request, tried: Sequence[Site] = (), *, ill: bool = False) -> Site | None:
        """A site that was not tried yet and can do what is needed; with `ill` also one that is to be left alone. None: none."""
        health = self._health
        if self.only is not None:
            if tried or not (ill or not health or health.ready(self.only.vital)):
                return None
            return self.only
        self._calls += 1
        if self._calls >= REVIEW_CALLS:
            self._calls = 0
            health.review([site.vital for site in self.sites])
        plain = self._odd.isdisjoint(request.params)
        if plain and not (tried or request.needs or health):  # the usual case: all of them may be picked
            return self._balanced(self._weighty, request) if len(self._weighty) > 1 else self._weighty[0]
        able = self._able(request, tried, plain=plain)
        if health and not ill:
            able = [site for site in able if health.ready(site.vital)]
        if len(able) > 1:
            weighty = [site for site in able if site.weight > 0]
            if len(weighty) > 1:
                return self._balanced(weighty, request)
            able = weighty or able
        return able[0] if able else None

    def _able(self, request: Request, tried: Sequence[Site], *, plain: bool) -> list[Site]:
        """Those that can do what is needed and, unless the request is `plain`, be told all of it."""
        needs = request.needs
        able = [site for site in self.sites if site not in tried and (site.can is None or needs <= site.can)]
        return able if plain else [site for site in able if not site.provider.untold(request, site.target)]

    def _balanced(self, sites: Sequence[Site], request: Request) -> Site:
        """As the rule says, but a session goes back to the site that it came from."""
        if request.near:
            for site in sites:
                if site.id == request.near:
                    return site
        picked: Site = self._balancer.pick(sites, request)
        return picked

    def most(self) -> int:
        """How many sites one request may try."""
        return 1 if self.only is not None else min(len(self.sites), MOST_SITES)

    def waits(self, request: Request, tried: Sequence[Site]) -> bool:
        """Whether another site could be asked beside those that were tried."""
        able = self._able(request, tried, plain=self._odd.isdisjoint(request.params))
        return any(self._health.ready(site.vital) for site in able)


def capabilities(target: Target, provider: Provider) -> frozenset[str] | None:
    """What a target can do: its own list, else what its provider says of all of them, else None: not known, let it try."""
    return target.capabilities or provider.capabilities


def odd_fields(places: Iterable[Place | Site]) -> frozenset[str]:
    """The fields that some of these may have no word for: a request with one of them has to be looked at."""
    return frozenset(name for place in places for name in place.provider.cannot)


def places(target: Target, providers: Mapping[str, Provider]) -> tuple[Place, ...]:
    """Where a target can be called; raises ConfigError for a provider that is not there."""
    path = f"targets.{target.id}"
    if not target.deployments:
        return (Place.of(target, _provider(target.provider, providers, f"{path}.provider")),)
    where = f"{path}.deployments"
    return tuple(Place.of(target, _provider(one.provider, providers, where), one) for one in target.deployments)


def _both(one: frozenset[str], other: frozenset[str] | None) -> frozenset[str] | None:
    """What a deployment can do: its target's list and its provider's, where they have one."""
    if other is None:
        return one or None
    return one & other if one else other


def pools_of(
    catalogue: Catalogue,
    providers: Mapping[str, Provider],
    health: Health,
    chance: Callable[[], float] = random.random,
) -> dict[str, Pool]:
    """The sites of every target; raises ConfigError for a provider or a rule that is not there."""
    pools = {target.id: _pool(target, providers, health, chance) for target in catalogue}
    health.only((site.vital.target, site.vital.deployment) for pool in pools.values() for site in pool.sites)
    return pools


def _pool(target: Target, providers: Mapping[str, Provider], health: Health, chance: Callable[[], float]) -> Pool:
    path = f"targets.{target.id}"
    rule = balancer(target.balance, chance, health.clock, field=f"{path}.balance")
    sites = [Site(place, health.vital(target.id, place.deployment)) for place in places(target, providers)]
    return Pool(target, sites, rule, health)


def _provider(name: str, providers: Mapping[str, Provider], path: str) -> Provider:
    found = providers.get(name)
    if found is None:
        known = ", ".join(providers) or "none"
        raise ConfigError(f"names the provider {name!r}, which is not there", field=path, fix=f"there are: {known}")
    return found
