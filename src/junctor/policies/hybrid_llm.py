"""hybrid-llm: the chance that a smaller target does as well as the strongest one; the cheapest that probably does is called.

Source: Hybrid-LLM (Ding et al. 2024). With H(x) = q(small answer) - q(large answer), a head is fitted to one of

    deterministic   1[H >= 0]
    probabilistic   Pr[H >= 0] over repeated samples of both answers
    transformed     Pr[H >= -t*], t* making the labels of two queries differ most on average

and the small model answers where the head is above a threshold. With more than two targets each one is compared with the same
reference, and of those above the threshold the cheapest is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import ArtefactError, TableError, UserError
from junctor.estimators import measured, saved
from junctor.estimators.regression import logistic, sigmoid
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.choosing import TIE
from junctor.policies.ranking import Ranking, Typical, described
from junctor.policies.trading import View
from junctor.policy import Array, Policy, PolicyConfig, State
from junctor.types import Ranked, Request

ALPHAS = (300.0, 100.0, 30.0, 10.0, 3.0)
LEVELS = 40
"""The sweep: so many quantiles of the chances on the training rows."""
SHIFTS = 16
"""So many values of t are tried, from 0 to the largest gap."""
LEAST_SHIFT_GAIN = 1e-9


class HybridLLM(Ranking):
    """Holds the reference's column and one logistic head per target: weights [D, M] and bias [M]."""

    name: ClassVar[str] = "hybrid-llm"
    why: ClassVar[str] = "the cheapest that probably does as well as the reference"

    def __init__(
        self, config: HybridLLMConfig, typical: Typical, reference: int, heads: tuple[Array, Array], levels: Array
    ) -> None:
        super().__init__(typical, knob=1.0 - config.threshold, knobs=levels, fallbacks=config.fallbacks, label=config.label)
        self.config, self.reference = config, typical.targets[reference]
        self._place, (self._weights, self._bias) = reference, heads

    def chances(self, features: Features) -> Array:
        """[N, M]: that each target does as well as the reference, which is sure to; NaN where that was never recorded."""
        vectors = measured.of_width(features.vectors(self.name), len(self._weights), self.name)
        chance = sigmoid(vectors.astype(np.float64) @ self._weights + self._bias)
        chance[:, self._place] = 1.0
        return chance

    def preferences(self, features: Features, view: View, knobs: Array) -> Array:
        """[L, N, K]: above 1 - knob the cheapness in [1, 2], below it the chance itself, which is less."""
        chance = view.pick(self.chances(features))
        assert chance is not None
        cost = self.costs(view)
        top = float(np.nanmax(cost, initial=0.0))
        cheapness = np.nan_to_num(1.0 - cost / top, nan=0.0) if top > 0 else np.nan_to_num(chance, nan=0.0)
        able = chance >= 1.0 - knobs[:, None, None] - TIE
        score = np.where(able, 1.0 + cheapness, chance)
        return np.where(np.isnan(chance), -np.inf, score)

    def reasons(self, request: Request, ranked: Sequence[Ranked]) -> tuple[str, ...]:
        """Which reference, which threshold."""
        del request
        if ranked[0].target == self.reference:
            return (f"no cheaper target has a chance of {1.0 - self.knob:.2f} to do as well as {self.reference}",)
        return (f"the cheapest of those whose chance to do as well as {self.reference} is {1.0 - self.knob:.2f} or more",)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> HybridLLM:
        """One more head, from rows that record the new target and the reference; raises TableError where none does both."""
        typical = self.typical.plus(target, rows)
        if self.reference not in rows.targets.ids:
            raise TableError(
                "is not in the calibration rows", field=self.reference, fix="record the reference beside the new one"
            )
        pair = rows.only([self.reference, target])
        weights, bias = heads(self.config, pair, features.vectors(self.name), 0)
        wide = np.hstack([self._weights, weights[:, 1:]]), np.append(self._bias, bias[1])
        return self.grown(HybridLLM(self.config, typical, self._place, wide, self.knobs), target)

    def state(self) -> State:
        """The heads and the sweep."""
        arrays = {"weights": self._weights, "bias": self._bias, "levels": self.knobs}
        return described(self, self.config.settings(), arrays, reference=self.reference)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; a NaN bias means "never tried beside the reference"."""
        typical = Typical.from_state(state)
        config = configured(HybridLLMConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        reference = saved.entry(state, "reference", str)
        if reference not in typical.targets:
            raise ArtefactError("is not among the targets", field="reference", fix=saved.FIX)
        width = len(typical.targets)
        weights, bias = saved.array(state, "weights", (None, width)), saved.array(state, "bias", (width,), finite=False)
        return cls(config, typical, typical.targets.index(reference), (weights, bias), saved.array(state, "levels", (None,)))


def heads(config: HybridLLMConfig, table: OutcomeTable, vectors: NDArray[np.float32], reference: int) -> tuple[Array, Array]:
    """Weights [D, M] and bias [M] of logistic heads on the labels; the reference's own column stays empty."""
    label = np.full(table.quality.shape, np.nan)
    for column in range(len(table.targets)):
        if column != reference:
            label[:, column] = labels(gaps(table, column, reference), config.labels)
    return logistic(vectors.astype(np.float64), label, config.alpha)


