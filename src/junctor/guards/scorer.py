"""A scorer of texts that was fitted on labelled ones: a logistic line over the static encoder, hashed words and our own lists.

`fit_scorer` chooses the ridge and the threshold on folds that the weights were not fitted on; `Scorer.score` takes some
hundreds of microseconds. The artefact is a folder with one JSON file; it holds numbers, no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from junctor.encoders.base import Encoder
from junctor.encoders.lexical import LexicalEncoder
from junctor.encoders.static import StaticEncoder
from junctor.errors import ArtefactError, TableError
from junctor.guards import injection, unsafe

FILE = "scorer.json"
FORMAT = 1
FOLDS = 5
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)
LEAST_ROWS = 20
HASHED = 2048
STEPS = 30
Floats = NDArray[np.float64]


class Measured(Struct, frozen=True, kw_only=True):
    """What the folds said, each row scored by weights that never saw it."""

    rows: int
    positives: int
    auroc: float
    auprc: float
    precision: float
    recall: float


class Saved(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The artefact."""

    format: int
    label: str
    encoders: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float
    threshold: float
    ridge: float
    measured: Measured


@cache
def _encoders() -> tuple[Encoder, ...]:
    return StaticEncoder(), LexicalEncoder(HASHED)


def features(texts: Sequence[str]) -> Floats:
    """[N, D]: static embedding, hashed words, and the scores of our own lists."""
    listed = np.array([[*unsafe.scores(text).values(), injection.score(text)] for text in texts])
    return np.concatenate([*(encoder.encode(texts).astype(np.float64) for encoder in _encoders()), listed], axis=1)


class Scorer:
    """A fitted scorer: `score(text)` is the probability of `label`."""

    def __init__(self, saved: Saved) -> None:
        self.saved = saved
        self.label = saved.label
        self.threshold = saved.threshold
        self._weights = np.array(saved.weights)

    def score(self, text: str) -> float:
        """From 0 to 1."""
        return float(_probability(features([text]) @ self._weights + self.saved.bias)[0])

    def save(self, folder: Path | str) -> None:
        """Write the artefact; raises ArtefactError when it cannot be written."""
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(self.saved), indent=1))
        except OSError as error:
            raise ArtefactError(f"cannot be written: {error.strerror}", field=str(path), fix="name another folder") from error


def load_scorer(folder: Path | str) -> Scorer:
    """Read an artefact; raises ArtefactError."""
    path = Path(folder) / FILE
    fix = "make it with `junctor guards fit`"
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=Saved)
    except OSError as error:
        raise ArtefactError(f"cannot be read: {error.strerror}", field=str(path), fix=fix) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtefactError("is no scorer", field=str(path), fix=fix) from error
    digests = tuple(encoder.digest for encoder in _encoders())
    if saved.format != FORMAT or saved.encoders != digests:
        raise ArtefactError("was made by another version of junctor", field=str(path), fix=fix)
    if len(saved.weights) != sum(encoder.dim for encoder in _encoders()) + len(unsafe.CATEGORIES) + 1:
        raise ArtefactError("is damaged", field=str(path), fix=fix)
    return Scorer(saved)


class Choice(NamedTuple):
    """What the folds chose, and each row's score by weights that never saw it."""

    ridge: float
    threshold: float
    scores: Floats


