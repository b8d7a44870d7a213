"""What was found in a text: places and kinds, and how places that overlap are settled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

KINDS = (
    "email",
    "phone",
    "card",
    "iban",
    "ssn",
    "ip",
    "url",
    "secret",
    "date",
    "address",
    "postcode",
    "person",
    "organisation",
    "place",
)


class Span(NamedTuple):
    """text[start:end] is of this kind; `score` in (0, 1] says how sure the rules are."""

    start: int
    end: int
    kind: str
    score: float = 1.0


def settled(spans: Iterable[Span]) -> list[Span]:
    """Spans that do not overlap, in order of place: of those that do, the surest one stays, then the longest."""
    kept: list[Span] = []
    group: list[Span] = []
    end = -1
    for span in sorted(spans):
        if span.start >= end and group:
            kept += _best(group)
            group = []
        group.append(span)
        end = max(end, span.end)
    return kept + _best(group)


def without_links(spans: list[Span]) -> list[Span]:
    """Links that nobody looks for must not hide an address or a secret that stands in them."""
    inner = [span for span in spans if span.kind in ("email", "secret", "iban")]
    if not inner:
        return spans
    return [s for s in spans if s.kind != "url" or not any(s.start <= i.start and i.end <= s.end for i in inner)]


def _best(group: list[Span]) -> list[Span]:
    """The spans that stay of a group that hangs together."""
    if len(group) < 2:
        return group
    kept: list[Span] = []
    for span in sorted(group, key=lambda s: (-s.score, s.start - s.end, s.start)):
        if all(span.end <= other.start or span.start >= other.end for other in kept):
            kept.append(span)
    return sorted(kept)
