"""The last decisions of all workers, as they come: read off the end of the journal, or out of memory where there is none."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from junctor.engine import Engine
from junctor.engine.trial_report import TrialReport, trial_reports
from junctor.journal import DecisionRecord, FeedbackRecord, NoteRecord, OutcomeRecord, Record, ShadowRecord
from junctor.telemetry.tail import Tail

SHOWN = 500
NOTES = 50
LOOK_BACK_BYTES = 1 << 20
MOST_BEHIND_BYTES = 4 << 20
TRIAL_BYTES = 16 << 20
TRIAL_DECISIONS = 20_000
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def recent_trials(path: Path) -> tuple[TrialReport, ...]:
    """What the trials have shown lately: in the last 20,000 decisions, as far as 16 MiB of journal hold them. Blocks."""
    tail = Tail(path)
    tail.skip_to_last(TRIAL_BYTES)
    return trial_reports(_records(tail), most=TRIAL_DECISIONS)


def _records(tail: Tail) -> Iterator[Record]:
    while lines := tail.take():
        for line in lines:
            try:
                yield _decoder.decode(line)
            except (msgspec.DecodeError, ValueError):
                continue


class Live:
    """Rows of decisions; each change of a row gets a new number, so that a reader asks for what came after its last one.

    `notes` are the latest things that happened beside the requests: a policy was updated, taken back, …
    """

    def __init__(self, path: Path | None, engine: Engine | None = None) -> None:
        self._tail = Tail(path) if path is not None else None
        self.engine = engine
        self._rows: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._number = 0
        self.notes: deque[NoteRecord] = deque(maxlen=NOTES)
        if self._tail is not None:
            self._tail.skip_to_last(LOOK_BACK_BYTES)

    def catch_up(self) -> None:
        """Read what is new; who is far behind skips: this is a window, not an archive. Blocks on the disk."""
        if self._tail is None:
            self._from_memory()
            return
        if self._tail.behind > MOST_BEHIND_BYTES:
            self._tail.skip_to_last(LOOK_BACK_BYTES)
        for record in _records(self._tail):
            self._take(record)

    def _from_memory(self) -> None:
        for known in self.engine.ledger.recent()[-SHOWN:] if self.engine is not None else ():
            row = self._rows.get(known.decision.id)
            if row is not None and (row["outcome"] is not None or known.outcome is None):
                continue
            self._take(DecisionRecord(at=known.at, decision=known.decision, alias=known.alias, refusals=known.refusals))
            if known.outcome is not None:
                self._take(known.outcome)

    def _take(self, record: Record) -> None:
        if isinstance(record, DecisionRecord):
            row = _row(record)
            self._rows[row["id"]] = row
            if len(self._rows) > SHOWN:
                self._rows.popitem(last=False)
        elif isinstance(record, OutcomeRecord | FeedbackRecord | ShadowRecord):
            found = self._rows.get(record.id)
            if found is None:
                return
            row = found
            if isinstance(record, OutcomeRecord):
                row["outcome"] = record
            else:
                name = "feedback" if isinstance(record, FeedbackRecord) else "shadows"
                row[name] = [*row[name], record]
        else:
            self.notes.appendleft(record)
            return
        self._number += 1
        row["n"] = self._number

    def after(self, number: int, limit: int, *, text: bool = True) -> dict[str, Any]:
        """Rows that changed after `number`, the latest first; `text` False leaves the prompts out."""
        rows = [row for row in list(self._rows.values()) if row["n"] > number]  # a thread may be adding some
        rows = sorted(rows, key=lambda row: (-row["at"], row["id"]))[:limit]
        if not text:
            rows = [{**row, "text": "", "redacted": bool(row["text"])} for row in rows]
        return {"last": self._number, "decisions": rows}


def _row(record: DecisionRecord) -> dict[str, Any]:
    decision = record.decision
    return {
        "n": 0,
        "id": decision.id,
        "at": record.at,
        "alias": record.alias,
        "tenant": record.tenant,
        "key": record.key,
        "text": record.text,
        "labels": dict(record.labels),
        "target": decision.target,
        "policy": decision.policy,
        "version": decision.version,
        "propensity": decision.propensity,
        "propensity_kind": decision.propensity_kind,
        "reasons": decision.reasons,
        "ranked": decision.ranked,
        "plan": decision.plan,
        "refusals": dict(record.refusals),
        "outcome": None,
        "feedback": [],
        "shadows": [],
        "trial": record.trial,
        "side": record.side,
    }