def gaps(table: OutcomeTable, column: int, reference: int) -> Array:
    """[N, P]: quality of the target less the reference's, over P pairs of samples; P = 1 without samples. NaN: not recorded."""
    samples = table.samples.get("quality")
    if samples is None:
        return (table.quality[:, column] - table.quality[:, reference])[:, None]
    pairs: Array = samples[:, column, :, None] - samples[:, reference, None, :]
    found = pairs.reshape(len(pairs), -1)
    single = (table.quality[:, column] - table.quality[:, reference])[:, None]
    return np.where(np.isnan(found).all(axis=1, keepdims=True), single, found)


def labels(gap: Array, kind: str) -> Array:
    """[N] in [0, 1] from gaps [N, P]; NaN where no pair was recorded."""
    if kind == "deterministic":
        mean = measured.means(gap.T)
        return np.where(np.isnan(mean), np.nan, mean >= -TIE)
    return _chance(gap, best_shift(gap) if kind == "transformed" else 0.0)


def best_shift(gap: Array) -> float:
    """t* >= 0: the shift for which Pr[H >= -t] differs most between two queries, on average; the least of equally good ones."""
    losses = -gap[gap < 0]
    if not len(losses):
        return 0.0
    tried = [0.0, *np.unique(np.quantile(losses, np.linspace(0.0, 1.0, SHIFTS))).tolist()]
    best, found = -1.0, 0.0
    for shift in tried:
        spread = _pairwise(_chance(gap, shift))
        if spread > best + LEAST_SHIFT_GAIN:
            best, found = spread, shift
    return found


def _chance(gap: Array, shift: float) -> Array:
    """Share of the pairs in which the target falls behind by no more than the shift [N]."""
    return measured.means(np.where(np.isnan(gap), np.nan, gap >= -shift - TIE).T)


def _pairwise(label: Array) -> float:
    """Mean absolute difference between the labels of two queries."""
    ordered = np.sort(label[~np.isnan(label)])
    count = len(ordered)
    return float(2.0 * ((2.0 * np.arange(1, count + 1) - count - 1.0) @ ordered) / count**2) if count else 0.0


