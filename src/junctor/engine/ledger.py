"""What the engine writes down and remembers of its decisions: the journal for good, the last few thousand in memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

import msgspec

from junctor.engine.aliases import Alias
from junctor.engine.memory import Explained, Memory, explained
from junctor.engine.run import Run
from junctor.engine.wrapped import innermost
from junctor.errors import JournalError, RequestError, UnknownDecision
from junctor.journal import DecisionRecord, FeedbackRecord, Journal, OutcomeRecord, encode, find
from junctor.policy import Learner
from junctor.types import Outcome, plan_targets

log = logging.getLogger("junctor.engine")
ID_CHARS = 128
COMMENT_CHARS = 4000
Listener = Callable[[Run, OutcomeRecord], None]
"""Hears of the end of a run: `run.context` says who asked, `run.decision` what was chosen, the record what came of it."""
UNITS = ("cost_usd", "latency_s", "energy_j", "input_tokens", "output_tokens")


class Ledger:
    """Journal and memory behind one door; a Learner hears of every result of which a quality or a cost is known.

    A quality is credited to the target that earned it. Where another than the intended one answered (a fallback, a later stage,
    another member of a panel), nothing is known of the intended target, and the learner is told what was paid, and to whom.

    Memory holds the last `remember` decisions, so a decision is found without reading the file.
    """

    def __init__(
        self,
        aliases: Mapping[str, Alias],
        journal: Journal | None,
        *,
        remember: int = 4096,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.journal = journal
        self._aliases = aliases
        learners = (
            name
            for name, alias in aliases.items()
            if any(isinstance(innermost(side.policy), Learner) for side in alias.with_sides)
        )
        self._aliases_that_learn = frozenset(learners)
        self._wall = wall
        self.memory = Memory(remember)
        self.listeners: list[Listener] = []

    def decided(self, record: DecisionRecord) -> None:
        """Write a decision down, before its plan runs; raises JournalError."""
        self.memory.decided(record, None if self.journal is None else self.journal.append(record))

    def settle(self, run: Run, target: str, outcome: Outcome, error: str) -> None:
        """Write the end of a run down. The answer is there already, so a journal that fails now is logged, not raised."""
        record = OutcomeRecord(
            at=self._wall(),
            id=run.decision.id,
            target=target,
            outcome=_billed(run, outcome),
            attempts=tuple(run.attempts),
            error=error,
            steps=tuple(run.steps),
        )
        body = self._write(record)
        if self.memory.settled(record.id, body) and self._aliases_that_learn:
            self._settled(record.id)
        for listener in self.listeners:
            listener(run, record)

    def _settled(self, id_: str) -> None:
        if self.memory.alias_of(id_) in self._aliases_that_learn and (known := self.memory.get(id_)) is not None:
            self._teach(known)

    def _write(self, record: OutcomeRecord) -> bytes:
        if self.journal is not None:
            try:
                return self.journal.append(record)
            except JournalError as problem:
                log.error("the outcome of %s was not written: %s", record.id, problem)
        return encode(record)

    def _teach(self, known: Explained) -> None:
        """Tell a learner what is known by now. Feedback that came before the end of a stream is told at its end."""
        alias = self._aliases.get(known.alias)
        if alias is not None and known.side == "candidate":
            alias = alias.sides.get(known.trial)
        if alias is None or not isinstance(alias.policy, Learner):
            return
        served, outcome, decision = _served(known), _known(known), known.decision
        if not served or (outcome.quality is None and outcome.cost_usd is None):
            return
        if served != decision.target:
            decision = msgspec.structs.replace(decision, target=served)
            outcome = msgspec.structs.replace(outcome, quality=None)
        alias.policy.learn(decision, outcome)

    async def feedback(self, id_: str, outcome: Outcome, comment: str = "") -> FeedbackRecord:
        """Take what somebody says later about a decision; raises RequestError or UnknownDecision."""
        check_feedback(outcome, comment)
        known = await self.explain(id_)
        record = FeedbackRecord(at=self._wall(), id=id_, outcome=outcome, comment=comment)
        if self.journal is not None:
            self.journal.append(record)
        self._teach(self.memory.said(id_, known, record))
        return record

    def remembered(self, id_: str) -> Explained | None:
        """A recent decision, or None."""
        return self.memory.get(id_)

    def alias_of(self, id_: str) -> str:
        """The alias of a recent decision; "" when its target was called by its own id, or it is no longer remembered."""
        return self.memory.alias_of(id_)

    def knows(self, id_: str) -> bool:
        """Whether this decision is in memory."""
        return id_ in self.memory

    def recent(self) -> list[Explained]:
        """The decisions in memory, oldest first."""
        return list(self.memory)

    async def explain(self, id_: str) -> Explained:
        """Everything known of one decision, from memory or else from the journal; raises UnknownDecision."""
        known = self.memory.get(id_)
        if known is None and self.journal is not None and 0 < len(id_) <= ID_CHARS:
            known = await asyncio.to_thread(_look_up, self.journal, id_)
        if known is None:
            raise UnknownDecision(
                f"there is no decision {id_[:ID_CHARS]!r}", field="decision_id", fix="use the x-junctor-decision of an answer"
            )
        return known


def _look_up(journal: Journal, id_: str) -> Explained | None:
    known: Explained | None = None
    for record in find(journal.path, id_):
        if isinstance(record, DecisionRecord):
            known = explained(record)
        elif known is not None and isinstance(record, OutcomeRecord):
            known = msgspec.structs.replace(known, outcome=record)
        elif known is not None and isinstance(record, FeedbackRecord):
            known = msgspec.structs.replace(known, feedback=(*known.feedback, record))
    return known


def _billed(run: Run, outcome: Outcome) -> Outcome:
    """The answer's outcome with the cost of every attempt and the time since arrival."""
    if len(run.attempts) < 2:
        return outcome
    costs = [a.outcome.cost_usd for a in run.attempts if a.outcome.cost_usd is not None]
    return msgspec.structs.replace(outcome, cost_usd=sum(costs) if costs else None, latency_s=run.elapsed_s())


