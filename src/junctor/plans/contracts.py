"""The contracts of a plan's two judges. An accept rule says whether a cascade may stop; an aggregator makes one answer of many.

Both are frozen keyword-only dataclasses: their fields are the settings that a plan carries, so that a plan is data. Both are
pure: they look at a Trace, and whatever calls an accept rule wants to be made are questions that the engine asks and bills.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import Struct

from junctor import registry
from junctor.errors import UserError
from junctor.estimators.settings import configured
from junctor.types import Cascade, Fallback, Panel, Plan


class Given(Struct, frozen=True, kw_only=True):
    """One answer.

    target    who gave it
    text      its text; tool calls are in it as JSON
    cost_usd  of this call, None when not known
    signals   figures that came with it, by name ("score"): the rule says which it reads
    finished  why it ended ("stop", "length", …)
    place     its number among all answers of the run
    """

    target: str
    text: str = ""
    cost_usd: float | None = None
    signals: Mapping[str, float] = {}
    finished: str = ""
    place: int = 0


class Trace(Struct, frozen=True, kw_only=True):
    """What a rule sees.

    query      what was asked
    answers    of this stage or panel, in the plan's order; calls that failed are missing
    asked      how many calls this stage or panel made
    before     the answers of earlier stages
    stage      which plan of its cascade this is, counted from 0, and `stages` how many there are
    chosen     which of `answers` stands for the stage
    checks     answers to the rule's own questions about this stage
    spent_usd  so far, as far as costs are known
    """

    query: str
    answers: tuple[Given, ...]
    asked: int = 1
    before: tuple[Given, ...] = ()
    stage: int = 0
    stages: int = 1
    chosen: int = 0
    checks: tuple[Given, ...] = ()
    spent_usd: float = 0.0

    @property
    def answer(self) -> Given:
        """The one that stands for the stage."""
        return self.answers[self.chosen]


class Question(Struct, frozen=True, kw_only=True):
    """A call that a rule wants to be made before it judges: `times` times this prompt to this target."""

    target: str
    prompt: str
    times: int = 1


class Verdict(Struct, frozen=True, kw_only=True):
    """Whether to stop here, and if not, how many of the next plans to leave out. `why` goes to the journal."""

    accept: bool
    why: str
    skip: int = 0


class Choice(Struct, frozen=True, kw_only=True):
    """The answer that a panel gives, and why."""

    given: Given
    why: str


class Accept(ABC):
    """Judges one stage of a cascade."""

    name: ClassVar[str]

    def questions(self, trace: Trace) -> tuple[Question, ...]:
        """Calls to make first; they are billed like any other. None by default."""
        del trace
        return ()

    @abstractmethod
    def judge(self, trace: Trace) -> Verdict:
        """Accept or go on. Not asked about the last stage."""


class Aggregate(ABC):
    """Makes one answer of a panel's; at least one is there."""

    name: ClassVar[str]

    @abstractmethod
    def choose(self, trace: Trace) -> Choice:
        """One of the trace's answers, earlier ones included."""


def accept_rule(name: str, settings: Mapping[str, Any]) -> Accept:
    """The registered rule under these settings; raises UnknownName or ConfigError."""
    made: Accept = configured(registry.load("accept", name), settings, name)
    return made


def aggregator(name: str, settings: Mapping[str, Any]) -> Aggregate:
    """The registered aggregator under these settings; raises UnknownName or ConfigError."""
    made: Aggregate = configured(registry.load("aggregate", name), settings, name)
    return made


def check_plan(plan: Plan) -> None:
    """Raise UserError unless every name in the plan is registered, its settings fit, and no part is empty."""
    if isinstance(plan, (Fallback, Cascade, Panel)):
        if not plan.plans:
            raise UserError("has no plans in it", field=type(plan).__name__.lower(), fix="name at least one call")
        if isinstance(plan, Cascade):
            accept_rule(plan.accept, plan.settings)
        if isinstance(plan, Panel):
            aggregator(plan.aggregate, plan.settings)
        for part in plan.plans:
            check_plan(part)
