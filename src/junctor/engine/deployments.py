"""Where targets are called: one site for most, several for a target with deployments, and the rule that picks one of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import msgspec

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


class Site(Load):
    """One place where a target is called.

    target    as the provider is to see it: with the name of the model there
    can       what can be done there; None: not known, let it try
    """

    __slots__ = ("can", "deployment", "provider", "target")

    def __init__(self, target: Target, provider: Provider, vital: Vital, deployment: Deployment | None = None) -> None:
        super().__init__(target.id if deployment is None else deployment.id, 1.0, vital)
        self.provider = provider
        self.can = capabilities(target, provider)
        self.deployment = ""
        if deployment is not None:
            self.weight = deployment.weight
            self.deployment = deployment.id
            self.can = _both(target.capabilities, provider.capabilities)
            target = msgspec.structs.replace(
                target, provider=deployment.provider, model=deployment.model or target.upstream_model, deployments=()
            )
        if IDEMPOTENT in target.settings and target.kind in ACTING_KINDS:
            sent = {key: value for key, value in target.settings.items() if key != IDEMPOTENT}
            target = msgspec.structs.replace(target, settings=sent)
        self.target = target


class Pool:
    """A target and its sites.

    only      the one site of a target without deployments, else None
    acts      a second call might do a second time what the first one did: a tool or an agent that is not said to be idempotent
    """

    __slots__ = ("_balancer", "_calls", "_health", "_weighty", "acts", "only", "sites", "target")

    def __init__(self, target: Target, sites: Sequence[Site], rule: Balancer, health: Health) -> None:
        self.target = target
        self.sites = tuple(sites)
        self.only = self.sites[0] if len(self.sites) == 1 else None
        self.acts = target.kind in ACTING_KINDS and target.settings.get(IDEMPOTENT) is not True
        self._weighty = tuple(site for site in self.sites if site.weight > 0) or self.sites[:1]
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
        needs = request.needs
        if not (tried or needs or health):  # the usual case: all of them may be picked
            return self._balanced(self._weighty, request) if len(self._weighty) > 1 else self._weighty[0]
        able = [site for site in self.sites if site not in tried and (site.can is None or needs <= site.can)]
        if health and not ill:
            able = [site for site in able if health.ready(site.vital)]
        if len(able) > 1:
            weighty = [site for site in able if site.weight > 0]
            if len(weighty) > 1:
                return self._balanced(weighty, request)
            able = weighty or able
        return able[0] if able else None

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
        """Whether another site could be asked after those that were tried."""
        if len(tried) >= self.most():
            return False
        return any(
            site not in tried and (site.can is None or request.needs <= site.can) and self._health.ready(site.vital)
            for site in self.sites
        )


def capabilities(target: Target, provider: Provider) -> frozenset[str] | None:
    """What a target can do: its own list, else what its provider says of all of them, else None: not known, let it try."""
    return target.capabilities or provider.capabilities


def ways(target: Target, providers: Mapping[str, Provider]) -> tuple[frozenset[str] | None, ...]:
    """What can be done at each place of a target; None: not known. Raises ConfigError for a provider that is not there."""
    path = f"targets.{target.id}"
    if not target.deployments:
        return (capabilities(target, _provider(target.provider, providers, f"{path}.provider")),)
    makers = [_provider(deployment.provider, providers, f"{path}.deployments") for deployment in target.deployments]
    return tuple(dict.fromkeys(_both(target.capabilities, maker.capabilities) for maker in makers))


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
    if not target.deployments:
        provider = _provider(target.provider, providers, f"{path}.provider")
        return Pool(target, [Site(target, provider, health.vital(target.id))], rule, health)
    sites = []
    for deployment in target.deployments:
        provider = _provider(deployment.provider, providers, f"{path}.deployments")
        sites.append(Site(target, provider, health.vital(target.id, deployment.id), deployment))
    return Pool(target, sites, rule, health)


def _provider(name: str, providers: Mapping[str, Provider], path: str) -> Provider:
    found = providers.get(name)
    if found is None:
        known = ", ".join(providers) or "none"
        raise ConfigError(f"names the provider {name!r}, which is not there", field=path, fix=f"there are: {known}")
    return found
