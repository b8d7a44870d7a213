"""The tables of the configuration file: what may be written under each heading, with its default.

One struct per table; `junctor.config` reads and checks them, `junctor.build` makes the parts. Times are seconds, money is US
dollars.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, field

from junctor.journal import Fsync, TextMode
from junctor.types import Deployment, Limits, Price


class GatewaySection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[gateway]`: where to listen, how much to take in, how long to wait, who may call.

    workers         processes that share the port
    max_concurrent  calls that run at the same time in one worker (0: any number); max_waiting more may wait for their turn
    keys            "required": every call carries a key made by `junctor keys`; "off" only on this machine's own address
    admin_key       reference to the key that opens the dashboard and the admin pages
    watch_s         seconds between looks at this file; a change is checked, then taken over without a restart (0: never)
    """

    host: str = "127.0.0.1"
    port: int = 8080
    max_body_bytes: int = 8 * 1024 * 1024
    deadline_s: float = 60.0
    seed: int = 0
    workers: int = 1
    max_concurrent: int = 0
    max_waiting: int = 1024
    keys: Literal["off", "required"] = "off"
    admin_key: str = ""
    dashboard: bool = True
    watch_s: float = 1.0


class JournalSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[journal]`: an empty path keeps no journal."""

    path: str = "junctor.journal"
    fsync: Fsync = "interval"
    text: TextMode = "full"


class ProviderSection(Struct, frozen=True, kw_only=True):
    """`[providers.NAME]`: `settings` are the provider's own keys, still holding references to secrets."""

    kind: str
    settings: Mapping[str, Any]


class TargetSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[targets."ID"]`: see `junctor.types.Target`."""

    provider: str = ""
    kind: str = "model"
    description: str = ""
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    price: Price | None = None
    limits: Limits = Limits()
    capabilities: frozenset[str] = frozenset()
    deployments: tuple[Deployment, ...] = ()
    balance: str = "weighted"


class PolicySection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[policies.NAME]`: exactly one of `artefact` and `use`; `settings` go with `use`."""

    artefact: str = ""
    use: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


class StickySection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[aliases.NAME.sticky]`: keep a conversation with the target that has its prompt in its cache.

    by       what names a session: "conversation" (the first turns), or a header or metadata key
    ttl_s    how long an upstream keeps a prompt in its cache
    """

    by: str = "conversation"
    ttl_s: float = 300.0


class HedgeSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[aliases.NAME.hedge]`: ask a second target when the first has not begun to answer after `after_s`.

    most     share of requests that may be hedged, so that a slow upstream does not double the bill
    """

    after_s: float
    most: float = 0.05


class TrialSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[aliases.NAME.trials]]`: another policy beside the alias's own.

    share    of the traffic that it decides: 0 is a shadow (it decides, nobody acts), more a canary or an A/B test
    by       what is kept together on one side: "request", "tenant", "key" or "session"
    """

    name: str
    policy: str
    share: float = 0.0
    by: str = "request"


class LearnSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[aliases.NAME.learn]`: a learner is updated beside the traffic, and takes over only what proves itself.

    every_s     seconds between updates
    at_least    outcomes with a quality that an update needs
    """

    every_s: float = 60.0
    at_least: int = 50


class StateSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[state]`: where keys, budgets and limits live.

    url         "sqlite:FILE", or a reference to (or, without a password, a literal) redis:// or postgresql:// address
    on_failure  when the store does not answer: "refuse" calls (503), or "allow" them within what this worker knows
    """

    url: str = "sqlite:junctor.db"
    on_failure: Literal["refuse", "allow"] = "refuse"


class TeamSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[teams.NAME]`: what the keys of a team share. None: no limit.

    budget_usd per `period`; at `soft_budget_usd` a warning header and an audit entry; models: aliases and targets it may use
    """

    budget_usd: float | None = None
    soft_budget_usd: float | None = None
    period: Literal["day", "week", "month", "total"] = "month"
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    models: tuple[str, ...] = ()
    priority: int = 1


class GuardSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[guards.NAME]`: a registered guard and its settings."""

    use: str
    settings: Mapping[str, Any] = field(default_factory=dict)


class CacheSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[caches.NAME]`: replies that are given again. `threshold` is the least cosine of a semantic hit."""

    kind: Literal["exact", "semantic"] = "exact"
    ttl_s: float = 3600.0
    entries: int = 10_000
    megabytes: float = 64.0
    threshold: float = 0.95
    coalesce: bool = True


class RetrySection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[retries]`: further tries of the same target when no other is left; full jitter, Retry-After is obeyed."""

    most: int = 1
    base_s: float = 0.1
    cap_s: float = 5.0


class HealthSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[health]`: when a target or deployment is left alone, and for how long."""

    failures: int = 3
    base_s: float = 1.0
    cap_s: float = 60.0


class TelemetrySection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[telemetry]`: traces and figures.

    otlp_endpoint     where traces go (needs the extra `otel`); empty: nowhere
    sample            share of requests that are traced
    usd_per_cpu_hour  what the gateway's own processor time costs: counted against savings
    """

    otlp_endpoint: str = ""
    sample: float = 1.0
    service_name: str = "junctor"
    usd_per_cpu_hour: float = 0.05


class AliasSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[aliases.NAME]`: the policy; which targets it may use (empty: all); what to call when the encoder takes too long.

    guards, cache   names of tables [guards.NAME], in the order in which they look, and [caches.NAME]
    sticky, hedge, trials, learn   see their own structs
    """

    policy: str
    targets: tuple[str, ...] = ()
    default: str = ""
    guards: tuple[str, ...] = ()
    cache: str = ""
    sticky: StickySection | None = None
    hedge: HedgeSection | None = None
    trials: tuple[TrialSection, ...] = ()
    learn: LearnSection | None = None
