"""The engine: from a request to an answer, with every decision written down before it is acted on."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from junctor.encoders.base import Encoder
from junctor.engine.aliases import Alias, Names, featured, wants_encoding
from junctor.engine.context import CallContext
from junctor.engine.deployments import pools_of
from junctor.engine.filters import Demand, Narrowed, expected_cost_usd
from junctor.engine.health import Health
from junctor.engine.hedging import Hedge
from junctor.engine.ledger import Ledger, Listener
from junctor.engine.memory import Explained
from junctor.engine.plan_run import PlanRun
from junctor.engine.preferences import fell_back, unheard
from junctor.engine.retrying import NO_RETRIES, Retries
from junctor.engine.run import Answer, Run, StreamAnswer
from junctor.engine.shadows import Shadows
from junctor.engine.trials import Assigned
from junctor.errors import NoTarget, RequestError
from junctor.journal import DecisionRecord, FeedbackRecord, Journal
from junctor.policy import Policy
from junctor.providers.base import Provider
from junctor.types import NO_CONSTRAINTS, Call, Catalogue, Decision, Fallback, Outcome, Ranked, Request, looks_at_answers

log = logging.getLogger("junctor.engine")
DIRECT = "direct"
GIVEN = "cache"
QUICK_ENCODE_S = 1e-3
QUICK_ENCODE_CHARS = 16_384
PROBE = "Which river runs through the capital of France, and where does it rise?"

__all__ = ["Engine", "Explained", "Routed"]


class Routed(Struct, frozen=True, kw_only=True):
    """What would be done with a request, and why not otherwise: a decision that nobody acted on."""

    decision: Decision
    targets: tuple[str, ...]
    refusals: Mapping[str, str]
    last_resort: bool = False


class Engine:
    """Decides, calls, and keeps the books. Use it from one event loop.

    catalogue         every target, reachable by its own id
    providers         provider name -> provider; each target's `provider` must be in here
    aliases           model name -> policy over some of the targets
    journal           where decisions and outcomes go; None keeps them in memory only
    seed              seeds the generator that policies draw from
    default_deadline_s  seconds for a request that does not say
    health, retries   when to leave a target or deployment alone, and whether and when to ask again
    encode_timeout_s  seconds for an encoder that runs in a thread; on overrun the alias's default target is called
    clock, wall       monotonic seconds, Unix seconds

    An encoder that takes under a millisecond runs in the event loop (unless the text is long); any other in a thread.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        providers: Mapping[str, Provider],
        aliases: Mapping[str, Alias] | None = None,
        journal: Journal | None = None,
        *,
        seed: int = 0,
        default_deadline_s: float = 60.0,
        encode_timeout_s: float = 0.25,
        health: Health | None = None,
        retries: Retries = NO_RETRIES,
        remember: int = 4096,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.catalogue = catalogue
        self.providers = dict(providers)
        self.aliases = dict(aliases or {})
        self.names = Names.of(catalogue, self.providers, self.aliases)
        self.health = Health(clock=clock) if health is None else health
        self.retries = retries
        # Not the policies' generator: a retry must not change what they draw.
        self._chance = random.Random(seed).random  # noqa: S311 - not a secret
        self.pools = pools_of(catalogue, self.providers, self.health, self._chance)
        self._hedges = {n: Hedge.of(a.hedge, f"aliases.{n}.hedge") for n, a in self.aliases.items() if a.hedge is not None}
        self.ledger = Ledger(self.aliases, journal, remember=remember, wall=wall)
        self.default_deadline_s = default_deadline_s
        self.longest_deadline_s = default_deadline_s
        """Seconds that a call under way may still have at most."""
        self.encode_timeout_s = encode_timeout_s
        self._rng = np.random.default_rng(seed)
        self._clock = clock
        self._wall = wall
        sides = [side for alias in self.aliases.values() for side in alias.with_sides]
        self._quick = {side.name: is_quick(side.encoder) for side in sides if side.encoder is not None}
        self.shadows: Shadows | None = None
        self._start_listening(seed, wall)
        self._threads = ThreadPoolExecutor(2, "junctor-encode")

    def _start_listening(self, seed: int, wall: Callable[[], float]) -> None:
        """What stands beside aliases hears of the end of their runs."""
        for alias in self.aliases.values():
            if alias.sessions is not None:
                self.listen(alias.sessions.ended)
            if alias.learning is not None:
                alias.learning.attach(self.ledger.journal)
        if any(alias.trials is not None and alias.trials.shadows for alias in self.aliases.values()):
            self.shadows = Shadows(self.aliases, self.names, self.ledger, seed=seed, wall=wall)
            self.listen(self.shadows.ended)

    async def complete(self, request: Request, model: str = "") -> Answer:
        """Answer a request whole. `model` is a target, an alias, or "" for what `request.params` says.

        Raises UnknownModel, NoTarget, DeadlineExceeded, UpstreamError or JournalError.
        """
        return await (await self.prepare(request, model)).complete()

    async def stream(self, request: Request, model: str = "") -> StreamAnswer:
        """Answer a request as a stream; returns once the first event is there. Raises like `complete`."""
        return await (await self.prepare(request, model)).stream()

    def route(self, request: Request, model: str = "") -> Routed:
        """What would be decided, without calling anybody and without writing it down. Raises UnknownModel or NoTarget."""
        request, model = _identified(request, model)
        alias = self.aliases.get(model)
        if alias is None:
            narrowed, decision = self._direct(request, model)
        else:
            if alias.facts is not None:
                request = alias.facts.told(request, None)
            narrowed = self._narrowed(alias, request)
            decision = self._decide(alias, featured(alias, request), narrowed)
        return Routed(
            decision=decision, targets=narrowed.targets.ids, refusals=narrowed.refusals, last_resort=narrowed.last_resort
        )

    async def feedback(self, id_: str, outcome: Outcome, comment: str = "") -> FeedbackRecord:
        """Take what somebody says later about decision `id_`; a Learner hears of it. Raises RequestError, UnknownDecision."""
        return await self.ledger.feedback(id_, outcome, comment)

    async def explain(self, id_: str) -> Explained:
        """A decision, its outcome and its feedback; raises UnknownDecision."""
        return await self.ledger.explain(id_)

    def listen(self, listener: Listener) -> None:
        """Call `listener(run, record)` at the end of every run, once, whatever its end. It must not raise and must be quick."""
        self.ledger.listeners.append(listener)

    async def aclose(self) -> None:
        """Give up connections and threads, and close the journal."""
        for provider in self.providers.values():
            await provider.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self.shadows is not None:
            await asyncio.to_thread(self.shadows.close)
        for alias in self.aliases.values():
            if alias.learning is not None:
                await asyncio.to_thread(alias.learning.close)
        if self.ledger.journal is not None:
            self.ledger.journal.close()

    async def prepare(self, request: Request, model: str = "", context: CallContext | None = None) -> Run:
        """Decide and write the decision down; nobody has been called yet.

        Either `complete` or `stream` the run, or `close` it with the reason why not. `context` goes with it to the listeners.
        Raises UnknownModel, NoTarget or JournalError.
        """
        arrived = self._clock()
        request, model = _identified(request, model)
        alias = self.aliases.get(model)
        assigned: Assigned | None = None
        if alias is None:
            narrowed, decision = self._direct(request, model)
        elif (
            alias.trials is not None
            and (assigned := alias.trials.assign(request, context)) is not None
            and (tried := await self._candidate(alias, assigned, request, context)) is not None
        ):
            request, narrowed, decision = tried
        else:
            if alias.facts is not None:
                request = alias.facts.told(request, context)
            narrowed = self._narrowed(alias, request)
            quick = alias.encoder is None or (self._quick[alias.name] and len(request.text) <= QUICK_ENCODE_CHARS)
            seen = featured(alias, request) if quick else await self._encoded(alias, request)
            decision = _undecided(alias, request, narrowed) if seen is None else self._decide(alias, seen, narrowed)
            if alias.sessions is not None:
                request = alias.sessions.near(request, decision.target)
            if assigned is not None and assigned.candidate:
                decision = fell_back(decision, assigned.candidate)
        return self._written(request, "" if alias is None else model, narrowed, decision, arrived, context, assigned)

    async def _candidate(
        self, alias: Alias, assigned: Assigned, request: Request, context: CallContext | None
    ) -> tuple[Request, Narrowed, Decision] | None:
        """What the candidate of a trial decides; None on the other side, and when it fails: a trial costs nobody an answer."""
        side = alias.sides.get(assigned.candidate)
        if side is None:
            return None
        try:
            if side.facts is not None:
                request = side.facts.told(request, context)
            narrowed = self._narrowed(side, request)
            seen = await self._encoded(side, request)
            decision = _undecided(side, request, narrowed) if seen is None else self._decide(side, seen, narrowed)
        except NoTarget:
            return None
        except Exception as error:  # noqa: BLE001 - the alias's own policy answers then, and the log says so
            log.error("the candidate %s of %s failed with %s", assigned.candidate, alias.name, type(error).__name__)
            return None
        if side.sessions is not None:
            request = side.sessions.near(request, decision.target)
        return request, narrowed, decision

    def _narrowed(self, alias: Alias, request: Request) -> Narrowed:
        sessions = alias.sessions
        return self.names.alias_filters[alias.name].apply(request, self.health, None if sessions is None else sessions.tokens)

    def _written(
        self,
        request: Request,
        alias: str,
        narrowed: Narrowed,
        decision: Decision,
        arrived: float,
        context: CallContext | None,
        assigned: Assigned | None = None,
    ) -> Run:
        self.ledger.decided(
            DecisionRecord(
                at=self._wall(),
                decision=decision,
                alias=alias,
                tenant=request.tenant,
                key="" if context is None else context.key,
                text=request.text,
                labels=request.labels,
                targets=narrowed.targets.ids,
                refusals=narrowed.refusals,
                constraints=request.constraints,
                trial="" if assigned is None else assigned.trial,
                side="" if assigned is None else assigned.side,
                unit="" if assigned is None else assigned.unit,
            )
        )
        asked = request.constraints.deadline_s
        if asked is not None and asked > self.longest_deadline_s:
            self.longest_deadline_s = asked
        kind, hedge = (PlanRun, None) if looks_at_answers(decision.plan) else (Run, self._hedges.get(alias))
        return kind(
            request,
            decision,
            catalogue=self.catalogue,
            pools=self.pools,
            health=self.health,
            books=self.ledger,
            arrived=arrived,
            deadline_s=self.default_deadline_s if asked is None else asked,
            clock=self._clock,
            context=context,
            retries=self.retries,
            hedge=hedge,
            chance=self._chance,
        )

    def given(self, request: Request, model: str, target: str, context: CallContext | None = None) -> Run:
        """A run whose answer is there already (from a cache): a decision like any other, that calls nobody."""
        request, model = _identified(request, model)
        decision = Decision(id=request.id, plan=Call(target), target=target, policy=GIVEN)
        alias = model if model in self.aliases else ""
        return self._written(request, alias, Narrowed(Catalogue([])), decision, self._clock(), context)

    def _direct(self, request: Request, model: str) -> tuple[Narrowed, Decision]:
        """The caller named the target: what it cannot do is still refused, cooldowns are not looked at."""
        filter_ = self.names.direct.get(model)
        if filter_ is None:
            raise self.names.unknown(model)
        narrowed = filter_.apply(request, None)
        target = narrowed.targets[0]
        cost = expected_cost_usd(target, Demand.of(request)) if target.price is not None else None
        ranked = Ranked(target=model, score=1.0, predicted=Outcome(cost_usd=cost))
        return narrowed, Decision(id=request.id, plan=Call(model), target=model, ranked=(ranked,), policy=DIRECT)

    def _decide(self, alias: Alias, request: Request, narrowed: Narrowed) -> Decision:
        try:
            decision = alias.policy.decide(request, narrowed.targets, self._rng)
        except NoTarget as error:
            if narrowed.refusals:
                refusals = {**narrowed.refusals, **error.refusals}
                raise NoTarget(error.message, refusals=refusals, field=error.field, fix=error.fix) from error
            raise
        if request.constraints is not NO_CONSTRAINTS:
            decision = unheard(decision, request.constraints, alias.policy.honours)
        if narrowed.last_resort:
            why = "every target that could take it is cooling down; tried all the same"
            return msgspec.structs.replace(decision, reasons=(*decision.reasons, why))
        return decision

    async def _encoded(self, alias: Alias, request: Request) -> Request | None:
        """The request with what its policy reads; None when the encoder took too long."""
        if not wants_encoding(alias, request):
            return request
        if self._quick[alias.name] and len(request.text) <= QUICK_ENCODE_CHARS:
            return featured(alias, request)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.encode_timeout_s):
                return await loop.run_in_executor(self._threads, featured, alias, request)
        except TimeoutError:
            return None