def fit_scorer(texts: Sequence[str], labels: Sequence[bool], label: str = "unsafe", seed: int = 0) -> Scorer:
    """Fit on labelled texts. Raises TableError when there are under 20 of either label."""
    y = np.asarray(labels, dtype=np.float64)
    positives = int(y.sum())
    if min(positives, len(y) - positives) < LEAST_ROWS:
        raise TableError(
            f"holds {positives} texts with the label and {len(y) - positives} without",
            field=label,
            fix=f"give at least {LEAST_ROWS} of each",
        )
    X = features(texts)
    choice = choose(X, y, seed)
    weights, bias = fit_line(X, y, choice.ridge)
    flagged = choice.scores >= choice.threshold
    right = float((flagged & (y > 0)).sum())
    measured = Measured(
        rows=len(y),
        positives=positives,
        auroc=auroc(y, choice.scores),
        auprc=auprc(y, choice.scores),
        precision=right / max(1.0, float(flagged.sum())),
        recall=right / positives,
    )
    return Scorer(
        Saved(
            format=FORMAT,
            label=label,
            encoders=tuple(encoder.digest for encoder in _encoders()),
            weights=tuple(float(np.round(w, 6)) for w in weights),
            bias=bias,
            threshold=choice.threshold,
            ridge=choice.ridge,
            measured=measured,
        )
    )


def choose(X: Floats, y: Floats, seed: int = 0, ridges: Sequence[float] = RIDGES) -> Choice:
    """Ridge by average precision, threshold by F1, both on rows that the weights were not fitted on."""
    folds = folds_of(y, seed)
    best: Choice | None = None
    most = -1.0
    for ridge in ridges:
        scores = np.empty(len(y))
        for fold in range(FOLDS):
            held = folds == fold
            weights, bias = fit_line(X[~held], y[~held], ridge)
            scores[held] = _probability(X[held] @ weights + bias)
        quality = auprc(y, scores)
        if quality > most:
            most, best = quality, Choice(ridge, best_threshold(y, scores), scores)
    assert best is not None
    return best


def folds_of(y: Floats, seed: int) -> NDArray[np.intp]:
    """A fold for each row, the label spread evenly."""
    rng = np.random.default_rng(seed)
    folds = np.empty(len(y), dtype=np.intp)
    for value in (0.0, 1.0):
        rows = rng.permutation(np.flatnonzero(y == value))
        folds[rows] = np.arange(len(rows)) % FOLDS
    return folds


def fit_line(X: Floats, y: Floats, ridge: float) -> tuple[Floats, float]:
    """Weights and bias of a logistic regression in which both labels weigh the same (Newton, in the rows' own space)."""
    n = len(y)
    balance = np.where(y > 0, n / (2 * y.sum()), n / (2 * (n - y.sum())))
    kernel = X @ X.T / ridge + 1.0  # the 1 is the bias: a constant feature
    z = np.zeros(n)
    for _ in range(STEPS):
        p = _probability(z)
        w = np.maximum(balance * p * (1 - p), 1e-9)
        aim = z + balance * (y - p) / w
        alpha = np.linalg.solve(kernel + np.diag(1 / w), aim)
        fresh = kernel @ alpha
        done = float(np.abs(fresh - z).max()) < 1e-6
        z = fresh
        if done:
            break
    weights: Floats = X.T @ alpha / ridge
    return weights, float(alpha.sum())


def _probability(z: Floats) -> Floats:
    out: Floats = 1 / (1 + np.exp(-np.clip(z, -40, 40)))
    return out


def best_threshold(y: Floats, scores: Floats) -> float:
    """The threshold of the highest F1, half-way to the next lower score."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(y[order])
    f1 = 2 * hits / (np.arange(1, len(y) + 1) + y.sum())
    f1[:-1][np.diff(scores[order]) == 0] = -1.0  # texts of equal score come together
    place = int(np.argmax(f1))
    lower = scores[order[place + 1]] if place + 1 < len(y) else 0.0
    return float((scores[order[place]] + lower) / 2)


def auroc(y: Floats, scores: Floats) -> float:
    """The chance that a labelled text scores above one without the label; ties count half."""
    values, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    del values
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    ones = y.sum()
    return float((ranks[y > 0].sum() - ones * (ones + 1) / 2) / (ones * (len(y) - ones)))


def auprc(y: Floats, scores: Floats) -> float:
    """Average precision; texts of equal score come together."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(y) - 1)
    hits = np.cumsum(y[order])[last]
    recall = np.diff(np.concatenate([[0.0], hits / y.sum()]))
    return float((recall * hits / (last + 1)).sum())
