"""Dataset cards: protocol facts and noted bars of tables that have been published. The cards themselves are in cards.toml.

A table is recognised by its targets and labels, never by a file name. A card may change how outcomes are counted (choice tasks)
and which figure ranks; it never changes a measured figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.resources import files

import msgspec
import numpy as np
from msgspec import Struct

from junctor.bench.document import CardNote, NotedBar, Row
from junctor.outcomes import OutcomeTable


class Bar(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure that was published or noted, as a fraction; `why` says what makes ours differ, empty when nothing should.

    `experiment` is the one of the suite that it belongs to; a single bench is the standard one.
    """

    policy: str
    metric: str
    split: str
    noted: float
    source: str
    why: str = ""
    experiment: str = "standard"


class Card(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the protocol of one published table says.

    targets    exactly these
    labels     the table's labels are among these (any, when empty)
    requires   and include these
    choice     labels whose score is a probability of the right option: right when above 0
    headline   the metric that ranks
    """

    name: str
    title: str
    targets: frozenset[str]
    labels: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    choice: frozenset[str] = frozenset()
    headline: str = "quality"
    notes: tuple[str, ...] = ()
    bar: tuple[Bar, ...] = ()

    def fits(self, table: OutcomeTable) -> bool:
        """Whether this is the card of the table."""
        found = {str(name) for name in table.label if name}
        return set(table.targets.ids) == self.targets and self.requires <= found and (not self.labels or found <= self.labels)

    def count(self, table: OutcomeTable) -> OutcomeTable:
        """The table with the qualities of choice tasks as 0 or 1; unrecorded cells stay unrecorded."""
        if not self.choice:
            return table
        rows = np.array([name in self.choice for name in table.label])[:, None]
        right = np.where(table.mask, (table.quality > 0).astype(np.float64), np.nan)
        return replace(table, quality=np.where(rows, right, table.quality))

    def note(self, find: Callable[[str, str, str], Row | None], experiment: str = "standard") -> CardNote:
        """The card beside what was measured in one experiment; `find` gives the row of (split, policy, metric)."""
        bars = tuple(_beside(bar, find) for bar in self.bar if bar.experiment == experiment)
        return CardNote(name=self.name, title=self.title, notes=self.notes, bars=bars)


class _Cards(Struct, frozen=True, forbid_unknown_fields=True):
    card: tuple[Card, ...]


@cache
def cards() -> tuple[Card, ...]:
    """All cards."""
    return msgspec.toml.decode(files(__package__).joinpath("cards.toml").read_bytes(), type=_Cards).card


def card_of(table: OutcomeTable) -> Card | None:
    """The card of a table, or None."""
    return next((card for card in cards() if card.fits(table)), None)


def _beside(bar: Bar, find: Callable[[str, str, str], Row | None]) -> NotedBar:
    row = find(bar.split, bar.policy, bar.metric)
    return NotedBar(
        policy=bar.policy,
        metric=bar.metric,
        split=bar.split,
        noted=bar.noted,
        source=bar.source,
        measured=None if row is None else row.value,
        low=None if row is None else row.low,
        high=None if row is None else row.high,
        why=bar.why,
    )
