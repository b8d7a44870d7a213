"""Our own gateway journal: one row per decision, with the outcome of the target that answered and the propensity of the choice.

The form is that of `junctor.journal`, version 1. Feedback overrides what the gateway recorded, field by field; a later record
overrides an earlier one. Every other target's cell is not recorded: such a table is sparse, and its propensities say how the
targets were chosen. Decisions whose prompts were journalled as digests keep them apart but cannot be encoded.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from junctor.errors import TableError
from junctor.journal import DecisionRecord, FeedbackRecord, OutcomeRecord
from junctor.journal import read as records_of
from junctor.outcomes.collecting import Collector
from junctor.outcomes.columns import LABELS, Options
from junctor.outcomes.files import check_exists
from junctor.outcomes.table import OutcomeTable
from junctor.types import Outcome

CHECK = "check of "
"""How the role of a call begins that judged an answer and gave none."""


def read(path: Path, *, label: str = "") -> OutcomeTable:
    """Read a journal file. `label` names the request label that figures are grouped by; by default a well-known one."""
    check_exists(path)
    decisions: dict[str, DecisionRecord] = {}
    served: dict[str, str] = {}
    outcomes: dict[str, Outcome] = {}
    feedback: dict[str, Outcome] = {}
    records = records_of(path)
    for record in records:
        if isinstance(record, DecisionRecord):
            decisions[record.decision.id] = record
        elif isinstance(record, OutcomeRecord):
            served[record.id] = record.target
            outcomes[record.id] = _own(record)
        elif isinstance(record, FeedbackRecord):
            feedback[record.id] = _over(feedback.get(record.id, Outcome()), record.outcome)
    if not decisions:
        raise TableError("holds no decisions", field=str(path), fix="name the journal of a gateway that has answered requests")
    known = {
        id_: _over(outcomes.get(id_, Outcome()), feedback.get(id_, Outcome())) for id_ in outcomes.keys() | feedback.keys()
    }
    options = Options(str(path), drop_empty=True)
    _note(options, records.torn, len(known.keys() - decisions.keys()), sum(not target for target in served.values()))
    collector = Collector(options)
    for id_, record in decisions.items():
        # Feedback without an outcome record (the gateway died in between) speaks of the target that was chosen.
        _collect(collector, record, served.get(id_, record.decision.target), known.get(id_, Outcome()))
    if not any(outcome.quality is not None for id_, outcome in known.items() if id_ in decisions):
        fix = "send feedback with a quality for some decisions"
        raise TableError("no decision has a quality", field=str(path), fix=fix)
    names = [label] if label else [name for name in LABELS if any(name in record.labels for record in decisions.values())]
    return collector.table(names[0] if names else "")


def _own(record: OutcomeRecord) -> Outcome:
    """What the target that answered cost by itself: a plan that looks at answers bills probes, checks and rejected ones too."""
    if not record.steps:
        return record.outcome
    calls = [a.outcome for a in record.attempts if a.target == record.target and not a.error and not a.role.startswith(CHECK)]
    return msgspec.structs.replace(calls[0], quality=record.outcome.quality) if calls else record.outcome


def _over(below: Outcome, above: Outcome) -> Outcome:
    """`above` where it is known, else `below`."""
    known = {name: value for name in above.__struct_fields__ if (value := getattr(above, name)) is not None}
    return msgspec.structs.replace(below, **known)


def _collect(collector: Collector, record: DecisionRecord, served: str, outcome: Outcome) -> None:
    decision = record.decision
    labels = {**record.labels, **{name: value for name, value in (("tenant", record.tenant), ("alias", record.alias)) if value}}
    row = collector.query(decision.id, record.text, labels)
    for target in record.targets:
        collector.target(target)
    where = f"decision {decision.id}"
    propensity = {"propensity": decision.propensity}
    values = msgspec.structs.asdict(outcome)
    if served == decision.target:
        collector.outcome(row, served, where, **values, **propensity)
        return
    # A fallback answered, or nobody: the choice has its propensity, the one that answered the outcome.
    collector.outcome(row, decision.target, where, **propensity)
    if served:
        collector.outcome(row, served, where, **values)


def _note(options: Options, torn: int, strangers: int, unanswered: int) -> None:
    found = (
        (torn, "journal lines are damaged and were skipped"),
        (strangers, "outcomes belong to decisions that are not in this file"),
        (unanswered, "decisions were answered by no target"),
    )
    options.notes += [f"{n} {what}" for n, what in found if n]
