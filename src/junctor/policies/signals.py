r"""Signals: cheap named features of a request, each with a confidence, read only when somebody asks.

A signal is one of these, and gives 0 where it does not match:

    { contains = ["refund", "invoice"] }           a text occurs            { regex = "\bSELECT\b" }   a pattern is found
    { min_length = 2000 }                          characters               { language = ["de", "fr"] }  what it is written in
    { label = { tier = "gold" } }                  what the caller said     { needs = ["tools"] }        capabilities asked for
    { examples = ["sum this up"], threshold = 0.5 }    cosine with the nearest example
    { category = ["law"] }                         the label that a classifier predicts, with its probability
    { modality = ["image", "audio"] }              what is sent beside text, or "text": nothing else
    { role = { team = ["research"] } }             whose key it is: team, tenant, key, name, admin = "true"
    { pii = ["email", "iban"] }                    personal data of these kinds, or "any"
    { jailbreak = true, threshold = 0.5 }          an attempt to take the model over, with its score

The first six are conditions of the hand-written rules (junctor.policies.rules) and are read by the same code. The last three
read labels that a gateway works out and no caller can set (`caller.…`, `seen.…`); elsewhere they are labels like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from junctor.errors import ConfigError, UserError
from junctor.estimators.categories import Recogniser, probabilities
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.policies.languages import LANGUAGES, language_of
from junctor.policies.rules import When
from junctor.policy import Array

KINDS = (
    *("contains", "regex", "length", "label", "needs", "language", "examples", "category"),
    *("modality", "role", "pii", "jailbreak"),
)
LISTS = ("language", "examples", "category", "modality", "pii")
MODALITIES = {"text": "", "image": "vision", "audio": "audio", "file": "files"}
ROLES = ("team", "tenant", "key", "name", "admin")
CALLER, PII, JAILBREAK = "caller.", "seen.pii", "seen.jailbreak"
ANY_KIND = "any"
LIKELY = 0.5
"""The least score of a jailbreak, where no threshold is set."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """See the module; exactly one kind of condition. `threshold` is the least cosine, or probability of a category."""

    contains: str | tuple[str, ...] = ()
    regex: str = ""
    min_length: int | None = None
    max_length: int | None = None
    label: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    needs: str | tuple[str, ...] = ()
    language: str | tuple[str, ...] = ()
    examples: str | tuple[str, ...] = ()
    category: str | tuple[str, ...] = ()
    modality: str | tuple[str, ...] = ()
    role: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    pii: str | tuple[str, ...] = ()
    jailbreak: bool = False
    threshold: float = 0.0

    @cached_property
    def when(self) -> When:
        """The part that hand-written rules know."""
        return When(**{f.name: getattr(self, f.name) for f in fields(When)})

    @cached_property
    def kind(self) -> str:
        """One of KINDS."""
        given = {
            "length": self.min_length is not None or self.max_length is not None,
            **{kind: bool(getattr(self, kind)) for kind in KINDS if kind != "length"},
        }
        kinds = [kind for kind in KINDS if given[kind]]
        return kinds[0] if len(kinds) == 1 else ""

    @cached_property
    def values(self) -> tuple[str, ...]:
        """Of a signal that lists values (language, examples, category, modality, pii): these."""
        found: Any = getattr(self, self.kind) if self.kind in LISTS else ()
        return (found,) if isinstance(found, str) else tuple(found)

    @cached_property
    def label_names(self) -> frozenset[str]:
        """The labels that it reads."""
        if self.kind == "role":
            return frozenset(CALLER + name for name in self.role)
        named = {"label": frozenset(self.label), "pii": frozenset({PII}), "jailbreak": frozenset({JAILBREAK})}
        return named.get(self.kind, frozenset())

    def validate(self, path: str) -> None:
        """Raise ConfigError for a signal that is none, or two at once, or can never match."""
        check(bool(self.kind), path, "must be exactly one kind of signal", f"one of {', '.join(KINDS)}")
        self.when.validate(path)
        check(-1.0 <= self.threshold <= 1.0, f"{path}.threshold", "must be in [-1, 1]")
        if self.kind == "language":
            strange = [code for code in self.values if code not in LANGUAGES]
            check(not strange, f"{path}.language", f"{strange[:1]} is not told apart", f"known: {', '.join(LANGUAGES)}")
        for kind, found, known in (("modality", self.values, tuple(MODALITIES)), ("role", tuple(self.role), ROLES)):
            strange = [name for name in found if name not in known] if self.kind == kind else []
            check(not strange, f"{path}.{kind}", f"{strange[:1]} is none", f"known: {', '.join(known)}")


def signal_of(found: Any, path: str) -> Signal:
    """From a Signal or a plain table; raises ConfigError that names the wrong key."""
    if not isinstance(found, (Signal, Mapping)):
        raise ConfigError("must be a table", field=path, fix='for example { contains = ["refund"] }')
    made = found if isinstance(found, Signal) else configured(Signal, found, path)
    made.validate(path)
    return made


@dataclass(slots=True)
class Seen:
    """What signals may look at of one request; `share` [1, K] is filled in by the first category signal that is read."""

    text: str
    labels: Mapping[str, str]
    needs: frozenset[str]
    vector: NDArray[np.float32] | None
    share: Array | None = None


class Signals:
    """Signals that are ready to be read: examples embedded [n, D] each, categories learned."""

    def __init__(
        self,
        specs: Mapping[str, Signal],
        examples: Mapping[str, NDArray[np.float32]],
        categories: Sequence[str] = (),
        recogniser: Recogniser | None = None,
    ) -> None:
        self.specs, self.examples = dict(specs), dict(examples)
        self.categories, self.recogniser = tuple(categories), recogniser
        self._places = {
            name: np.array([c in spec.values for c in self.categories], dtype=bool)
            for name, spec in self.specs.items()
            if spec.kind == "category"
        }

    def read(self, name: str, seen: Seen) -> float:
        """Confidence of one signal for one request; raises UserError where it needs a vector and there is none."""
        spec = self.specs[name]
        if spec.kind == "language":
            return float(language_of(seen.text) in spec.values)
        quick = QUICK.get(spec.kind)
        if quick is not None:
            return quick(spec, seen)
        if spec.kind not in ("examples", "category"):
            return float(spec.when.holds(seen.text, seen.labels, seen.needs))
        if seen.vector is None:
            raise UserError("needs an embedding", field=f"signals.{name}", fix="pass features made by an encoder")
        if spec.kind == "examples":
            return float(self._close(name, spec, seen.vector[None, :])[0])
        if seen.share is None:
            seen.share = self._shares(seen.vector[None, :])
        return float(self._category(name, spec, seen.share)[0])

    def read_many(self, names: Sequence[str], features: Features) -> dict[str, Array]:
        """Confidences [N] of several signals for N requests; rows of a table ask for no capability."""
        out: dict[str, Array] = {}
        share: Array | None = None
        for name in names:
            spec = self.specs[name]
            if spec.kind == "examples":
                out[name] = self._close(name, spec, features.vectors(f"signals.{name}"))
                continue
            if spec.kind == "category":
                share = self._shares(features.vectors(f"signals.{name}")) if share is None else share
                out[name] = self._category(name, spec, share)
                continue
            rows = [Seen(text, _labels(features, i), frozenset(), None) for i, text in enumerate(features.texts)]
            out[name] = np.array([self.read(name, row) for row in rows])
        return out

    def _close(self, name: str, spec: Signal, vectors: NDArray[np.float32]) -> Array:
        close: Array = (vectors @ self.examples[name].T).max(axis=1, initial=-1.0).astype(np.float64)
        return np.where(close >= spec.threshold, np.clip(close, 1e-9, 1.0), 0.0)

    def _shares(self, vectors: NDArray[np.float32]) -> Array:
        """[N, K] probabilities of the categories; K = 0 where none were learned."""
        if self.recogniser is None:
            return np.zeros((len(vectors), 0))
        return probabilities(self.recogniser.scores(vectors))

    def _category(self, name: str, spec: Signal, share: Array) -> Array:
        if not share.shape[1]:
            return np.zeros(len(share))
        best = share.argmax(axis=1)
        sure = share[np.arange(len(share)), best]
        return np.where(self._places[name][best] & (sure >= spec.threshold), sure, 0.0)


def _modality(spec: Signal, seen: Seen) -> float:
    beside = any(need in seen.needs for need in MODALITIES.values() if need)
    return float(any(MODALITIES[name] in seen.needs if MODALITIES[name] else not beside for name in spec.values))


def _role(spec: Signal, seen: Seen) -> float:
    return float(all(seen.labels.get(CALLER + name, "") in _listed(values) for name, values in spec.role.items()))


def _pii(spec: Signal, seen: Seen) -> float:
    found = {kind for kind in seen.labels.get(PII, "").split(",") if kind}
    return float(bool(found) if ANY_KIND in spec.values else not found.isdisjoint(spec.values))


def _jailbreak(spec: Signal, seen: Seen) -> float:
    try:
        score = float(seen.labels.get(JAILBREAK) or 0.0)
    except ValueError:
        return 0.0
    return min(1.0, score) if score >= (spec.threshold or LIKELY) else 0.0


QUICK: Mapping[str, Callable[[Signal, Seen], float]] = {
    "modality": _modality,
    "role": _role,
    "pii": _pii,
    "jailbreak": _jailbreak,
}


def _labels(features: Features, row: int) -> dict[str, str]:
    return {name: values[row] for name, values in features.labels.items()}


def worlds(specs: Mapping[str, Signal], names: Sequence[str], most: int) -> NDArray[np.bool_] | None:
    """[W, n] all combinations of truths that n signals can have together, or None when there are more than `most`.

    Signals about one thing exclude one another: a text has one length, one language, one predicted category, one value per
    label. Signals about different things are taken to be independent, so a combination may still be impossible in practice.
    """
    groups: dict[Any, list[str]] = {}
    for name in names:
        groups.setdefault(_about(specs[name]), []).append(name)
    parts = [sorted(set(_truths([specs[name] for name in members]))) for members in groups.values()]
    if np.prod([float(len(part)) for part in parts]) > most:
        return None
    order = [name for members in groups.values() for name in members]
    rows = [[truth for part in chosen for truth in part] for chosen in product(*parts)]
    table = np.array(rows, dtype=bool).reshape(len(rows), len(order))
    return np.asarray(table[:, [order.index(name) for name in names]])


def _about(spec: Signal) -> Any:
    """Signals with the same answer speak of the same thing."""
    if spec.kind in ("length", "language", "category"):
        return spec.kind
    if spec.kind == "label" and len(spec.label) == 1:
        return ("label", *spec.label)
    return (spec.kind, repr(spec))


def _truths(specs: Sequence[Signal]) -> list[tuple[bool, ...]]:
    """The combinations of truths that signals about one thing can have."""
    if specs[0].kind == "length":
        ends = [end for s in specs for end in (s.min_length or 0, s.max_length) if end is not None]
        lengths = sorted({0, *ends, *(end + 1 for end in ends)})
        return [
            tuple((s.min_length or 0) <= n <= (n if s.max_length is None else s.max_length) for s in specs) for n in lengths
        ]
    if specs[0].kind == "label" and len(specs[0].label) == 1:
        listed = [_listed(next(iter(s.label.values()))) for s in specs]
    elif specs[0].kind in ("language", "category"):
        listed = [s.values for s in specs]
    else:
        return [(False,) * len(specs), (True,) * len(specs)]
    values = dict.fromkeys([*(v for values in listed for v in values), None])
    found = [tuple(value in values for values in listed) for value in values]
    unsure = any(s.threshold > 0 for s in specs) and specs[0].kind == "category"
    return found + (_fewer(found) if unsure else [])


def _fewer(found: Sequence[tuple[bool, ...]]) -> list[tuple[bool, ...]]:
    """Category signals of one value with different thresholds: any of those that match may not."""
    return [truths for row in found for truths in product(*[(False, True) if t else (False,) for t in row])]


def _listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
