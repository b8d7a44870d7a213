"""Runs plans that look at answers: cascades and panels, with every probe, check and rejected answer in the bill.

Deadline: a call after which others wait gets at most half of the time that is left. Health: a target in a cooldown is left out
while something else can still be asked. Budget: after the first call, one that is expected to cost more than is left of the
request's budget is left out. A failure moves on to the next plan; when an answer is there already, it is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from junctor.engine.buffered import Buffered, text_of
from junctor.engine.filters import Demand, expected_cost_usd
from junctor.engine.run import CLOCK_GRAIN_S, Answer, Ask, Run, StreamAnswer, code_of, outcome_of, said_of
from junctor.errors import DeadlineExceeded, JunctorError, RequestError, UpstreamError
from junctor.plans.contracts import Accept, Aggregate, Choice, Given, Question, Trace, Verdict, accept_rule, aggregator
from junctor.providers.answers import prompt_text
from junctor.providers.base import Provider, Reply
from junctor.types import Call, Cascade, Fallback, Message, Outcome, Panel, Plan, Request, Target


class LeftOut(UpstreamError):
    """A call of the plan that was not made: its target cools down, or it would cost more than is left."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a plan came to: the answer that stands for it, and all `answers` that an accept rule may look at."""

    given: Given
    reply: Reply
    target: Target
    outcome: Outcome
    answers: tuple[Given, ...]
    asked: int = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the plan we are.

    role    for people
    before  what earlier stages answered
    last    nothing waits for its turn after this: it may use all the time
    needed  without it there may be no answer at all: it is tried even during a cooldown
    """

    role: str = ""
    before: tuple[Given, ...] = ()
    last: bool = True
    needed: bool = True

    def part(self, name: str, *, last: bool = True, needed: bool = True) -> Place:
        """A part of the plan here."""
        role = f"{self.role}, {name}" if self.role and name else self.role or name
        return replace(self, role=role, last=self.last and last, needed=self.needed and needed)


class PlanRun(Run):
    """One decided request whose plan looks at answers. `steps` says what it did, a sentence each."""

    __slots__ = ("_asked", "_demand", "_promised", "_taken", "steps")

    def __init__(self, *args: Any, **context: Any) -> None:
        super().__init__(*args, **context)
        self.steps: list[str] = []
        self._taken: dict[int, Taken] = {}
        self._demand: Demand | None = None
        self._promised = 0.0
        self._asked = False

    async def complete(self, ask: Ask[Reply] | None = None) -> Answer:
        """Run the plan to the answer that is given; its outcome bears the cost of all calls. Raises like `Run.complete`."""
        if ask is not None:
            error = RequestError(
                "a plan that looks at answers can only chat", field="model", fix="name a target, or another alias"
            )
            self.close(error)
            raise error
        taken = await self._run()
        self.settle(taken.target.id, taken.outcome)
        return Answer(taken.reply, self, taken.target, self._billed(taken.outcome))

    async def stream(self) -> StreamAnswer:
        """The same as a stream: nothing is sent before an answer is accepted."""
        taken = await self._run()
        return BufferedAnswer(Buffered(self.request, taken.reply), self, taken, self._billed(taken.outcome), self.elapsed_s())

    async def _run(self) -> Taken:
        try:
            return await self._take(self.decision.plan, Place())
        except BaseException as error:
            self.close(error)
            raise

    def _billed(self, outcome: Outcome) -> Outcome:
        return msgspec.structs.replace(outcome, cost_usd=self.spent_usd(), latency_s=self.elapsed_s())

    async def _take(self, plan: Plan, place: Place) -> Taken:
        if isinstance(plan, Call):
            return await self._call(plan.target, place)
        if isinstance(plan, Cascade):
            return await self._cascade(plan, place)
        if isinstance(plan, Panel):
            return await self._panel(plan, place)
        return await self._fallback(plan, place)

    async def _fallback(self, plan: Fallback, place: Place) -> Taken:
        failure: UpstreamError | None = None
        untold: RequestError | None = None
        for number, part in enumerate(plan.plans, 1):
            try:
                last = number == len(plan.plans)
                return await self._take(part, place.part("", last=last, needed=last))
            except UpstreamError as error:
                if not error.retryable:
                    raise
                failure = error
            except RequestError as error:
                untold = error
            if self._late():
                break
        raise self._ended(failure, untold)

    def _ended(self, failure: UpstreamError | None, untold: RequestError | None) -> JunctorError:
        """What is raised where nobody answered: what cannot be told only where nobody could take it."""
        return self._too_late() if self._late() else failure or untold or self._too_late()

    async def _cascade(self, plan: Cascade, place: Place) -> Taken:
        rule = accept_rule(plan.accept, plan.settings)
        best: Taken | None = None
        failure: UpstreamError | None = None
        untold: RequestError | None = None
        before, number, count = place.before, 0, len(plan.plans)
        while number < count and not (self._late() and self.attempts):
            last = number + 1 == count
            here = place.part(f"stage {number + 1}", last=last, needed=last and best is None)
            try:
                taken = await self._take(plan.plans[number], replace(here, before=before))
            except UpstreamError as error:
                if best is None and not error.retryable:
                    raise
                failure, number = error, number + 1
                self._note(f"{here.role}: no answer ({error.code}: {error.message})")
                continue
            except RequestError as error:
                untold, number = error, number + 1
                self._note(f"{here.role}: no answer ({said_of(error)})")
                continue
            best = taken
            if last:
                self._note(f"{here.role}: {taken.target.id} is given, there is no further stage")
                return taken
            verdict = await self._judged(rule, taken, here, (number, count), before)
            onward = min(number + 1 + max(0, verdict.skip), count - 1)
            said = "accepted" if verdict.accept else f"on to stage {onward + 1}"
            self._note(f"{here.role}: {taken.target.id}, {verdict.why}: {said}")
            if verdict.accept:
                return taken
            before, number = (*before, *taken.answers), onward
        if best is None:
            raise self._ended(failure, untold)
        self._note(
            f"{best.target.id} is given all the same: {'no time is left' if self._late() else 'no later stage answered'}"
        )
        return best

    async def _judged(
        self, rule: Accept, taken: Taken, place: Place, stage: tuple[int, int], before: tuple[Given, ...]
    ) -> Verdict:
        """Ask what the rule wants to have asked, then let it judge. A rule of yours that fails accepts nothing."""
        chosen = taken.answers.index(taken.given) if taken.given in taken.answers else 0
        trace = Trace(
            query=prompt_text(self.request),
            answers=taken.answers,
            asked=taken.asked,
            before=before,
            stage=stage[0],
            stages=stage[1],
            chosen=chosen,
            spent_usd=self.spent_usd() or 0.0,
        )
        try:
            checks = await self._checked(rule.questions(trace), place)
            spent = self.spent_usd() or 0.0
            return rule.judge(msgspec.structs.replace(trace, checks=checks, spent_usd=spent))
        except JunctorError:
            raise
        except Exception as error:  # noqa: BLE001 - the plug-in edge
            return Verdict(accept=False, why=f"its accept rule failed with {type(error).__name__}")

    async def _checked(self, questions: Sequence[Question], place: Place) -> tuple[Given, ...]:
        """The answers to a rule's own questions, all asked at once; those that fail are missing."""
        here = replace(place, role=f"check of {place.role}", last=False, needed=False)
        calls = [self._call(q.target, here, self._asking(q.prompt)) for q in questions for _ in range(q.times)]
        return tuple(found.given for found in await self._together(calls) if isinstance(found, Taken))

    def _asking(self, prompt: str) -> Request:
        return Request(id=self.request.id, text=prompt, messages=(Message("user", prompt),), tenant=self.request.tenant)

    async def _panel(self, plan: Panel, place: Place) -> Taken:
        maker = aggregator(plan.aggregate, plan.settings)
        parts = [self._take(p, place.part(f"member {i}")) for i, p in enumerate(plan.plans, 1)]
        results = await self._together(parts)
        found = [result for result in results if isinstance(result, Taken)]
        if not found:
            failures = sorted((r for r in results if isinstance(r, JunctorError)), key=lambda r: isinstance(r, RequestError))
            raise failures[0] if failures else self._too_late()
        given = tuple(taken.given for taken in found)
        trace = Trace(
            query=prompt_text(self.request),
            answers=given,
            asked=len(parts),
            before=place.before,
            spent_usd=self.spent_usd() or 0.0,
        )
        choice = _chosen(maker, trace)
        won = self._taken[choice.given.place]
        self._note(f"{place.role or 'panel'}: {plan.aggregate} of {len(given)}: {won.target.id}, {choice.why}")
        return replace(won, answers=given, asked=len(parts))

    async def _together(self, calls: Sequence[Coroutine[Any, Any, Taken]]) -> list[Taken | JunctorError]:
        """All at once, in the given order; a failure is a result."""
        if len(calls) == 1:
            return [await _caught(calls[0])]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_caught(call)) for call in calls]
        return [task.result() for task in tasks]

    async def _call(self, id_: str, place: Place, request: Request | None = None) -> Taken:
        target = self.catalogue.get(id_)
        if target is None:
            raise UpstreamError("is in the plan, but not among the targets", target=id_)
        promised = self._allowed(target, place, request or self.request)
        self._asked = True
        needed = place.last and place.needed
        try:
            won = await self._in_turn(_ask(request), (id_,), last=place.last, role=place.role, again=needed)
        finally:
            self._promised -= promised
        reply, site, started, _ = won
        target = site.target
        outcome = outcome_of(reply, target, self.elapsed_s() - started)
        self._answered(site, started, outcome, role=place.role)
        number = len(self._taken)
        text = text_of(reply.body)
        given = Given(target=id_, text=text, cost_usd=outcome.cost_usd, finished=reply.finish_reason, place=number)
        taken = Taken(given, reply, target, outcome, (given,))
        self._taken[number] = taken
        return taken

    def _allowed(self, target: Target, place: Place, request: Request) -> float:
        """USD that this call is expected to cost, held back until it is billed; raises LeftOut when it must not be made."""
        if not place.needed and (wait := self.health.cooling_s(target.id)) > 0:
            raise self._left_out(target, place, f"is cooling down for {wait:.1f} s")
        budget = self.request.constraints.budget_usd
        if budget is None:
            return 0.0
        cost = expected_cost_usd(target, Demand.of(request)) or 0.0
        left = budget - (self.spent_usd() or 0.0) - self._promised
        if self._asked and cost > left:
            raise self._left_out(target, place, f"costs about {cost:.6f} USD, {max(0.0, left):.6f} are left of the budget")
        self._promised += cost
        return cost

    def _left_out(self, target: Target, place: Place, why: str) -> LeftOut:
        self._note(f"{place.role or 'call'}: {target.id} {why}")
        return LeftOut(why, target=target.id)

    def _note(self, step: str) -> None:
        self.steps.append(step)

    def _late(self) -> bool:
        return self.left_s() <= CLOCK_GRAIN_S

    def _out_of_time(self, failure: UpstreamError | RequestError) -> JunctorError:
        return failure  # the plan decides what follows: there may be an answer already

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"no answer within {self.deadline_s:g} s", fix="allow more time, or a faster target")


