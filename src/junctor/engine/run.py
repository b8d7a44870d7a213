"""Runs the plan of one decision: attempts in turn, each inside what is left of the deadline, every one of them recorded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from junctor.engine.context import CallContext
from junctor.engine.eager import Ready, start
from junctor.engine.health import Health
from junctor.errors import DeadlineExceeded, JunctorError, UpstreamBroken, UpstreamError, UpstreamTimeout
from junctor.providers.base import Provider, Reply, StreamReply, Usage
from junctor.types import Attempt, Catalogue, Decision, Outcome, Ranked, Request, Target, plan_targets

T = TypeVar("T")
Ask = Callable[[Provider, Request, Target, float], Coroutine[Any, Any, T]]
SHARE_WHILE_OTHERS_WAIT = 0.5
CANCELLED = "cancelled"
NOTHING_KNOWN = Outcome()
CLOCK_GRAIN_S = 0.002


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
    stalled upstream cannot use up the time of its fallbacks; every attempt is also bounded by its target's `timeout_s`.
    """

    __slots__ = (
        "arrived",
        "attempts",
        "books",
        "catalogue",
        "clock",
        "context",
        "deadline_s",
        "decision",
        "health",
        "providers",
        "request",
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
        providers: Mapping[str, Provider],
        health: Health,
        books: Books,
        arrived: float,
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
        context: CallContext | None = None,
    ) -> None:
        self.request = request
        self.decision = decision
        self.context = context
        self.catalogue = catalogue
        self.providers = providers
        self.health = health
        self.books = books
        self.arrived = arrived
        self.deadline_s = deadline_s
        self.clock = clock
        self.attempts: list[Attempt] = []
        self.settled = False

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
            reply, target, started = await self._in_turn(ask or _ask_whole)
        except BaseException as error:
            self.close(error)
            raise
        outcome = outcome_of(reply, target, self.elapsed_s() - started)
        self._answered(target, started, outcome)
        self.settle(target.id, outcome)
        return Answer(reply, self, target, outcome)

    async def stream(self) -> StreamAnswer:
        """Run the plan to its first event; raises like `complete`."""
        try:
            reply, target, started = await self._in_turn(_ask_stream)
        except BaseException as error:
            self.close(error)
            raise
        return StreamAnswer(reply, self, target, started, self.elapsed_s())

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

    async def _in_turn(self, ask: Ask[T]) -> tuple[T, Target, float]:
        """The first answer, who gave it and when it was asked. Only a retryable failure moves on to the next target."""
        waiting = plan_targets(self.decision.plan)
        for place, id_ in enumerate(waiting, 1):
            target = self.catalogue.get(id_)
            if target is None:
                raise UpstreamError("is in the plan, but not among the targets", target=id_)
            last = place == len(waiting)
            started = self.elapsed_s()
            try:
                return await self._attempt(ask, target, self._limit_s(target, last)), target, started
            except (JunctorError, asyncio.CancelledError) as error:
                self._failed(target, started, error)
                if not (isinstance(error, UpstreamError) and error.retryable):
                    raise
                if self.left_s() <= CLOCK_GRAIN_S:
                    break
                if last:
                    raise
        raise DeadlineExceeded(f"no answer within {self.deadline_s:g} s", fix="allow more time, or a faster target")

    def _limit_s(self, target: Target, last: bool) -> float:
        left = max(0.0, self.left_s())
        most = left if last else left * SHARE_WHILE_OTHERS_WAIT
        return most if target.limits.timeout_s is None else min(most, target.limits.timeout_s)

    async def _attempt(self, ask: Ask[T], target: Target, limit_s: float) -> T:
        provider = self.providers[target.provider]
        try:
            asked = start(ask(provider, self.request, target, limit_s))
            if isinstance(asked, Ready):
                return asked.value
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

    def _answered(self, target: Target, started: float, outcome: Outcome, first_byte_s: float | None = None) -> None:
        self.health.succeeded(target.id)
        self.attempts.append(
            Attempt(target=target.id, started_s=started, ended_s=self.elapsed_s(), first_byte_s=first_byte_s, outcome=outcome)
        )

    def _failed(
        self,
        target: Target,
        started: float,
        error: BaseException,
        *,
        first_byte_s: float | None = None,
        outcome: Outcome = NOTHING_KNOWN,
    ) -> None:
        if isinstance(error, JunctorError):
            self.health.failed(target.id, error)
        detail = error.message if isinstance(error, JunctorError) else ""
        self.attempts.append(
            Attempt(
                target=target.id,
                started_s=started,
                ended_s=self.elapsed_s(),
                first_byte_s=first_byte_s,
                error=code_of(error),
                detail=detail,
                outcome=outcome,
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


def code_of(error: BaseException) -> str:
    """The stable name of an error: its code, or "cancelled" when the caller went away."""
    if isinstance(error, JunctorError):
        return error.code
    return CANCELLED if isinstance(error, (asyncio.CancelledError, GeneratorExit)) else "error"


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

    def __init__(self, reply: StreamReply, run: Run, target: Target, started: float, first_byte_s: float) -> None:
        super().__init__(run, target)
        self.reply = reply
        self.outcome: Outcome | None = None
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

    async def __aenter__(self) -> Self:
        self._timeout = asyncio.timeout(max(0.0, self.run.left_s()))
        await self._timeout.__aenter__()
        return self

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._timeout is None:
            raise RuntimeError("a StreamAnswer is read inside `async with`")
        try:
            async for events in self.reply.pieces():
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
        late: DeadlineExceeded | None = None
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            late = DeadlineExceeded(f"the stream was not complete within {self.run.deadline_s:g} s", fix="allow more time")
        ended = late or error or (None if self._finished else GeneratorExit())
        self._settle(ended)
        if not self._finished:
            await self.reply.aclose()
        if late is not None:
            raise late from error

    def _settle(self, error: BaseException | None) -> None:
        outcome = outcome_of(self.reply, self.target, self.run.elapsed_s() - self._started)
        self.outcome = outcome
        run = self.run
        if error is None:
            run._answered(self.target, self._started, outcome, self._first_byte_s)
        else:
            run._failed(self.target, self._started, error, first_byte_s=self._first_byte_s, outcome=outcome)
        run.settle(self.target.id, outcome, "" if error is None else code_of(error))


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
