"""routerbench-mlp: one small network per target predicts its quality from the query's vector; cost is one number per target.

Source: RouterBench (Hu et al. 2024): scikit-learn's MLPRegressor per model, one hidden layer of 100, relu, learning rate 1e-3,
and a cost that does not depend on the query. Predicting needs numpy alone: all networks are one product.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import measured, saved
from junctor.estimators.measured import Columns
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

STEPS = (50, 150)
FEWEST = 5
"""A target with fewer recorded rows is predicted by its mean, and so is one whose quality never changes."""


@dataclass(frozen=True, slots=True)
class Networks:
    """Of M targets: hidden weights [D, M * H] and biases [M * H], output weights [M, H] and biases [M]; losses per round."""

    hidden: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]
    output: NDArray[np.float32]
    output_bias: Array
    losses: tuple[float, ...] = ()

    def beside(self, other: Networks) -> Networks:
        """Those of other targets behind these."""
        return Networks(
            np.ascontiguousarray(np.hstack([self.hidden, other.hidden])),
            np.concatenate([self.hidden_bias, other.hidden_bias]),
            np.vstack([self.output, other.output]),
            np.concatenate([self.output_bias, other.output_bias]),
            self.losses,
        )


class RouterBenchMLP(Estimator):
    """Holds the networks and, for all that is not quality, one number per target [C - M]."""

    name: ClassVar[str] = "routerbench-mlp"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(self, config: RouterBenchMLPConfig, columns: Columns, networks: Networks, constants: Array) -> None:
        self.config, self.targets, self.losses = config, columns.targets, networks.losses
        self._columns, self._networks, self._constants = columns, networks, constants
        # float64, so that one row and a batch agree
        self._hidden, self._hidden_bias = networks.hidden.astype(np.float64), networks.hidden_bias.astype(np.float64)
        self._output, self._bias = networks.output.astype(np.float64), networks.output_bias

    def predict_many(self, features: Features) -> Prediction:
        """Two products [N, M]; what is not quality is the same for every query."""
        vectors = measured.of_width(features.vectors(self.name), len(self._networks.hidden), self.name)
        found = [self._quality(vectors[block]) for block in measured.blocks(len(vectors), self._networks.hidden.shape[1])]
        quality = np.concatenate([np.empty((0, len(self.targets))), *found])
        constant = np.broadcast_to(self._constants, (len(vectors), len(self._constants)))
        return self._columns.prediction(np.hstack([quality, constant]))

    def predict(self, features: Features) -> Prediction:
        """The same for one request [M]."""
        vectors = measured.of_width(features.vectors(self.name), len(self._networks.hidden), self.name)
        return self._columns.prediction(np.concatenate([self._quality(vectors[:1])[0], self._constants]))

    def _quality(self, vectors: NDArray[np.float32]) -> Array:
        hidden = np.maximum(vectors.astype(np.float64) @ self._hidden + self._hidden_bias, 0.0)
        outputs = np.einsum("nmh,mh->nm", hidden.reshape(len(vectors), *self._output.shape), self._output)
        quality: Array = np.clip(outputs + self._bias, 0.0, 1.0)
        return quality

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> RouterBenchMLP:
        """One more network, on the calibration rows alone; the others stay."""
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        vectors = measured.of_width(seen.vectors(self.name), len(self._networks.hidden), self.name)
        networks = self._networks.beside(trained(self.config, vectors, values[:, :1], seed=0))
        old = Columns(self.targets, self._columns.measures[1:])
        constants = old.widen(self._constants, measured.means(values[:, 1:])) if old.measures else self._constants
        return RouterBenchMLP(self.config, columns, networks, constants)

    def state(self) -> State:
        """Weights and constants."""
        net = self._networks
        config = {**saved.described(self._columns), "settings": self.config.settings()}
        arrays: dict[str, NDArray[Any]] = {
            "hidden": net.hidden,
            "hidden_bias": net.hidden_bias,
            "output": net.output,
            "output_bias": net.output_bias,
        }
        return State(config, {**arrays, "constants": self._constants, "losses": np.array(net.losses, dtype=np.float64)})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; a NaN output bias means "never tried"."""
        columns = saved.columns(state)
        targets = len(columns.targets)
        config = configured(RouterBenchMLPConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        width = config.hidden * targets
        networks = Networks(
            saved.array(state, "hidden", (None, width), np.float32),
            saved.array(state, "hidden_bias", (width,), np.float32),
            saved.array(state, "output", (targets, config.hidden), np.float32),
            saved.array(state, "output_bias", (targets,), finite=False),
            tuple(saved.array(state, "losses", (None,)).tolist()),
        )
        return cls(config, columns, networks, saved.array(state, "constants", (columns.width - targets,), finite=False))


def trained(config: RouterBenchMLPConfig, vectors: NDArray[np.float32], quality: Array, seed: int) -> Networks:
    """One network per column of quality [N, M], each over the rows that record it."""
    found = [_one(config, vectors, quality[:, j], seed + j) for j in range(quality.shape[1])]
    return Networks(
        np.ascontiguousarray(np.hstack([net.hidden for net in found])),
        np.concatenate([net.hidden_bias for net in found]),
        np.vstack([net.output for net in found]),
        np.concatenate([net.output_bias for net in found]),
        _mean_losses([net.losses for net in found]),
    )


def _one(config: RouterBenchMLPConfig, vectors: NDArray[np.float32], quality: Array, seed: int) -> Networks:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    rows = np.flatnonzero(~np.isnan(quality))
    width = config.hidden
    mean = float(quality[rows].mean()) if len(rows) else float("nan")
    if len(rows) < FEWEST or np.ptp(quality[rows]) == 0.0:
        blank = np.zeros((vectors.shape[1], width), np.float32), np.zeros(width, np.float32), np.zeros((1, width), np.float32)
        return Networks(*blank, np.array([mean]))
    model = MLPRegressor(
        hidden_layer_sizes=(width,),
        alpha=config.alpha,
        learning_rate_init=config.rate,
        max_iter=config.passes(len(rows)),
        batch_size=min(config.batch, len(rows)),
        random_state=seed % 2**31,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of rounds is ours, to keep to a budget of time
        model.fit(vectors[rows].astype(np.float32), (quality[rows] - mean).astype(np.float32))
    (into, out), (into_bias, out_bias) = model.coefs_, model.intercepts_
    return Networks(
        into.astype(np.float32),
        into_bias.astype(np.float32),
        out.T.astype(np.float32),
        mean + out_bias.astype(np.float64),
        tuple(map(float, model.loss_curve_)),
    )


def _mean_losses(curves: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The targets' mean loss per round; a network that stopped early keeps its last."""
    length = max((len(curve) for curve in curves), default=0)
    padded = [(*curve, *(curve[-1],) * (length - len(curve))) for curve in curves if curve]
    return tuple(np.mean(padded, axis=0).tolist()) if padded else ()


@dataclass(frozen=True, kw_only=True)
class RouterBenchMLPConfig(EstimatorConfig):
    """hidden: units per target; alpha: L2 penalty; rate, rounds, steps and batch: of Adam, which stops at
    the first of so many passes over the rows and so many steps.
    """

    hidden: int = 100
    alpha: float = 1e-4
    rate: float = 1e-3
    rounds: int = 200
    steps: int = 150
    batch: int = 200

    name: ClassVar[str] = "routerbench-mlp"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = RouterBenchMLP
    about: ClassVar[About | None] = About(
        title="RouterBench MLP router",
        family="regression",
        status="adapted",
        source="Hu et al. 2024, RouterBench; code withmartian/routerbench, predictive routers",
        formula=(
            "score_j(x) = lam * P_j(x) - cost_j, P_j an MLP of 100 (or 100, 100) hidden units, relu, learning rate 1e-3,\n"
            "200 iterations, one per model; cost_j a per-token price that does not depend on the query"
        ),
        complexity="fit: O(steps * batch * M D H); decision: O(M D H)",
        adapted=(
            "At most 50 or 150 steps of 200 rows each, tuned on validation rows: what is left of 200 passes learns noise.",
            "Networks learn the difference from the target's mean, so that few rows start from the mean and not from zero.",
            "The frozen encoder of the project replaces MiniLM-L12.",
            "cost_j is the target's mean recorded cost.",
        ),
        claims=(
            Claim(figure="neither kNN nor MLP clearly beats the zero router", on="RouterBench"),
            Claim(figure="57.56", on="RouterArena, by its authors", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        for key in ("hidden", "rounds", "steps", "batch"):
            check(getattr(self, key) >= 1, f"{self.name}.{key}", "must be at least 1")
        for key in ("alpha", "rate"):
            check(0 <= getattr(self, key) < float("inf"), f"{self.name}.{key}", "must be finite and not negative")

    def candidates(self, rows: int) -> Sequence[RouterBenchMLPConfig]:
        """From few steps to many."""
        del rows
        return [replace(self, steps=steps) for steps in STEPS]

    def passes(self, rows: int) -> int:
        """How many passes over so many rows."""
        per_pass = -(-rows // min(self.batch, rows))
        return min(self.rounds, max(1, self.steps // per_pass))

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> RouterBenchMLP:
        """Train one network per target; raises UserError without a row."""
        measured.same_rows(table, features, self.name)
        vectors = features.vectors(self.name)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, values = measured.stack(table)
        networks = trained(self, vectors, table.quality, seed=int(rng.integers(2**31)))
        return RouterBenchMLP(self, columns, networks, measured.means(values[:, len(columns.targets) :]))