def _ask(request: Request | None) -> Ask[Reply]:
    """Ask for a whole answer to the request itself, or to another one in its place."""

    def ask(provider: Provider, asked: Request, target: Target, limit_s: float) -> Coroutine[Any, Any, Reply]:
        return provider.complete(request or asked, target, limit_s)

    return ask


def _chosen(maker: Aggregate, trace: Trace) -> Choice:
    """The aggregator's choice; when one of yours fails, the first answer."""
    try:
        return maker.choose(trace)
    except Exception as error:  # noqa: BLE001 - the plug-in edge
        return Choice(given=trace.answers[0], why=f"the first, because the aggregator failed with {type(error).__name__}")


async def _caught(call: Coroutine[Any, Any, Taken]) -> Taken | JunctorError:
    try:
        return await call
    except JunctorError as error:
        return error


class BufferedAnswer(StreamAnswer):
    """An answer that is complete before its first event: all its calls are recorded, and its cost is known."""

    def __init__(self, reply: Buffered, run: PlanRun, taken: Taken, billed: Outcome, first_byte_s: float) -> None:
        super().__init__(reply, run, taken.target, first_byte_s, first_byte_s)
        self.billed_usd = billed.cost_usd
        self._own = taken.outcome

    @property
    def tries(self) -> int:
        """How many calls were made."""
        return len(self.run.attempts)

    def _settle(self, error: BaseException | None) -> None:
        self.outcome = self._own
        self.run.settle(self.target.id, self._own, "" if error is None else code_of(error))
