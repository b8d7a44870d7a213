"""Topics that are allowed, or refused: by keywords, and by how near a text is to examples that you give.

Nearness is the cosine of the default encoder's vectors; a text is as near to a topic as to the nearest of its examples. The
threshold comes from the examples themselves: half-way between how near examples of one topic are to each other and how near
they are to the rest (`others` helps: a few texts of no topic). It is a coarse sieve: give ten examples or more of each topic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from junctor.encoders.static import StaticEncoder
from junctor.errors import ConfigError, GuardRefused
from junctor.guards.contracts import Guard, Noticed, settings_of
from junctor.types import Request

USUAL = 0.45
LEAST, MOST = 0.25, 0.9
SHORTEST = 12


class Topic(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One topic: texts that are about it, and words that give it away (whole words, small and capital letters alike)."""

    examples: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()


class TopicsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[guards.NAME.settings]` of use = "topics".

    deny        name -> topic: a last user turn that is about one of them is refused
    allow       name -> topic: one that is about none of them is refused; texts under 12 characters pass
    others      texts of no topic: they set the threshold better
    threshold   least cosine that counts; 0: from the examples
    """

    deny: Mapping[str, Topic] = field(default_factory=dict)
    allow: Mapping[str, Topic] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    threshold: float = 0.0


class _Known:
    """The examples of some topics as one matrix, and their keywords."""

    def __init__(self, topics: Mapping[str, Topic], encoder: StaticEncoder) -> None:
        self.names = [name for name, topic in topics.items() for _ in topic.examples]
        texts = [text for topic in topics.values() for text in topic.examples]
        self.rows: NDArray[np.float32] = encoder.encode(texts) if texts else np.zeros((0, encoder.dim), np.float32)
        self.keywords = [(f" {word.lower()} ", name) for name, topic in topics.items() for word in topic.keywords]

    def nearest(self, low: str, vector: NDArray[np.float32]) -> tuple[float, str]:
        """(cosine, name) of the nearest topic; a keyword makes it 1."""
        for word, name in self.keywords:
            if word in low:
                return 1.0, name
        if not len(self.rows):
            return 0.0, ""
        cosines = self.rows @ vector
        best = int(np.argmax(cosines))
        return float(cosines[best]), self.names[best]


class TopicsGuard(Guard):
    """Refuses what is about a denied topic, or about none of the allowed ones. It reads the last user turn."""

    name: ClassVar[str] = "topics"

    def __init__(self, settings: TopicsSettings) -> None:
        if not (settings.deny or settings.allow):
            raise ConfigError("is empty, and so is allow", field="deny", fix="name topics, with examples or keywords")
        for group in ("deny", "allow"):
            for name, topic in getattr(settings, group).items():
                if not (topic.examples or topic.keywords):
                    raise ConfigError("has neither examples nor keywords", field=f"{group}.{name}", fix="give some")
        if not 0 <= settings.threshold <= 1:
            raise ConfigError("is not a number from 0 to 1", field="threshold", fix="0 takes it from the examples")
        self._encoder = StaticEncoder()
        self._deny, self._allow = _Known(settings.deny, self._encoder), _Known(settings.allow, self._encoder)
        self._allows = bool(settings.allow)
        others = self._encoder.encode(settings.others) if settings.others else None
        self.threshold = settings.threshold or threshold_of([self._deny, self._allow], others)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """See TopicsSettings; raises ConfigError."""
        return cls(settings_of(TopicsSettings, settings))

    def before(self, request: Request, noticed: Noticed) -> Request:
        """Raises GuardRefused."""
        text = request.text
        low = " ".join(["", *"".join(c if c.isalnum() else " " for c in text.lower()).split(), ""])
        vector = self._encoder.encode_one(text)
        near, name = self._deny.nearest(low, vector)
        if near >= self.threshold:
            noticed.findings.append(f"{self.label or self.name}: {name} {near:.2f}")
            raise self._refused(f"is about {name}, which is not for this place", name)
        if self._allows and len(text.strip()) >= SHORTEST:
            near, name = self._allow.nearest(low, vector)
            if near < self.threshold:
                raise self._refused("is about nothing that is for this place", "none")
        return request

    def _refused(self, problem: str, name: str) -> GuardRefused:
        return GuardRefused(
            problem, guard=self.label or self.name, findings=(name,), field="messages", fix="ask about something else"
        )


def threshold_of(groups: Sequence[_Known], others: NDArray[np.float32] | None) -> float:
    """Half-way between how near an example is to its own topic (the others of it) and to everything else, in the median."""
    rows = np.concatenate([group.rows for group in groups])
    names = np.array([f"{i} {name}" for i, group in enumerate(groups) for name in group.names])
    if len(rows) < 2:
        return USUAL
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1)
    same = names[:, None] == names[None, :]
    own = np.where(same, cosines, -1).max(axis=1)
    rest = np.where(same, -1, cosines).max(axis=1)
    if others is not None:
        rest = np.maximum(rest, (rows @ others.T).max(axis=1))
    known = (own > -1) & (rest > -1)
    if not known.any():
        return USUAL
    return float(np.clip((np.median(own[known]) + np.median(rest[known])) / 2, LEAST, MOST))