@dataclass(frozen=True, kw_only=True)
class HybridLLMConfig(PolicyConfig):
    """labels: see the module; alpha: L2 penalty of the heads; threshold: least chance at which a smaller target will do;
    reference: the target of highest mean quality, or of highest mean cost; fallbacks: how many stand by; label.
    """

    labels: Literal["transformed", "probabilistic", "deterministic"] = "transformed"
    alpha: float = 30.0
    threshold: float = 0.5
    reference: Literal["strongest", "dearest"] = "strongest"
    fallbacks: int = 2
    label: str = ""

    name: ClassVar[str] = "hybrid-llm"
    fitted: ClassVar[type[Policy]] = HybridLLM
    about: ClassVar[About | None] = About(
        title="Hybrid-LLM",
        family="regression",
        status="adapted",
        source="Ding et al. 2024, Hybrid LLM: cost-efficient and quality-aware query routing",
        formula=(
            "H(x) = q(small answer) - q(large answer)\n"
            "labels: 1[H >= 0], Pr[H >= 0] from 10 samples of each, or Pr[H >= -t*]; t* maximises the mean pairwise\n"
            "difference of the labels; the small model answers where the head is above a threshold"
        ),
        complexity="fit: logistic regression, O(N D^2 + N D M) per grid point; decision: O(M D)",
        adapted=(
            "A logistic head on the project's frozen encoder replaces a tuned DeBERTa.",
            "H is the difference of recorded qualities, which replaces BARTScore.",
            "Without repeated samples Pr is 0 or 1; where the table has them all pairs count.",
            "Any number of targets: each is compared with the strongest, and the cheapest above the threshold is taken.",
        ),
        unverified=("Labels and t* are from notes and memory of the paper, not from its text.",),
        claims=(
            Claim(figure="up to 40 % fewer calls to the large model at no drop", on="its pairs of models"),
            Claim(figure="22 % fewer at <= 1 % drop", on="its pairs of models"),
            Claim(figure="saves -12.7 (weak)", on="LLMRouterBench, cost setting, by its authors", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        kinds = ("transformed", "probabilistic", "deterministic")
        check(self.labels in kinds, "hybrid-llm.labels", f"must be one of {', '.join(kinds)}")
        check(self.reference in ("strongest", "dearest"), "hybrid-llm.reference", "must be strongest or dearest")
        check(0 < self.alpha < float("inf"), "hybrid-llm.alpha", "must be positive")
        check(0 <= self.threshold <= 1, "hybrid-llm.threshold", "must be in [0, 1]")
        check(self.fallbacks >= 0, "hybrid-llm.fallbacks", "must not be negative")

    @property
    def needs(self) -> frozenset[str]:
        """The embedding."""
        return frozenset({"embedding"})

    def candidates(self, rows: int) -> Sequence[HybridLLMConfig]:
        """From the strongest penalty to the weakest."""
        del rows
        return [replace(self, alpha=alpha) for alpha in ALPHAS]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> HybridLLM:
        """Compare every target with the reference; raises UserError when no outcome is recorded."""
        del rng
        measured.same_rows(table, features, self.name)
        vectors = features.vectors(self.name)
        if not table.mask.any():
            raise UserError("there is no outcome to learn from", field=self.name, fix="pass at least one recorded query")
        typical = Typical.of(table)
        reference = _reference(typical, self.reference)
        found = HybridLLM(self, typical, reference, heads(self, table, vectors, reference), np.array([0.0, 1.0]))
        return HybridLLM(self, typical, reference, (found._weights, found._bias), _levels(found.chances(features), reference))


def _reference(typical: Typical, kind: str) -> int:
    """The column of highest mean quality, of equal ones the dearest; or the other way round."""
    quality, cost = np.nan_to_num(typical.quality, nan=-1.0), np.nan_to_num(typical.cost_usd, nan=-1.0)
    keys = (cost, quality) if kind == "strongest" else (quality, np.where(np.isnan(typical.quality), -2.0, cost))
    return int(np.lexsort(keys)[-1])


def _levels(chance: Array, reference: int) -> Array:
    """The sweep, ascending: 0 calls the reference, 1 the cheapest; between them quantiles of what the heads say."""
    others = np.delete(chance, reference, axis=1)
    known = others[~np.isnan(others)]
    inner = 1.0 - np.quantile(known, np.linspace(0.0, 1.0, LEVELS)) if len(known) else np.empty(0)
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))
