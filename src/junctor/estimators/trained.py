"""What estimators that are trained by gradient descent share once they are fitted: plain arrays, costs by ridge, reading back.

A subclass names its arrays in `shapes`, one letter per axis: letters that are alike are as long as each other, and in `gaps`
those in which NaN means "not recorded". Reserved letters: D the width of the features, M the targets, R the columns of cost,
latency and tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.errors import ArtefactError, UserError
from junctor.estimators import measured, saved
from junctor.estimators.measured import Columns
from junctor.estimators.regression import ridge, sigmoid
from junctor.estimators.settings import configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State
from junctor.types import Target

BILL_ALPHA = 30.0
"""Ridge penalty of costs, latencies and tokens."""
BILL = {"bill_weights": "DR", "bill_bias": "R", "bill_low": "R", "bill_high": "R"}
GAPS = frozenset({"prior", "bill_bias", "bill_low", "bill_high"})
"""Arrays in which NaN means "never recorded"."""
FEWEST_DEVIATION = 1e-6


class Trained(Estimator):
    """Quality is the sigmoid of log odds that a subclass computes from `parts`; `prior` [M] is NaN for what was never tried.

    `losses` is the training loss per epoch; `stamp` the digest of the encoder that reads texts for it, "" without one.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    settings: ClassVar[type[EstimatorConfig]]
    shapes: ClassVar[Mapping[str, str]]
    gaps: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, config: Any, columns: Columns, parts: Mapping[str, Array], losses: tuple[float, ...], stamp: str = ""
    ) -> None:
        self.config, self.targets, self.losses, self.stamp = config, columns.targets, losses, stamp
        # Sums over an array depend on its layout in the last digit, and files keep none but this one.
        self._columns = columns
        self._parts = {name: np.ascontiguousarray(values, dtype=np.float64) for name, values in parts.items()}
        self.prepare(self._parts)

    def prepare(self, parts: Mapping[str, Array]) -> None:
        """Work out what every prediction needs again; does nothing unless a subclass has such things."""

    @abstractmethod
    def odds(self, vectors: Array, features: Features) -> Array:
        """Log odds of a right answer [N, M] from vectors [N, D]."""

    @abstractmethod
    def introduced(self, target: Target, quality: Array, vectors: Array, features: Features) -> dict[str, Array]:
        """The arrays that grow with a new target, from n recorded qualities [n] and vectors [n, D]; no training."""

    def predict_many(self, features: Features) -> Prediction:
        """Arrays [N, M]: learned quality, and ridge estimates of what else was recorded."""
        found = measured.of_width(features.vectors(self.name), len(self._parts["bill_weights"]), self.name)
        vectors = found.astype(np.float64)
        quality = sigmoid(self.odds(vectors, features))
        if len(self._columns.measures) == 1:
            return self._columns.prediction(quality)
        rest = vectors @ self._parts["bill_weights"] + self._parts["bill_bias"]
        rest = np.minimum(np.maximum(rest, self._parts["bill_low"]), self._parts["bill_high"])
        return self._columns.prediction(np.concatenate([quality, rest], axis=1))

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Self:
        """One more target from its recorded rows, without training; what was trained stays as it is."""
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        vectors = measured.of_width(seen.vectors(self.name), len(self._parts["bill_weights"]), self.name).astype(np.float64)
        found = rows.targets.get(target)
        assert found is not None
        parts = self.introduced(found, values[:, 0], vectors, seen)
        parts.setdefault("prior", np.append(self._parts["prior"], smoothed_odds(values[:, :1])))
        one, rest = bill(vectors, values[:, 1:]), Columns(self.targets, self._columns.measures[1:])
        for name, own in one.items():
            parts[name] = rest.widen(self._parts[name], own)
        return type(self)(self.config, columns, {**self._parts, **parts}, self.losses, self.stamp)

    def state(self) -> State:
        """The arrays of `shapes`, the losses and the settings."""
        config = {**saved.described(self._columns), "settings": self.config.settings(), "losses": list(self.losses)}
        return State({**config, "stamp": self.stamp}, self._parts)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; raises ArtefactError where an array is missing or does not fit the others."""
        columns = saved.columns(state)
        config = configured(cls.settings, saved.entry(state, "settings", dict[str, Any]), cls.name)
        sizes = {"M": len(columns.targets), "R": columns.width - len(columns.targets)}
        parts = {
            name: _read(state, name, axes, sizes, GAPS | cls.gaps)
            for name, axes in {**cls.shapes, **BILL, "prior": "M"}.items()
        }
        losses, stamp = saved.entry(state, "losses", list[float]), saved.entry(state, "stamp", str)
        return cls(config, columns, parts, tuple(losses), stamp)


def _read(state: State, name: str, axes: str, sizes: dict[str, int], gaps: frozenset[str]) -> Array:
    found = saved.array(state, name, (None,) * len(axes), finite=name not in gaps)
    for axis, length in zip(axes, found.shape, strict=True):
        if sizes.setdefault(axis, length) != length:
            raise ArtefactError(f"has shape {found.shape}, other arrays say {axis} = {sizes[axis]}", field=name, fix=saved.FIX)
    return found


def learnable(table: OutcomeTable, features: Features, who: str) -> tuple[Columns, Array, Array]:
    """Columns, their values [N, C] and the vectors [N, D] of a table; raises UserError when there is no row or no vector."""
    measured.same_rows(table, features, who)
    vectors = features.vectors(who).astype(np.float64)
    if not len(table):
        raise UserError("there is no row to learn from", field=who, fix="pass at least one recorded query")
    columns, values = measured.stack(table)
    return columns, values, vectors


def common(columns: Columns, values: Array, vectors: Array) -> dict[str, Array]:
    """The parts that every trained estimator has: the prior and the bill."""
    targets = len(columns.targets)
    return {"prior": smoothed_odds(values[:, :targets]), **bill(vectors, values[:, targets:])}


def bill(vectors: Array, values: Array) -> dict[str, Array]:
    """Ridge weights [D, R], bias [R] and the recorded range of costs, latencies and tokens [N, R]."""
    weights, bias = ridge(vectors, values, BILL_ALPHA)
    seen = ~np.isnan(values)
    low, high = np.where(seen, values, np.inf).min(axis=0), np.where(seen, values, -np.inf).max(axis=0)
    known = seen.any(axis=0)
    return {
        "bill_weights": weights,
        "bill_bias": bias,
        "bill_low": np.where(known, low, np.nan),
        "bill_high": np.where(known, high, np.nan),
    }


def smoothed_odds(quality: Array) -> Array:
    """Log odds of each target's mean quality [M], half a hit and half a miss added; NaN where nothing was recorded."""
    times, hits = (~np.isnan(quality)).sum(axis=0), np.nansum(quality, axis=0)
    return np.where(times > 0, np.log((hits + 0.5) / (times - hits + 0.5)), np.nan)


