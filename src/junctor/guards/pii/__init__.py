"""Personal data in a text: `find(text)` gives the places, without a model, in tens of microseconds.

    from junctor.guards import pii
    pii.find("Write to ana@example.org")      # [Span(start=9, end=24, kind='email', score=1.0)]

Rules, check digits, lists of names and places, and the words around them. docs/gateway/guards.md says how well it does.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from junctor.guards.pii.addresses import find_addresses
from junctor.guards.pii.figures import find_forms
from junctor.guards.pii.names import find_names
from junctor.guards.pii.plain import ODD, plainly
from junctor.guards.pii.spans import KINDS, Span, settled, without_links

__all__ = ["ALL", "KINDS", "LEAST", "Span", "find"]

ALL = frozenset(KINDS)
LEAST = 0.5
NAMED = frozenset({"person", "organisation", "place"})
PLACED = frozenset({"address", "postcode"})


def find(text: str, kinds: AbstractSet[str] = ALL, least: float = LEAST) -> list[Span]:
    """Spans of these kinds with a score of at least `least`, in order; none overlap."""
    if not text.isascii() and ODD.search(text):
        plain, places = plainly(text)
        found = _find(plain, kinds, least)
        return [span._replace(start=places[span.start], end=places[span.end - 1] + 1) for span in found]
    return _find(text, kinds, least)


def _find(text: str, kinds: AbstractSet[str], least: float) -> list[Span]:
    low = text.lower()
    found = list(find_forms(text, low))
    if kinds & PLACED:
        found += find_addresses(text, low)
    if kinds & NAMED:
        found += find_names(text)
    sure = [span for span in found if span.score >= least]
    if "url" not in kinds and "://" in text:
        sure = without_links(sure)
    if len(sure) > 1:
        sure = settled(sure)
    return [span for span in sure if span.kind in kinds]
