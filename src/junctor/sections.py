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

    A session that the caller names (x-junctor-session, metadata.junctor_session) goes before `by`.
    by       what names a session otherwise: "conversation" (the system prompt and the first user turn), or the name of a
             metadata key or of a text field of the call, such as "user" or "prompt_cache_key"
    ttl_s    how long an upstream keeps a prompt in its cache
    margin   points of predicted utility by which another target must be better, beside what the switch costs
    most     sessions that are remembered in one worker
    """

    by: str = "conversation"
    ttl_s: float = 300.0
    margin: float = 0.0
    most: int = 10_000


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
    at_least    outcomes with a quality that an update needs, and that a new version is judged by once it serves
    hold_out    share of the outcomes that a new version is judged by before it has learned from them
    tolerance   points of utility that a new version may be worse by, at the lower end of the interval, and still take over
    folder      where versions are saved; empty: `policies/NAME` beside the journal
    keep        versions that stay on disk
    """

    every_s: float = 60.0
    at_least: int = 50
    hold_out: float = 0.25
    tolerance: float = 0.02
    folder: str = ""
    keep: int = 10


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
    """`[caches.NAME]`: replies that are given again, by each worker from its own memory.

    ttl_s, entries, megabytes   how long a reply is given, and how many and how much of them is kept
    threshold                   the least cosine of a semantic hit; None: what was chosen from data (docs/gateway/cache.md)
    agreement                   what must agree word by word in a semantic hit: all "words" but light ones, or only "facts"
                                (numbers, names, quotes, negations): more hits, and more false ones
    coalesce                    identical requests at the same time share one call
    most_temperature            requests that name a higher temperature ask for variety and are left alone
    """

    kind: Literal["exact", "semantic"] = "exact"
    ttl_s: float = 3600.0
    entries: int = 10_000
    megabytes: float = 64.0
    threshold: float | None = None
    agreement: Literal["words", "facts"] = "words"
    coalesce: bool = True
    most_temperature: float = 0.0


class RetrySection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[retries]`: further tries when every target of the plan has failed; full jitter, Retry-After is obeyed.

    most           further tries of one request
    base_s, cap_s  the pause before the n-th is drawn from 0 to base_s x 2^(n-1), at most cap_s
    """

    most: int = 1
    base_s: float = 0.1
    cap_s: float = 5.0


class HealthSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[health]`: when a target or deployment is left alone, and for how long.

    failures        in a row open its circuit breaker for base_s seconds, doubling with each further one up to cap_s
    outlier_calls   calls after which a deployment is compared with its siblings, and sent off for base_s seconds when
    outlier_errors  its share of errors is over theirs by this much, or
    outlier_times   its latency over theirs by this factor
    """

    failures: int = 3
    base_s: float = 1.0
    cap_s: float = 60.0
    outlier_calls: int = 20
    outlier_errors: float = 0.3
    outlier_times: float = 4.0


class ResponsesSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[responses]`: answers of the Responses API that can be gone on with (`previous_response_id`).

    keep       "file": all workers of this machine share them; "memory": each worker its own; "off";
               "auto": "file" where the journal keeps texts too, else "memory"
    path       the file; empty: beside the [state] file, with the ending .responses.db
    ttl_s      seconds until they are forgotten; entries and megabytes: how much is kept at most, the newest first
    """

    keep: Literal["auto", "file", "memory", "off"] = "auto"
    path: str = ""
    ttl_s: float = 604_800.0
    entries: int = 10_000
    megabytes: float = 64.0


class TelemetrySection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[telemetry]`: traces and figures.

    otlp_endpoint     where traces go, by OTLP over HTTP: http://HOST:4318/v1/traces; empty: nowhere
    otlp_headers      further headers for it; their values are references to secrets
    sample            share of requests that are traced, where the caller has not decided that already
    usd_per_cpu_hour  what the gateway's own processor time costs: counted against savings
    open_metrics      /metrics needs no key, even where other machines can ask for it
    dashboard_hosts   further names under which the dashboard may be opened, for example a proxy's
    """

    otlp_endpoint: str = ""
    otlp_headers: Mapping[str, str] = field(default_factory=dict)
    sample: float = 1.0
    service_name: str = "junctor"
    usd_per_cpu_hour: float = 0.05
    open_metrics: bool = False
    dashboard_hosts: tuple[str, ...] = ()


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
