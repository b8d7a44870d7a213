"""The nouns: what arrives, who can take it, what was decided, what came of it.

All are frozen msgspec structs: they cost about a tenth of a frozen dataclass to make and encode straight to JSON, and a
gateway makes several per request. Those that hold no mapping can be in no cycle, so the garbage collector need not look at them
(`gc=False`): a gateway remembers thousands. Units are in the names: `_usd`, `_s`, `_j`. `None` means "not known", never zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, field

from junctor.errors import UserError

if TYPE_CHECKING:
    from junctor.features import Features

TARGET_KINDS = ("model", "agent", "tool", "skill", "memory", "retriever", "pipeline", "expert")


class Price(Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """List price: USD per million tokens in and out, plus USD per call.

    Tokens read from the upstream's prompt cache, written to it, and spent on reasoning may have prices of their own; None: they
    cost what other input, input and output cost.
    """

    input_usd_per_mtok: float = 0.0
    output_usd_per_mtok: float = 0.0
    usd_per_call: float = 0.0
    cached_input_usd_per_mtok: float | None = None
    cache_write_usd_per_mtok: float | None = None
    reasoning_usd_per_mtok: float | None = None

    def cost_usd(
        self, input_tokens: float, output_tokens: float, *, cached: float = 0.0, written: float = 0.0, reasoning: float = 0.0
    ) -> float:
        """Cost of one call in USD. `cached` and `written` are parts of `input_tokens`, `reasoning` of `output_tokens`."""
        tokens = input_tokens * self.input_usd_per_mtok + output_tokens * self.output_usd_per_mtok
        if cached and self.cached_input_usd_per_mtok is not None:
            tokens += min(cached, input_tokens) * (self.cached_input_usd_per_mtok - self.input_usd_per_mtok)
        if written and self.cache_write_usd_per_mtok is not None:
            tokens += min(written, input_tokens) * (self.cache_write_usd_per_mtok - self.input_usd_per_mtok)
        if reasoning and self.reasoning_usd_per_mtok is not None:
            tokens += min(reasoning, output_tokens) * (self.reasoning_usd_per_mtok - self.output_usd_per_mtok)
        return tokens / 1e6 + self.usd_per_call


class Limits(Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """What a target can hold: tokens in its context, tokens in one answer, seconds for one call.

    `silence_s`: seconds that a stream may be silent once it has begun; None: until the request's deadline.
    """

    context_tokens: int | None = None
    output_tokens: int | None = None
    timeout_s: float | None = None
    silence_s: float | None = None


class Deployment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place where a target can be called: a provider, the name of the model there, and a share of the work.

    A policy chooses among targets; which of a target's deployments takes a call is a matter of load and health, not of quality.
    """

    id: str
    provider: str
    model: str = ""
    weight: float = 1.0


class Target(Struct, frozen=True, kw_only=True, dict=True):
    """Anything that can take the work.

    A model *with* a reasoning budget, an output length or a prompt strategy is a target of its own: `model` names what is
    called upstream and `settings` what is sent along, so that two targets of one model differ in `settings` only. By
    convention such an id reads `model@setting`. `deployments` are the places where it can be called, when there are several;
    `balance` names the rule that picks one.
    """

    id: str
    kind: str = "model"
    description: str = ""
    provider: str = ""
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    price: Price | None = None
    limits: Limits = Limits()
    capabilities: frozenset[str] = frozenset()
    deployments: tuple[Deployment, ...] = ()
    balance: str = "weighted"

    @property
    def upstream_model(self) -> str:
        """The name that is sent upstream: `model`, or the id up to an `@`."""
        return self.model or self.id.partition("@")[0]


class Catalogue(Sequence[Target]):
    """The targets that this principal may see now: ordered, without duplicates, immutable.

    Policies keep per-catalogue lookups keyed on the object's identity, so make one and pass it many times.
    """

    __slots__ = ("__weakref__", "_index", "_targets", "ids")

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = tuple(targets)
        self.ids: tuple[str, ...] = tuple(target.id for target in self._targets)
        self._index = {id_: i for i, id_ in enumerate(self.ids)}
        if len(self._index) != len(self.ids):
            twice = sorted({id_ for id_ in self.ids if self.ids.count(id_) > 1})
            raise UserError("a target id is used twice", field=", ".join(twice), fix="give each target its own id")

    @classmethod
    def of(cls, targets: Catalogue | Sequence[Target | str]) -> Catalogue:
        """From targets or bare ids; a Catalogue is returned as it is."""
        if isinstance(targets, Catalogue):
            return targets
        return cls([Target(id=t) if isinstance(t, str) else t for t in targets])

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, key: Any) -> Any:
        return self._targets[key]

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets)

    def __repr__(self) -> str:
        return f"Catalogue({list(self.ids)})"

    def position(self, id_: str) -> int | None:
        """The place of a target, or None when it is not in here."""
        return self._index.get(id_)

    def get(self, id_: str) -> Target | None:
        """The target of this id, or None."""
        place = self._index.get(id_)
        return None if place is None else self._targets[place]

    def only(self, ids: Sequence[str]) -> Catalogue:
        """The sub-catalogue of these ids, in the catalogue's own order; unknown ids are ignored."""
        wanted = set(ids)
        return Catalogue([t for t in self._targets if t.id in wanted])