def _served(known: Explained) -> str:
    """Who answered; "" while that is open, unless there is but one target that can."""
    if known.outcome is not None:
        return known.outcome.target
    waiting = set(plan_targets(known.decision.plan))
    return waiting.pop() if len(waiting) == 1 else ""


def _known(known: Explained) -> Outcome:
    """What was measured, overridden by what was said of it, the latest last."""
    outcome = known.outcome.outcome if known.outcome is not None else Outcome()
    for said in known.feedback:
        outcome = _merged(outcome, said.outcome)
    return outcome


def _merged(measured: Outcome, said: Outcome) -> Outcome:
    values = {name: getattr(said, name) for name in said.__struct_fields__ if getattr(said, name) is not None}
    return msgspec.structs.replace(measured, **values)


def check_feedback(outcome: Outcome, comment: str) -> None:
    """Raises RequestError for a figure that cannot be, or when nothing is said at all."""
    quality = outcome.quality
    if quality is not None and not 0 <= quality <= 1:
        raise RequestError(f"{quality} is not in [0, 1]", field="quality", fix="use 0 for useless, 1 for perfect")
    for name in UNITS:
        value = getattr(outcome, name)
        if value is not None and not 0 <= value < float("inf"):
            raise RequestError(f"{value} is not a number of 0 or more", field=name, fix="leave it out when it is not known")
    if len(comment) > COMMENT_CHARS:
        raise RequestError(f"is over {COMMENT_CHARS} characters", field="comment", fix="shorten it")
    if outcome == Outcome() and not comment:
        raise RequestError("says nothing", field="quality", fix="give a quality in [0, 1], a comment, or a measured figure")
