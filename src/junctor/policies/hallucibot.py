"""hallucibot: how hard is the query, before anyone answers it? Hard ones go to the strong target, easy ones to the cheap one.

Source: HalluciBot: perturbed copies of a query are answered by several agents, the share of wrong answers is its hallucination
rate, and a classifier predicts the rate from the query alone. Here the agents are the targets of the pool, as recorded on the
training rows:

    d(x) = predicted share of the pool that fails;   d(x) >= escalate_above: strong, else cheap;   d(x) > refuse_above: nobody

The label of a query comes from the same targets that are chosen from, so that it must never be a test row's: `report` judges
the head on rows that it was not fitted on, beside the base rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import measured, saved
from junctor.estimators.regression import logistic, sigmoid
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.ranking import Ranking, Typical, described
from junctor.policies.trading import View
from junctor.policy import Array, Policy, PolicyConfig, State
from junctor.types import Ranked, Request

ALPHAS = (300.0, 100.0, 30.0, 10.0, 3.0)
LEVELS = 40
"""The sweep: so many quantiles of the predicted difficulty on the training rows."""
HARD = 0.5
"""A query is hallucinatory when more than this share of the pool fails (the paper's binary label)."""


@dataclass(frozen=True, slots=True)
class Report:
    """How well hard queries are told: F1 of the head, F1 of calling every query hard, and the share of hard ones."""

    f1: float
    f1_of_always: float
    base_rate: float


class HalluciBot(Ranking):
    """Holds one logistic head: weights [D, 1], bias [1], and the share of hard training rows."""

    name: ClassVar[str] = "hallucibot"
    why: ClassVar[str] = "hard queries go to the strongest target, the others to the cheapest"

    def __init__(
        self, config: HalluciBotConfig, typical: Typical, head: tuple[Array, Array], levels: Array, base_rate: float
    ) -> None:
        super().__init__(typical, knob=config.escalate_above, knobs=levels, fallbacks=config.fallbacks, label=config.label)
        self.config, self.base_rate = config, base_rate
        self._weights, self._bias = head

    def difficulty(self, features: Features) -> Array:
        """Predicted share of the pool that fails [N]."""
        vectors = measured.of_width(features.vectors(self.name), len(self._weights), self.name)
        return sigmoid(vectors.astype(np.float64) @ self._weights + self._bias)[:, 0]

    def preferences(self, features: Features, view: View, knobs: Array) -> Array:
        """[L, N, K]: 2 for the target that the query is for, 1 for the other end, less than that by quality for the rest."""
        difficulty = self.difficulty(features)
        cheap, strong = self._ends(view)
        quality = view.pick(np.nan_to_num(self.typical.quality, nan=0.0))
        assert quality is not None
        score = np.broadcast_to(quality * 0.5, (len(knobs), len(difficulty), len(quality))).copy()
        hard = difficulty >= knobs[:, None]
        score[..., cheap] = np.where(hard, 1.0, 2.0)
        score[..., strong] = np.where(hard | (cheap == strong), 2.0, 1.0)
        if self.config.refuse_above is not None:
            score[:, difficulty > self.config.refuse_above] = -np.inf
        return score

    def _ends(self, view: View) -> tuple[int, int]:
        """Positions of the cheapest and of the strongest target here; where no cost is known, the strongest is both."""
        cost, quality = self.costs(view), view.pick(self.typical.quality)
        assert quality is not None
        known = np.where(np.isnan(cost), np.inf, cost)
        strong = int(np.lexsort((-known, np.nan_to_num(quality, nan=-1.0)))[-1])
        return (int(known.argmin()) if np.isfinite(known).any() else strong), strong

    def reasons(self, request: Request, ranked: Sequence[Ranked]) -> tuple[str, ...]:
        """The prediction beside the base rate: one means little without the other."""
        del ranked
        share = float(self.difficulty(Features.of(request))[0])
        what = "hard: the strongest target" if share >= self.knob else "not hard: the cheapest target"
        return (what, f"{share:.2f} of the pool is predicted to fail; {self.base_rate:.2f} of the training queries were hard")

    def report(self, table: OutcomeTable, features: Features) -> Report:
        """Judge the head on rows that it was not fitted on."""
        rate = failing(table)
        known = ~np.isnan(rate)
        hard, said = rate[known] > HARD, self.difficulty(features)[known] > HARD
        return Report(
            f1_score(hard, said), f1_score(hard, np.ones_like(hard)), float(hard.mean()) if len(hard) else float("nan")
        )

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> HalluciBot:
        """The new target may be an end of the ladder; how hard queries are stays what the first pool said."""
        del features
        typical = self.typical.plus(target, rows)
        wider = HalluciBot(self.config, typical, (self._weights, self._bias), self.knobs, self.base_rate)
        return self.grown(wider, target)

    def state(self) -> State:
        """The head, the sweep and the base rate."""
        arrays = {"weights": self._weights, "bias": self._bias, "levels": self.knobs}
        return described(self, self.config.settings(), arrays, base_rate=self.base_rate)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(HalluciBotConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        head = saved.array(state, "weights", (None, 1)), saved.array(state, "bias", (1,))
        levels = saved.array(state, "levels", (None,))
        return cls(config, Typical.from_state(state), head, levels, saved.entry(state, "base_rate", float))


def failing(table: OutcomeTable) -> Array:
    """Share of the pool that fails each query [N]: mean of 1 - quality over what was recorded, or over samples."""
    samples = table.samples.get("quality")
    quality = measured.means(table.quality.T)
    if samples is None:
        return 1.0 - quality
    drawn = measured.means(samples.reshape(len(samples), -1).T)
    return 1.0 - np.where(np.isnan(drawn), quality, drawn)


def f1_score(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> float:
    """2 * hits / (hits and misses, both ways); 0 without a hit."""
    hits = float((truth & said).sum())
    return 2.0 * hits / float(truth.sum() + said.sum()) if hits else 0.0


@dataclass(frozen=True, kw_only=True)
class HalluciBotConfig(PolicyConfig):
    """alpha: L2 penalty of the head; escalate_above: predicted share of failures from which the strongest target answers;
    refuse_above: beyond this nobody does, which raises NoTarget; fallbacks: how many stand by; label.
    """

    alpha: float = 30.0
    escalate_above: float = HARD
    refuse_above: float | None = None
    fallbacks: int = 2
    label: str = ""

    name: ClassVar[str] = "hallucibot"
    fitted: ClassVar[type[Policy]] = HalluciBot
    about: ClassVar[About | None] = About(
        title="HalluciBot",
        family="regression",
        status="adapted",
        source="HalluciBot: is there no such thing as a bad question?",
        formula=(
            "rate(x) = share wrong of n + 1 agents on x and n perturbations of it\n"
            "a classifier predicts the rate from x alone (rate > .5, or ordered classes)"
        ),
        complexity="fit: logistic regression, O(N D^2) per grid point; decision: O(D + M)",
        adapted=(
            "The agents are the targets of the pool, once each on the query as it is: perturbations are recorded nowhere.",
            "A logistic head on the project's frozen encoder replaces a tuned BERT or RoBERTa.",
            "What is done with the prediction: escalate or refuse; the paper rewrites the query and ranks, too.",
        ),
        unverified=("n = 5 perturbations and the binary label rate > .5 are from memory.",),
        claims=(
            Claim(figure="76.0 % test F1 (no base rate given)", on="369,837 queries", sure="abstract"),
            Claim(figure="46.6 % of compute saved on hallucinatory queries", on="the same", sure="abstract"),
        ),
    )

    def __post_init__(self) -> None:
        check(0 < self.alpha < float("inf"), "hallucibot.alpha", "must be positive")
        check(self.escalate_above >= 0, "hallucibot.escalate_above", "must not be negative")
        check(self.refuse_above is None or 0 <= self.refuse_above <= 1, "hallucibot.refuse_above", "must be in [0, 1]")
        check(self.fallbacks >= 0, "hallucibot.fallbacks", "must not be negative")

    @property
    def needs(self) -> frozenset[str]:
        """The embedding."""
        return frozenset({"embedding"})

    def candidates(self, rows: int) -> Sequence[HalluciBotConfig]:
        """From the strongest penalty to the weakest."""
        del rows
        return [replace(self, alpha=alpha) for alpha in ALPHAS]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> HalluciBot:
        """Fit the head to the share of the pool that failed; raises UserError when no outcome is recorded."""
        del rng
        measured.same_rows(table, features, self.name)
        vectors = features.vectors(self.name).astype(np.float64)
        rate = failing(table)
        if np.isnan(rate).all():
            raise UserError("there is no outcome to learn from", field=self.name, fix="pass at least one recorded query")
        head = logistic(vectors, rate[:, None], self.alpha)
        said = sigmoid(vectors @ head[0] + head[1])[:, 0]
        levels = np.unique(np.concatenate([[0.0], np.quantile(said, np.linspace(0.0, 1.0, LEVELS)), [1.0 + 1e-9]]))
        hard = float((rate[~np.isnan(rate)] > HARD).mean())
        return HalluciBot(self, Typical.of(table), head, levels, hard)
