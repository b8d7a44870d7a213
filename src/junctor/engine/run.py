"""Runs the plan of one decision: attempts in turn, each inside what is left of the deadline, every one of them recorded."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import msgspec

from junctor.engine.context import CallContext
from junctor.engine.deployments import Pool, Site
from junctor.engine.eager import Ready, start
from junctor.engine.health import Health
from junctor.engine.hedging import LOST, Hedge, Race, Won
from junctor.engine.retrying import MOVES_ON, NO_RETRIES, Retries, Turns
from junctor.errors import DeadlineExceeded, JunctorError, RequestError, UpstreamBroken, UpstreamError, UpstreamTimeout
from junctor.providers.base import Provider, Reply, StreamReply, Usage
from junctor.types import Attempt, Catalogue, Decision, Outcome, Ranked, Request, Target, plan_targets

T = TypeVar("T")
Ask = Callable[[Provider, Request, Target, float], Coroutine[Any, Any, T]]
SHARE_WHILE_OTHERS_WAIT = 0.5
CANCELLED = "cancelled"
NOTHING_KNOWN = Outcome()
CLOCK_GRAIN_S = 0.002
CHARS_PER_TOKEN = 4
EVENT_END = b"\n\n"


class Books(Protocol):
    """Where a run writes down what came of it."""

    def settle(self, run: Run, target: str, outcome: Outcome, error: str) -> None:
        """Record the end of a run; called exactly once."""


class EventFilter(Protocol):
    """Looks at a stream on its way to the client, and may hold back or change what it sees."""

    def push(self, events: bytes) -> bytes:
        """Takes whole events (the last is `data: [DONE]`), gives whole events or nothing. May raise GuardRefused."""

    def end(self) -> bytes:
        """The stream is complete: what was held back, if anything was."""


class Run:
    """One decided request on its way through its plan.

    `deadline_s` counts from `arrived`. An attempt after which others wait gets at most half of what is left, so that one
    stalled upstream cannot use up the time of its fallbacks; every attempt is also bounded by its target's `timeout_s`. When
    nobody is left, `retries` says whether and when somebody is asked again. `hedge` may ask two at a time.
    """

    __slots__ = (
        "arrived",
        "attempts",
        "books",
        "catalogue",
        "chance",
        "clock",
        "context",
        "deadline_s",
        "decision",
        "health",
        "hedge",
        "pools",
        "request",
        "retries",
        "sent_tokens",
        "settled",
    )
    steps: Sequence[str] = ()
    """What a plan that looks at answers did; nothing to say elsewhere."""

    def __init__(
        self,
        request: Request,
        decision: Decision,
        *,
        catalogue: Catalogue,
        pools: Mapping[str, Pool],
        health: Health,
        books: Books,
        arrived: float,
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
        context: CallContext | None = None,
        retries: Retries = NO_RETRIES,
        hedge: Hedge | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.request = request
        self.decision = decision
        self.context = context
        self.catalogue = catalogue
        self.pools = pools
        self.health = health
        self.books = books
        self.arrived = arrived
        self.deadline_s = deadline_s
        self.clock = clock
        self.retries = retries
        self.hedge = hedge
        self.chance = chance
        self.attempts: list[Attempt] = []
        self.settled = False
        self.sent_tokens = 0
        """About how many tokens came back: for the books, where the upstream does not say."""

    def elapsed_s(self) -> float:
        """Seconds since the request arrived."""
        return self.clock() - self.arrived

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline_s - self.elapsed_s()

    async def complete(self, ask: Ask[Reply] | None = None) -> Answer:
        """Run the plan to a whole answer; raises the last attempt's error, or DeadlineExceeded.

        `ask` says what is asked of each provider: a chat completion, or `ask_embeddings`, `ask_moderation`.
        """
        try:
            reply, site, started, role = await self._in_turn(ask or _ask_whole, plan_targets(self.decision.plan))
        except BaseException as error:
            self.close(error)
            raise
        outcome = outcome_of(reply, site.target, self.elapsed_s() - started)
        if outcome.output_tokens is None:
            self.sent_tokens = len(reply.body) // CHARS_PER_TOKEN
        self._answered(site, started, outcome, role=role)
        self.settle(site.target.id, outcome)
        return Answer(reply, self, site.target, outcome if len(self.attempts) == 1 else self._with_total(outcome))

    async def stream(self) -> StreamAnswer:
        """Run the plan to its first event; raises like `complete`."""
        try:
            reply, site, started, role = await self._in_turn(_ask_stream, plan_targets(self.decision.plan))
        except BaseException as error:
            self.close(error)
            raise
        begun = self.elapsed_s()
        self.health.began(site.vital, begun - started)
        return StreamAnswer(reply, self, site.target, started, begun, site=site, role=role)

    def spent_usd(self) -> float | None:
        """What all calls so far cost; None when that is known of none."""
        costs = [a.outcome.cost_usd for a in self.attempts if a.outcome.cost_usd is not None]
        return sum(costs) if costs else None

    def _with_total(self, outcome: Outcome) -> Outcome:
        return msgspec.structs.replace(outcome, cost_usd=self.spent_usd())

    def given(self, reply: Reply) -> Answer:
        """Answer with a reply that is there already, and cost nothing: nobody is called."""
        target = self._decided_target()
        outcome = Outcome(cost_usd=0.0, latency_s=self.elapsed_s())
        self.settle(target.id, outcome)
        return Answer(reply, self, target, outcome)

    def given_stream(self, reply: StreamReply) -> StreamAnswer:
        """The same as a stream."""
        return GivenStream(reply, self, self._decided_target(), self.elapsed_s(), self.elapsed_s())

    def _decided_target(self) -> Target:
        return self.catalogue.get(self.decision.target) or Target(id=self.decision.target)

    async def _in_turn(
        self, ask: Ask[T], ids: Sequence[str], *, last: bool = True, role: str = "", again: bool = True
    ) -> Won[T]:
        """The first answer of these targets. A retryable failure moves on: to another deployment, the next target, a retry.

        So does what a target cannot be told, but not to a retry of the same. It is raised when nobody else could take it.
        `last`: nothing waits for its turn after these; `again`: they may be tried again.
        """
        pool = self.pools.get(ids[0]) if ids else None
        if pool is None or pool.only is None or self.hedge is not None or self.health:
            return await self._in_line(ask, Turns(ids, self.pools, self.request, self.health), last, role, again)
        site = pool.only  # everybody is well, and there is one place to ask: nothing to think about
        try:
            return await self.call(ask, site, last and len(ids) == 1, role)
        except MOVES_ON as error:
            turns = Turns(ids, self.pools, self.request, self.health)
            turns.began(site)
            await self._go_on(turns, site, error, again)
        return await self._in_line(ask, turns, last, role, again)

    async def _in_line(self, ask: Ask[T], turns: Turns, last: bool, role: str, again: bool) -> Won[T]:
        """The first answer of those whose turn comes."""
        if turns.site is None and turns.next() is None:
            raise UpstreamError("none of its deployments can take this", target=turns.ids[-1] if turns.ids else "")
        while True:
            site = turns.site
            assert site is not None
            try:
                if self.hedge is not None and turns.asked == 1:
                    return await Race(self, ask, turns, self.hedge).run(site)
                return await self.call(ask, site, last and turns.last(), role)
            except MOVES_ON as error:
                await self._go_on(turns, site, error, again)

    async def _go_on(self, turns: Turns, site: Site, failure: UpstreamError | RequestError, again: bool) -> None:
        """Find who is asked after this failure; raises it, or DeadlineExceeded, when nobody is."""
        if isinstance(failure, RequestError):
            turns.cannot(site)
        elif turns.goes_on(site, failure):
            turns.failure = failure
        else:
            raise failure
        if self.left_s() <= CLOCK_GRAIN_S:
            raise self._out_of_time(failure)
        if turns.next() is None and again and turns.failure is not None:
            await turns.again(self.retries, turns.failure, self.left_s() - CLOCK_GRAIN_S, self.chance)
        if turns.site is None:
            raise turns.failure or failure

    def _out_of_time(self, failure: UpstreamError | RequestError) -> JunctorError:
        """What is raised when the last failure took all the time that there was."""
        del failure
        return DeadlineExceeded(f"no answer within {self.deadline_s:g} s", fix="allow more time, or a faster target")

    async def unused(self, reply: Any, site: Site, started: float, role: str) -> None:
        """Record an answer that nobody reads: it is paid for all the same. A stream is cut off at its first event."""
        outcome = outcome_of(reply, site.target, self.elapsed_s() - started)
        if not isinstance(reply, StreamReply):
            self._answered(site, started, outcome, role=role)
            return
        await reply.aclose()
        self._failed(site, started, asyncio.CancelledError(), outcome=outcome, role=role, detail=LOST)

    async def call(self, ask: Ask[T], site: Site, last: bool, role: str = "", race: Race[T] | None = None) -> Won[T]:
        """One attempt; its failure is recorded, its success is for the caller to record. Raises one of MOVES_ON."""
        started = self.elapsed_s()
        limit_s = self._limit_s(site.target, last)
        self.health.enter(site.vital, limit_s)
        try:
            return await self._attempt(ask, site, limit_s), site, started, role
        except (JunctorError, asyncio.CancelledError) as error:
            lost = LOST if race is not None and race.decided else ""
            hasty = isinstance(error, UpstreamTimeout) and too_short(limit_s, site)
            self._failed(site, started, error, role=role, detail=lost, hasty=hasty)
            raise

    def _limit_s(self, target: Target, last: bool) -> float:
        left = max(0.0, self.left_s())
        most = left if last else left * SHARE_WHILE_OTHERS_WAIT
        return most if target.limits.timeout_s is None else min(most, target.limits.timeout_s)

    async def _attempt(self, ask: Ask[T], site: Site, limit_s: float) -> T:
        target = site.target
        try:
            asked = start(ask(site.provider, self.request, target, limit_s))
            if isinstance(asked, Ready):
                return asked.value
            if site.provider.keeps_time:
                return await asked
            # The provider knows the limit too; this one holds even when a provider of yours forgets it.
            async with asyncio.timeout(limit_s):
                return await asked
        except TimeoutError as error:
            raise UpstreamTimeout(f"silent for {limit_s:.3g} s", target=target.id) from error
        except JunctorError:
            raise
        except Exception as error:
            # The plug-in edge: whatever a provider of yours raises is a failure of that target, and never shown in detail.
            raise UpstreamError(f"its provider failed with {type(error).__name__}", target=target.id) from error

    def _answered(
        self, site: Site, started: float, outcome: Outcome, first_byte_s: float | None = None, role: str = ""
    ) -> None:
        measured = outcome.latency_s if first_byte_s is None else None  # a stream was measured when it began
        self.health.answered(site.vital, measured, self.arrived + started)
        self.attempts.append(
            Attempt(
                target=site.target.id,
                started_s=started,
                ended_s=self.elapsed_s(),
                first_byte_s=first_byte_s,
                outcome=outcome,
                role=role,
                deployment=site.deployment,
            )
        )

    def _failed(
        self,
        site: Site,
        started: float,
        error: BaseException,
        *,
        first_byte_s: float | None = None,
        outcome: Outcome = NOTHING_KNOWN,
        role: str = "",
        detail: str = "",
        hasty: bool = False,
    ) -> None:
        self.health.left(site.vital, error, self.arrived + started, hasty=hasty)
        self.attempts.append(
            Attempt(
                target=site.target.id,
                started_s=started,
                ended_s=self.elapsed_s(),
                first_byte_s=first_byte_s,
                error=code_of(error),
                detail=said_of(error) or detail,
                outcome=outcome,
                role=role,
                deployment=site.deployment,
            )
        )

    def close(self, error: BaseException) -> None:
        """Settle a run that ended without an answer."""
        self.settle("", Outcome(latency_s=self.elapsed_s()), code_of(error))

    def settle(self, target: str, outcome: Outcome, error: str = "") -> None:
        """Write the end down, once."""
        if not self.settled:
            self.settled = True
            self.books.settle(self, target, outcome, error)


def _ask_whole(provider: Provider, request: Request, target: Target, limit_s: float) -> Coroutine[Any, Any, Reply]:
    return provider.complete(request, target, limit_s)


def _ask_stream(provider: Provider, request: Request, target: Target, limit_s: float) -> Coroutine[Any, Any, StreamReply]:
    return provider.stream(request, target, limit_s)


def ask_embeddings(provider: Provider, request: Request, target: Target, limit_s: float) -> Coroutine[Any, Any, Reply]:
    """For `Run.complete`: embeddings."""
    return provider.embed(request, target, limit_s)


def ask_moderation(provider: Provider, request: Request, target: Target, limit_s: float) -> Coroutine[Any, Any, Reply]:
    """For `Run.complete`: moderation."""
    return provider.moderate(request, target, limit_s)


def too_short(limit_s: float, site: Site) -> bool:
    """Whether a timeout speaks of the caller's haste, not of the place: it had less time than it usually takes.

    Otherwise anybody could have a target left alone for all. Not so when the operator set that limit.
    """
    return limit_s < site.vital.latency_s and limit_s != site.target.limits.timeout_s


def code_of(error: BaseException) -> str:
    """The stable name of an error: its code, or "cancelled" when the caller went away."""
    if isinstance(error, JunctorError):
        return error.code
    return CANCELLED if isinstance(error, (asyncio.CancelledError, GeneratorExit)) else "error"


def said_of(error: BaseException) -> str:
    """An error of ours in words, without whom it is about; of a request's field, which one."""
    if isinstance(error, RequestError) and error.field:
        return f"{error.field}: {error.message}"
    return error.message if isinstance(error, JunctorError) else ""


