"""Guards that give a text a score and act on it: injection, unsafe, and a scorer of your own.

Every text of a request is scored by itself, with the roles that the settings name; of several the highest counts. A reply is
scored when it is whole, so its stream is held back.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import msgspec
from msgspec import Struct

from junctor.errors import ConfigError, GuardRefused, ReplyRefused
from junctor.guards import injection, unsafe
from junctor.guards.contracts import Guard, Noticed, settings_of
from junctor.guards.scorer import Scorer, load_scorer
from junctor.guards.texts import ROLES, message_texts, words_of
from junctor.types import Request

Act = Literal["block", "annotate"]


class ScoreSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[guards.NAME.settings]` of use = "injection" and of use = "unsafe".

    threshold    a score of this much or more is acted on; 0: the guard's own
    mode         "block" (400 for a request, 502 for a reply), or "annotate": only say so in the header x-junctor-guards
    roles        whose words of a request are scored; empty: the guard's own
    replies      whether replies are scored too; streams are held back then
    categories   of use = "unsafe": which ones count; empty: all
    """

    threshold: float = 0.0
    mode: Act = "block"
    roles: tuple[str, ...] = ()
    replies: bool = False
    categories: tuple[str, ...] = ()


class ScoreGuard(Guard):
    """A guard that acts on a score. Subclasses say what the score is."""

    roles: ClassVar[frozenset[str]] = frozenset({"user", "tool", "function"})
    own_threshold: ClassVar[float] = 0.5

    def __init__(self, settings: ScoreSettings | None = None) -> None:
        found = settings or ScoreSettings()
        if not 0 <= found.threshold <= 1:
            raise ConfigError("is not a number from 0 to 1", field="threshold", fix="0 takes the guard's own")
        for role in found.roles:
            if role not in ROLES:
                raise ConfigError(f"{role!r} is no role", field="roles", fix=f"roles: {', '.join(sorted(ROLES))}")
        self.threshold = found.threshold or self.own_threshold
        self._blocks = found.mode == "block"
        self._read = frozenset(found.roles) or self.roles
        self.needs_whole = found.replies

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """See ScoreSettings; raises ConfigError."""
        return cls(settings_of(ScoreSettings, settings))

    @abstractmethod
    def judge(self, text: str) -> tuple[float, str]:
        """(score from 0 to 1, what it was that scored, in a word)."""

    def before(self, request: Request, noticed: Noticed) -> Request:
        """Score what is said. Raises GuardRefused."""
        score, what = max((self.judge(text) for text, _ in words_of(request, self._read)), default=(0.0, ""))
        if score >= self.threshold:
            self._act(noticed, score, what)
            if self._blocks:
                raise GuardRefused(
                    f"looks like {what}",
                    guard=self.label or self.name,
                    findings=(what,),
                    field="messages",
                    fix="say it otherwise",
                )
        return request

    def after(self, request: Request, body: bytes, noticed: Noticed) -> bytes:
        """Score the reply, where that is asked for. Raises ReplyRefused."""
        del request
        if not self.needs_whole:
            return body
        found = msgspec.json.decode(body)
        messages = [c.get("message") for c in found.get("choices") or () if isinstance(c, dict)]
        texts = [text for message in messages if isinstance(message, dict) for text, _ in message_texts(message)]
        score, what = max(map(self.judge, texts), default=(0.0, ""))
        if score >= self.threshold:
            self._act(noticed, score, what)
            if self._blocks:
                raise ReplyRefused(f"the reply looks like {what}", guard=self.label or self.name, findings=(what,))
        return body

    def _act(self, noticed: Noticed, score: float, what: str) -> None:
        noticed.findings.append(f"{self.label or self.name}: {what} {score:.2f}")


class InjectionGuard(ScoreGuard):
    """Attempts to take over the model, in what users and tools say."""

    name: ClassVar[str] = "injection"

    def judge(self, text: str) -> tuple[float, str]:
        """See `junctor.guards.injection`."""
        score = injection.score(text)
        what = ", ".join(injection.families(text)) if score >= self.threshold else ""
        return score, f"an attempt to take over the model ({what})"


class UnsafeGuard(ScoreGuard):
    """Unsafe content, by words or by a scorer of yours; see `junctor.guards.unsafe`."""

    name: ClassVar[str] = "unsafe"
    own_threshold: ClassVar[float] = 0.5

    def __init__(self, settings: ScoreSettings | None = None) -> None:
        super().__init__(settings)
        wanted = settings.categories if settings is not None else ()
        for category in wanted:
            if category not in unsafe.CATEGORIES:
                known = ", ".join(unsafe.CATEGORIES)
                raise ConfigError(f"{category!r} is no category", field="categories", fix=f"categories: {known}")
        self._categories = frozenset(wanted) or frozenset(unsafe.CATEGORIES)

    def judge(self, text: str) -> tuple[float, str]:
        """The highest category."""
        return max((score, name) for name, score in unsafe.scores(text).items() if name in self._categories)


class ScorerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[guards.NAME.settings]` of use = "scorer": `artefact` is a folder made by `junctor guards fit`, the rest is as above."""

    artefact: str
    threshold: float = 0.0
    mode: Act = "block"
    roles: tuple[str, ...] = ()
    replies: bool = False


class ScorerGuard(ScoreGuard):
    """A scorer that was fitted on labelled texts."""

    name: ClassVar[str] = "scorer"
    paths: ClassVar[tuple[str, ...]] = ("artefact",)

    def __init__(self, scorer: Scorer, settings: ScoreSettings | None = None) -> None:
        super().__init__(settings)
        self._scorer = scorer
        if settings is None or not settings.threshold:
            self.threshold = scorer.threshold

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """See ScorerSettings; raises ConfigError, and ArtefactError when the folder holds no scorer."""
        found = settings_of(ScorerSettings, settings)
        more = ScoreSettings(threshold=found.threshold, mode=found.mode, roles=found.roles, replies=found.replies)
        return cls(load_scorer(found.artefact), more)

    def judge(self, text: str) -> tuple[float, str]:
        """The scorer's probability of its label."""
        return self._scorer.score(text), self._scorer.label