def rated(quality: Array) -> Array:
    """Qualities minus each target's mean [N, M], 0 where not recorded: what an outcome says beyond the target's level."""
    return np.where(np.isnan(quality), 0.0, quality - measured.means(quality))


def standard(vectors: Array) -> tuple[Array, Array]:
    """Centre [D] and scale [D] that give every coordinate mean 0 and variance 1; a constant one is left alone."""
    scale = vectors.std(axis=0)
    return vectors.mean(axis=0), np.where(scale < FEWEST_DEVIATION, 1.0, scale)


def folded(weights: Array, shift: Array, centre: Array, scale: Array) -> tuple[Array, Array]:
    """The same layer for raw vectors: ((x - centre) / scale) w + b = x w' + b'."""
    raw = weights / scale[:, None]
    return raw, shift - centre @ raw


def float_rows(torch: Any, values: Array) -> Any:
    """A float32 tensor of an array."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def drawn(rng: np.random.Generator, *shape: int, gain: float = 1.0) -> Array:
    """Normal starting weights with variance gain^2 over the length of the first axis."""
    values: Array = rng.standard_normal(shape) * (gain / np.sqrt(shape[0]))
    return values


def clusters(vectors: Array, count: int, rng: np.random.Generator, *, rounds: int = 15, most: int = 4000) -> Array:
    """Centres [K, D] by k-means (Lloyd's rounds from k-means++ seeds) on at most `most` rows; K <= count."""
    rows = vectors if len(vectors) <= most else vectors[np.sort(rng.choice(len(vectors), most, replace=False))]
    centres = _seeds(rows, min(count, len(rows)), rng)
    for _ in range(rounds):
        near = nearest(rows, centres)
        times = np.bincount(near, minlength=len(centres)).astype(np.float64)
        total = np.zeros_like(centres)
        np.add.at(total, near, rows)
        moved = np.where(times[:, None] > 0, total / np.maximum(times, 1.0)[:, None], centres)
        if np.allclose(moved, centres):
            break
        centres = moved
    return centres


def _seeds(rows: Array, count: int, rng: np.random.Generator) -> Array:
    """k-means++ (Arthur and Vassilvitskii 2007): each next seed in proportion to its squared distance from those chosen."""
    chosen = [int(rng.integers(len(rows)))]
    far = np.full(len(rows), np.inf)
    for _ in range(count - 1):
        far = np.minimum(far, np.sum((rows - rows[chosen[-1]]) ** 2, axis=1))
        total = far.sum()
        if total <= 0.0:
            break
        chosen.append(int(rng.choice(len(rows), p=far / total)))
    return rows[chosen].copy()


def nearest(vectors: Array, centres: Array) -> NDArray[np.intp]:
    """The nearest centre of each row [N]."""
    found: NDArray[np.intp] = (vectors @ centres.T - 0.5 * np.sum(centres * centres, axis=1)).argmax(axis=1)
    return found