class _Entropy:
    """Random bytes from the system, a page at a time; a forked child must not share them, so the page knows its process."""

    def __init__(self) -> None:
        self._page, self._at, self._process = b"", 0, 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes, given out once."""
        if self._at + count > len(self._page) or self._process != os.getpid():
            self._page, self._at, self._process = os.urandom(4096), 0, os.getpid()
        self._at += count
        return self._page[self._at - count : self._at]


_entropy = _Entropy()


def new_id() -> str:
    """A decision id that nobody else has: 96 random bits."""
    return "dec-" + _entropy.take(12).hex()


def is_quick(encoder: Encoder) -> bool:
    """Whether a typical text is encoded so fast that a thread would cost more: the best of five tries."""

    def seconds() -> float:
        start = time.perf_counter()
        encoder.encode_one(PROBE)
        return time.perf_counter() - start

    return min(seconds() for _ in range(5)) < QUICK_ENCODE_S


def _identified(request: Request, model: str) -> tuple[Request, str]:
    name: Any = model or request.params.get("model", "")
    if not isinstance(name, str) or not name:
        raise RequestError("is missing", field="model", fix="name a target or an alias")
    return (request if request.id else msgspec.structs.replace(request, id=new_id())), name


def _undecided(alias: Alias, request: Request, narrowed: Narrowed) -> Decision:
    """There was no time to look at the text: the default target, then the others in their own order."""
    first = alias.fallback_target
    if narrowed.targets.position(first) is None:
        first = narrowed.targets.ids[0]
    order = (first, *(id_ for id_ in narrowed.targets.ids if id_ != first))
    policy: Policy = alias.policy
    return Decision(
        id=request.id,
        plan=Fallback(tuple(Call(id_) for id_ in order)),
        target=first,
        ranked=tuple(Ranked(target=id_, score=float(-place)) for place, id_ in enumerate(order)),
        propensity_kind="estimated",
        policy=policy.title,
        version=policy.version,
        reasons=("the encoder took too long: the default target",),
    )
