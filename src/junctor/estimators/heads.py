"""One-vs-rest heads over a query's vector or over its bag of words: scores that say "none of these" when all are low.

    logistic   log odds on the vector                      svm        squared-hinge margins on the vector
    fasttext   log odds on a hashed bag of words and pairs  wide-mlp   one wide hidden layer on that bag, a sigmoid per class

Every class has its own sigmoid or margin: a softmax has to give its mass to somebody and so rejects worse (GQR).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from junctor.errors import UserError
from junctor.estimators import bags, measured, saved
from junctor.estimators.categories import one_hot
from junctor.estimators.regression import logistic
from junctor.features import Features
from junctor.policy import Array, State

HeadKind = Literal["logistic", "svm", "fasttext", "wide-mlp"]
KINDS: tuple[HeadKind, ...] = ("logistic", "svm", "fasttext", "wide-mlp")
READS_VECTORS = frozenset({"logistic", "svm"})
NEVER = -30.0
"""Score of a class without a training row."""
HIDDEN, EPOCHS, BATCH, RATE = 128, 8, 256, 4e-3

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Head:
    """Scores of K classes.

    layers   (weights [I, O], bias [O]) once, or twice with a rectifier between them (wide-mlp); I is D or bags.PLACES
    """

    kind: HeadKind
    layers: tuple[tuple[NDArray[np.float32], Array], ...]

    @property
    def count(self) -> int:
        """K."""
        return len(self.layers[-1][1])

    def scores(self, features: Features, who: str) -> Array:
        """[N, K] log odds or margins."""
        weights, bias = self.layers[0]
        if self.kind in READS_VECTORS:
            vectors = measured.of_width(features.vectors(who), len(weights), who)
            return np.asarray((vectors @ weights).astype(np.float64) + bias)
        found = bags.product(features.texts, weights) + bias
        for weights, bias in self.layers[1:]:
            found = np.maximum(found, 0.0) @ weights.astype(np.float64) + bias
        return found

    def state(self) -> State:
        """As plain data."""
        arrays: dict[str, NDArray[Any]] = {}
        for place, (weights, bias) in enumerate(self.layers):
            arrays |= {f"head_weights_{place}": weights, f"head_bias_{place}": bias}
        return State({"head": self.kind}, arrays)

    @classmethod
    def from_state(cls, state: State) -> Head:
        """The inverse of `state`."""
        kind: HeadKind = saved.entry(state, "head", HeadKind)  # type: ignore[arg-type]
        width = None if kind in READS_VECTORS else bags.PLACES
        layers = []
        for place in range(2 if kind == "wide-mlp" else 1):
            weights = saved.array(state, f"head_weights_{place}", (width, None), np.float32)
            layers.append((weights, saved.array(state, f"head_bias_{place}", (weights.shape[1],))))
            width = weights.shape[1]
        return cls(kind, tuple(layers))


def fit_head(
    kind: HeadKind, features: Features, rows: Ints, count: int, alpha: float, rng: np.random.Generator, who: str
) -> Head:
    """Learn K = `count` classes from N requests and their classes [N]; rows at -1 are negatives of all.

    alpha is the L2 penalty of the linear heads, as ridge counts it. Raises UserError where no class has a row.
    """
    if not (rows >= 0).any():
        raise UserError("there is no labelled row to learn from", field=who, fix="record rows with a label")
    if kind == "logistic":
        weights, bias = logistic(features.vectors(who).astype(np.float64), one_hot(rows, count), alpha)
        layers = [(weights, bias)]
    elif kind == "wide-mlp":
        layers = _wide(features.texts, one_hot(rows, count), rng)
    else:
        data = features.vectors(who).astype(np.float64) if kind == "svm" else bags.matrix(features.texts)
        layers = [_one_vs_rest(kind, data, rows, count, alpha)]
    seen = np.bincount(rows[rows >= 0], minlength=count) > 0
    weights, bias = layers[-1]
    layers[-1] = np.where(seen, weights, 0.0), np.where(seen, bias, NEVER)
    return Head(kind, tuple((np.ascontiguousarray(w, dtype=np.float32), np.asarray(b, np.float64)) for w, b in layers))


def _one_vs_rest(kind: HeadKind, data: Any, rows: Ints, count: int, alpha: float) -> tuple[Array, Array]:
    """Weights [I, K] and biases [K] of liblinear, one class against the rest at a time."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    weights, bias = np.zeros((data.shape[1], count)), np.full(count, NEVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for k in range(count):
            mine = rows == k
            if mine.all():
                bias[k] = -NEVER
            elif mine.any():
                made = (
                    LinearSVC(C=1.0 / alpha, dual=False, random_state=0)
                    if kind == "svm"
                    else LogisticRegression(C=10.0 / alpha, solver="liblinear", random_state=0)
                ).fit(data, mine)
                weights[:, k], bias[k] = made.coef_[0], made.intercept_[0]
    return weights, bias


def _wide(texts: Sequence[str], classes: Array, rng: np.random.Generator) -> list[tuple[Array, Array]]:
    """WideMLP: bag of words -> one hidden layer of rectifiers -> a sigmoid per class, by Adam on the log loss."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    if classes.shape[1] == 1:
        classes = np.hstack([classes, np.zeros_like(classes)])  # scikit-learn wants two labels; the second one is cut off below
        return [
            layer if place == 0 else (layer[0][:, :1], layer[1][:1]) for place, layer in enumerate(_wide(texts, classes, rng))
        ]
    made = MLPClassifier(
        (HIDDEN,),
        max_iter=EPOCHS,
        batch_size=min(BATCH, len(classes)),
        learning_rate_init=RATE,
        random_state=int(rng.integers(2**31)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        made.fit(bags.matrix(texts), classes.astype(np.intp))
    return list(zip(made.coefs_, made.intercepts_, strict=True))