def outcome_of(reply: Reply | StreamReply, target: Target, latency_s: float) -> Outcome:
    """What a call cost and took. The cost is the upstream's own figure, else usage at list price, else not known."""
    usage: Usage = reply.usage
    cost = reply.cost_usd
    if cost is None and target.price is not None and usage.input_tokens is not None and usage.output_tokens is not None:
        cost = target.price.cost_usd(
            usage.input_tokens,
            usage.output_tokens,
            cached=usage.cached_tokens or 0,
            written=usage.cache_write_tokens or 0,
            reasoning=usage.reasoning_tokens or 0,
        )
    return Outcome(
        quality=getattr(reply, "quality", None),
        cost_usd=cost,
        latency_s=latency_s,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
    )


class _Answered:
    """What a whole and a streamed answer have in common."""

    def __init__(self, run: Run, target: Target) -> None:
        self.run = run
        self.target = target

    @property
    def decision(self) -> Decision:
        """The decision behind the answer."""
        return self.run.decision

    @property
    def attempts(self) -> list[Attempt]:
        """Every try so far, failed ones included."""
        return self.run.attempts

    @property
    def tries(self) -> int:
        """How many targets were asked, the one that answers included."""
        return len(self.run.attempts)

    @property
    def predicted(self) -> Outcome:
        """What the policy predicted of the target that answered."""
        ranked: Ranked | None = next((r for r in self.decision.ranked if r.target == self.target.id), None)
        return NOTHING_KNOWN if ranked is None else ranked.predicted