class Constraints(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the caller demands: most USD for the whole request, most seconds, least predicted quality in [0, 1].

    `cost_weight` goes before a policy's own: quality given up for the mean cost of its dearest single target; 0: none.
    """

    budget_usd: float | None = None
    deadline_s: float | None = None
    quality_floor: float | None = None
    cost_weight: float | None = None


NO_CONSTRAINTS = Constraints()
"""Nothing is demanded: one object, so that it is known by identity and left out of what is written."""


class Message(Struct, frozen=True):
    """One turn. `content` is text, or the content parts as they came."""

    role: str
    content: Any = None


class Switch(Struct, frozen=True, gc=False):
    """What any target but this one costs beside its own price, in USD: the prompt that is in this one's cache is read anew."""

    target: str
    cost_usd: float


class Request(Struct, frozen=True, kw_only=True, dict=True):
    """What arrives.

    `text` is what encoders read (the last user turn, by default). `needs` holds the capabilities that the request cannot do
    without ("tools", "vision", "stream", …). `params` carries every wire field that we do not interpret, untouched.
    `features` is filled in by the engine when the policy declares that it needs them. `session` is what the caller says that
    the request belongs to ("" when it does not). `switch` is filled in by the engine: what it costs to leave the target that
    served the session so far; `near`: the deployment that did, where there are several. `api` names the API that it came by
    where that is another than the chat API, whose form `params` has: then it may hold what that API says beyond it.
    """

    id: str = ""
    text: str = ""
    messages: tuple[Message, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    tenant: str = ""
    constraints: Constraints = NO_CONSTRAINTS
    params: Mapping[str, Any] = field(default_factory=dict)
    features: Features | None = None
    session: str = ""
    switch: Switch | None = None
    near: str = ""
    api: str = ""


class Outcome(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What came of a call, or is predicted to: quality in [0, 1], USD, seconds, joules, tokens. None = not known."""

    quality: float | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    energy_j: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None


class Ranked(Struct, frozen=True, gc=False, kw_only=True):
    """One row of a decision: a target, the score that it was ranked by, and what was predicted of it."""

    target: str
    score: float
    predicted: Outcome = Outcome()


class Call(Struct, frozen=True, gc=False, tag="call"):
    """Plan: one call of one target."""

    target: str


class Fallback(Struct, frozen=True, gc=False, tag="fallback"):
    """Plan: the first of these that answers; the next only after a retryable failure before the first byte."""

    plans: tuple[Plan, ...]


class Cascade(Struct, frozen=True, tag="cascade"):
    """Plan: one after the other, until the accept rule of this registered name says yes; the last one needs no yes."""

    plans: tuple[Plan, ...]
    accept: str
    settings: Mapping[str, Any] = field(default_factory=dict)


class Panel(Struct, frozen=True, tag="panel"):
    """Plan: all of these at the same time; the aggregator of this registered name makes one answer of theirs."""

    plans: tuple[Plan, ...]
    aggregate: str
    settings: Mapping[str, Any] = field(default_factory=dict)


Plan = Call | Fallback | Cascade | Panel
"""What a Decision runs. An algebra: plans nest, and each is data, so that it can be journalled and replayed."""


def plan_targets(plan: Plan) -> tuple[str, ...]:
    """The target ids of a plan, in the order in which they would be tried; a plan that looks at answers may name one twice."""
    if isinstance(plan, Call):
        return (plan.target,)
    return tuple(id_ for part in plan.plans for id_ in plan_targets(part))


def looks_at_answers(plan: Plan) -> bool:
    """Whether what is called next depends on what was answered: there is a cascade or a panel in it."""
    if isinstance(plan, Call):
        return False
    return not isinstance(plan, Fallback) or any(map(looks_at_answers, plan.plans))


class Decision(Struct, frozen=True, gc=False, kw_only=True):
    """What a policy chose and why; feedback joins it by `id`.

    `target` is the intention (the plan may end elsewhere after failures: the trace says where). `ranked` is best first and
    includes the chosen one. `propensity` is the probability with which the policy would choose `target` here.
    """

    id: str
    plan: Plan
    target: str
    ranked: tuple[Ranked, ...] = ()
    propensity: float = 1.0
    propensity_kind: Literal["exact", "estimated"] = "exact"
    policy: str
    version: str = ""
    reasons: tuple[str, ...] = ()
    context: tuple[float, ...] = ()


class Attempt(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One try at one target: `error` is empty when it answered; times are seconds since the request arrived.

    `role` says what the call was for inside a plan that looks at answers ("stage 1", "check of stage 1"); "" elsewhere.
    `deployment` says which one of a target that has several.
    """

    target: str
    started_s: float
    ended_s: float
    first_byte_s: float | None = None
    error: str = ""
    detail: str = ""
    outcome: Outcome = Outcome()
    role: str = ""
    deployment: str = ""
