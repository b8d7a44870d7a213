"""The last few thousand decisions, kept as the bytes that were written of them: a tree of objects each would cost every new
request the cache lines that it displaces. They are read back when somebody asks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Struct

from junctor.journal import DecisionRecord, FeedbackRecord, OutcomeRecord, decode, encode
from junctor.types import Decision

LARGE_BYTES = 8192
"""A record above this is kept without its text: a prompt may be a book."""


class Explained(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision and everything that is known of what came of it. Never holds the prompt."""

    at: float
    alias: str
    decision: Decision
    tenant: str = ""
    key: str = ""
    refusals: Mapping[str, str] = {}
    trial: str = ""
    side: str = ""
    outcome: OutcomeRecord | None = None
    feedback: tuple[FeedbackRecord, ...] = ()


def explained(record: DecisionRecord) -> Explained:
    """A decision of which nothing has come yet."""
    return Explained(
        at=record.at,
        alias=record.alias,
        decision=record.decision,
        tenant=record.tenant,
        key=record.key,
        refusals=record.refusals,
        trial=record.trial,
        side=record.side,
    )


class _Entry:
    __slots__ = ("alias", "decision", "feedback", "outcome")

    def __init__(self, alias: str, decision: bytes) -> None:
        self.alias = alias
        self.decision = decision
        self.outcome = b""
        self.feedback: tuple[FeedbackRecord, ...] = ()

    def explained(self) -> Explained:
        record = decode(self.decision)
        assert isinstance(record, DecisionRecord)
        outcome = decode(self.outcome) if self.outcome else None
        assert outcome is None or isinstance(outcome, OutcomeRecord)
        return msgspec.structs.replace(explained(record), outcome=outcome, feedback=self.feedback)


class Memory:
    """At most `most` decisions; the oldest goes first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def __contains__(self, id_: str) -> bool:
        return id_ in self._entries

    def __iter__(self) -> Iterator[Explained]:
        """Oldest first."""
        return (entry.explained() for entry in list(self._entries.values()))

    def decided(self, record: DecisionRecord, body: bytes | None = None) -> None:
        """A new decision; `body` is the record as it was encoded for the journal."""
        if body is None or len(body) > LARGE_BYTES:
            body = encode(msgspec.structs.replace(record, text=""))
        self._keep(record.decision.id, _Entry(record.alias, body))

    def settled(self, id_: str, body: bytes) -> bool:
        """What came of it, encoded; False when it is not remembered."""
        entry = self._entries.get(id_)
        if entry is None:
            return False
        entry.outcome = body
        return True

    def said(self, id_: str, known: Explained, record: FeedbackRecord) -> Explained:
        """Feedback; a decision that is no longer here comes back as it is `known`."""
        entry = self._entries.get(id_)
        if entry is None:
            decision = DecisionRecord(
                at=known.at,
                decision=known.decision,
                alias=known.alias,
                tenant=known.tenant,
                key=known.key,
                refusals=known.refusals,
                trial=known.trial,
                side=known.side if known.side in ("current", "candidate") else "",  # type: ignore[arg-type]
            )
            entry = _Entry(known.alias, encode(decision))
            entry.outcome = b"" if known.outcome is None else encode(known.outcome)
            entry.feedback = known.feedback
            self._keep(id_, entry)
        entry.feedback = (*entry.feedback, record)
        return entry.explained()

    def get(self, id_: str) -> Explained | None:
        """Everything known of one decision, or None."""
        entry = self._entries.get(id_)
        return None if entry is None else entry.explained()

    def alias_of(self, id_: str) -> str:
        """Its alias; "" when it has none, or is not here."""
        entry = self._entries.get(id_)
        return "" if entry is None else entry.alias

    def _keep(self, id_: str, entry: _Entry) -> None:
        self._entries[id_] = entry
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