class Answer(_Answered):
    """A whole answer: `reply` as the provider gave it, `target` that gave it, `outcome` of that call."""

    def __init__(self, reply: Reply, run: Run, target: Target, outcome: Outcome) -> None:
        super().__init__(run, target)
        self.reply = reply
        self.outcome = outcome


class StreamAnswer(_Answered):
    """A streamed answer. Read it inside `async with`, which holds the deadline, gives the upstream up and records the outcome:

        async with await engine.stream(request) as answer:
            async for events in answer: ...

    What it yields are one or more whole server-sent events. Raises UpstreamBroken or DeadlineExceeded when it breaks off.
    """

    billed_usd: float | None = None
    """Cost of all calls where it is known before the first event: after a plan that looks at answers."""

    def __init__(
        self,
        reply: StreamReply,
        run: Run,
        target: Target,
        started: float,
        first_byte_s: float,
        *,
        site: Site | None = None,
        role: str = "",
    ) -> None:
        super().__init__(run, target)
        self.reply = reply
        self.outcome: Outcome | None = None
        self._site = site
        self._role = role
        self._silence: Silence | None = None
        self._started = started
        self._first_byte_s = first_byte_s
        self._finished = False
        self._timeout: asyncio.Timeout | None = None
        self._filters: tuple[EventFilter, ...] = ()

    def through(self, filter_: EventFilter) -> None:
        """Send the events through a filter, after those that are there already."""
        self._filters = (*self._filters, filter_)

    @property
    def tries(self) -> int:
        """How many targets were asked; the one that answers is recorded only when its stream has ended."""
        return len(self.run.attempts) + (self.outcome is None)

    async def give_up(self, error: BaseException) -> None:
        """End a stream that nobody will read: its upstream is let go, and the run settled with this error."""
        self._settle(error)
        await self.reply.aclose()

    async def __aenter__(self) -> Self:
        self._timeout = asyncio.timeout(max(0.0, self.run.left_s()))
        await self._timeout.__aenter__()
        return self

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._timeout is None:
            raise RuntimeError("a StreamAnswer is read inside `async with`")
        run = self.run
        try:
            async for events in self._pieces():
                run.sent_tokens += events.count(EVENT_END)
                if self._filters:
                    events = self._filtered(events)
                    if not events:
                        continue
                yield events
            if self._filters and (last := self._rest()):
                yield last
        except JunctorError:
            raise
        except Exception as error:
            # The plug-in edge again: after the first byte the client must hear of it, so it is not retryable.
            raise UpstreamBroken(f"its provider failed with {type(error).__name__}", target=self.target.id) from error
        self._finished = True

    def _pieces(self) -> AsyncIterator[bytes]:
        limit_s = self.target.limits.silence_s
        if limit_s is None or self._site is None or self._timeout is None:
            return self.reply.pieces()
        self._silence = Silence(self._timeout, limit_s)
        return self._silence.listen(self.reply.pieces())

    def _filtered(self, events: bytes) -> bytes:
        for filter_ in self._filters:
            events = filter_.push(events)
            if not events:
                break
        return events

    def _rest(self) -> bytes:
        """What the filters held back; what one gives up goes through those after it."""
        out = b""
        for filter_ in self._filters:
            out = (filter_.push(out) if out else b"") + filter_.end()
        return out

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._timeout is not None
        late: JunctorError | None = None
        if self._silence is not None:
            self._silence.stop()
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            late = self._too_late()
        ended = late or error or (None if self._finished else GeneratorExit())
        self._settle(ended)
        if not self._finished:
            await self.reply.aclose()
        if late is not None:
            raise late from error

    def _too_late(self) -> JunctorError:
        if self._silence is not None and self._silence.over:
            seconds = self._silence.limit_s
            return UpstreamTimeout(f"silent for {seconds:.3g} s in the middle of its answer", target=self.target.id)
        return DeadlineExceeded(f"the stream was not complete within {self.run.deadline_s:g} s", fix="allow more time")

    def _settle(self, error: BaseException | None) -> None:
        outcome = outcome_of(self.reply, self.target, self.run.elapsed_s() - self._started)
        self.outcome = outcome
        run, site = self.run, self._site
        if site is None:
            pass  # nobody was called for it
        elif error is None:
            run._answered(site, self._started, outcome, self._first_byte_s, self._role)
        else:
            run._failed(site, self._started, error, first_byte_s=self._first_byte_s, outcome=outcome, role=self._role)
        run.settle(self.target.id, outcome, "" if error is None else code_of(error))


