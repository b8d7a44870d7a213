"""Personal data in a text: `find(text)` gives the places, without a model, in tens of microseconds.

    from junctor.guards import pii
    pii.find("Write to ana@example.org")      # [Span(start=9, end=24, kind='email', score=1.0)]

Rules, check digits, lists of names and places, and the words around them. docs/gateway/guards.md says how well it does.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from junctor.guards.pii.figures import find_forms
from junctor.guards.pii.spans import KINDS, Span, settled

__all__ = ["ALL", "KINDS", "LEAST", "Span", "find"]

ALL = frozenset(KINDS)
LEAST = 0.5
NAMED = frozenset({"person", "organisation", "place"})


def find(text: str, kinds: AbstractSet[str] = ALL, least: float = LEAST) -> list[Span]:
    """Spans of these kinds with a score of at least `least`, in order; none overlap."""
    found = [span for span in find_forms(text) if span.score >= least and span.kind in kinds]
    return settled(found) if len(found) > 1 else found