class Silence:
    """Ends a stream that says nothing for `limit_s` seconds. Only the upstream's silence counts, not a slow reader's.

    One timer per stream, which looks now and then; an event costs a reading of the clock.
    """

    def __init__(self, timeout: asyncio.Timeout, limit_s: float) -> None:
        self.limit_s = limit_s
        self.over = False
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._since: float | None = self._loop.time()
        self._timer = self._loop.call_later(limit_s, self._look)

    async def listen(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same pieces, each waited for no longer than the limit."""
        clock = self._loop.time
        self._since = clock()
        async for events in pieces:
            self._since = None
            yield events
            self._since = clock()

    def _look(self) -> None:
        now = self._loop.time()
        left = self.limit_s if self._since is None else self._since + self.limit_s - now
        if left < CLOCK_GRAIN_S:
            self.over = True
            self._timeout.reschedule(now)
        else:
            self._timer = self._loop.call_later(left, self._look)

    def stop(self) -> None:
        """The stream has ended."""
        self._timer.cancel()


class GivenStream(StreamAnswer):
    """A stream of a reply that was there already: no attempt is made, no cost arises."""

    billed_usd = 0.0

    @property
    def tries(self) -> int:
        """Nobody was asked."""
        return 0

    def _settle(self, error: BaseException | None) -> None:
        self.outcome = Outcome(cost_usd=0.0, latency_s=self.run.elapsed_s())
        self.run.settle(self.target.id, self.outcome, "" if error is None else code_of(error))
