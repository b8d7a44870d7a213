"""frugalgpt: a chain of up to three models; after each answer a scorer says whether it will do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import ArtefactError, UserError
from junctor.estimators import measured, saved
from junctor.estimators.measured import means
from junctor.estimators.regression import logistic, ridge, sigmoid
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.plans import signals
from junctor.plans.answers import DEFAULT_WEIGHTS
from junctor.plans.tape import Recording, Tape, replay_of
from junctor.policies import chains
from junctor.policies.choosing import plan_of
from junctor.policies.staged import Staged, costs_of, described, filled, outcomes_of
from junctor.policy import Array, Policy, PolicyConfig, Replay, State
from junctor.types import Call, Cascade, Outcome, Plan, Request

BUDGETS = 16
SCORER_SHARE, PRIOR_SHARE = 0.2, 0.4
"""Parts of the training rows: for what the scorer sees of the query, and for the scorer itself. Thresholds take the rest."""
SURE = 0.02
"""Predicted chances stay this far from 0 and 1."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One place on the knob: at most this mean cost, this chain, these thresholds on the chance of being right."""

    budget: float
    chain: tuple[str, ...]
    taus: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Scorers:
    """g(query, answer) of every target: a chance of being right from the query alone, and what the answer adds.

    targets   M ids
    weights   [D + 1, M] ridge on the vector, with an intercept
    joined    [3, M] logistic: of the log odds that the query gives, of the answer's signal, and a constant
    recorded  whether the signal was recorded from answers' texts: then a live answer is joined in the same way
    """

    targets: tuple[str, ...]
    weights: Array
    joined: Array
    recorded: bool = False

    def odds(self, vectors: NDArray[np.float32]) -> Array:
        """[N, M] log odds of being right from the query alone."""
        measured.of_width(vectors, len(self.weights) - 1, "frugalgpt")
        chance = np.clip(vectors.astype(np.float64) @ self.weights[:-1] + self.weights[-1], SURE, 1.0 - SURE)
        return np.asarray(np.log(chance / (1.0 - chance)))

    def scores(self, odds: Array, signal: Array) -> Array:
        """[N, M] chance of being right, answer seen; odds and signal are [N, M]."""
        return sigmoid(self.joined[0] * odds + self.joined[1] * signal + self.joined[2])

    def live(self, odds: Array, ids: Sequence[str]) -> dict[str, list[float]]:
        """Offset and gain per stage for the live scorer; a drawn signal says nothing of what a text is worth."""
        places = [self.targets.index(id_) for id_ in ids]
        if not self.recorded:
            return {"offset": odds[places].tolist()}
        first, gain, constant = self.joined[:, places]
        return {"offset": (first * odds[places] + constant).tolist(), "gain": gain.tolist()}

    def columns(self, table: OutcomeTable) -> list[int]:
        """Which of our M targets each of the table's columns is; 0 for a stranger, which no chain names."""
        known = {id_: i for i, id_ in enumerate(self.targets)}
        return [known.get(id_, 0) for id_ in table.targets.ids]


class FrugalGPT(Staged):
    """`settings` holds one chain per budget, the dearest first; `chain` is that of the configured budget."""

    name: ClassVar[str] = "frugalgpt"

    def __init__(
        self,
        config: FrugalGPTConfig,
        known: Mapping[str, Outcome],
        settings: Sequence[Setting],
        scorers: Scorers,
    ) -> None:
        self.config, self.settings, self.scorers = config, tuple(settings), scorers
        self.setting = _within(self.settings, config.budget_usd)
        super().__init__(self.setting.chain, known)

    @property
    def needs(self) -> frozenset[str]:
        """The scorer looks at the query."""
        return frozenset({"embedding"})

    def plan_of(self, chain: Sequence[str], request: Request) -> tuple[Plan, tuple[str, ...]]:
        """A cascade whose scorer starts from what is predicted of this query, and looks at each answer's text."""
        allowed = "any cost" if np.isinf(self.setting.budget) else f"a mean of {self.setting.budget:.3g} USD per query"
        why = f"best chain on the training rows for {allowed}"
        if len(chain) == 1:
            return plan_of(chain), (why, "one model alone")
        odds = self.scorers.odds(Features.of(request).vectors(self.name))[0]
        taus = _taus(self.setting, chain)
        settings = {"tau": taus, **self.scorers.live(odds, chain[:-1]), "weights": list(self.config.weights)}
        before = float(sigmoid(odds[[self.scorers.targets.index(chain[0])]])[0])
        reasons = (why, f"predicted chance of {chain[0]} {before:.3f}, its answer must reach {taus[0]:.3f}")
        return Cascade(tuple(Call(id_) for id_ in chain), "scorer", settings), reasons

    def replay(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Replay:
        """Along the budget, the dearest first; one drawing of the answers' signals for all."""
        signal = self.config.signal(table, rng)
        places = self.scorers.columns(table)
        odds = self.scorers.odds(features.vectors(self.name))[:, places]
        joined = replace(self.scorers, joined=self.scorers.joined[:, places])
        recording = Recording(table, {"score": joined.scores(odds, signal)[:, :, None]})
        tapes = [self._run(recording, table, setting) for setting in self.settings]
        return replay_of([setting.budget for setting in self.settings], tapes, billed=table.cost_usd is not None)

    def _run(self, recording: Recording, table: OutcomeTable, setting: Setting) -> Tape:
        tape, rows = recording.tape(), np.arange(len(table))
        chain = self.present(table.targets, setting.chain)
        columns, taus = self.columns(table, setting.chain), _taus(setting, chain)
        probes = self.config.probes_of(table)
        for place, column in enumerate(columns):
            last = place + 1 == len(columns)
            tape.call(rows, column, 1 if last else probes)
            stop = np.ones(len(rows), dtype=bool) if last else tape.read("score", rows, column) >= taus[place]
            tape.give(rows[stop], column)
            rows = rows[~stop]
        return tape

    def state(self) -> State:
        """Chains, thresholds and the scorers' weights."""
        rows = [
            {"budget": s.budget if np.isfinite(s.budget) else None, "chain": s.chain, "taus": s.taus} for s in self.settings
        ]
        scorers = {"targets": list(self.scorers.targets), "recorded": self.scorers.recorded}
        config = {**self.described(), **scorers, "knob": rows, "settings": self.config.settings()}
        return State(config, {"weights": self.scorers.weights, "joined": self.scorers.joined})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(FrugalGPTConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        targets = saved.entry(state, "targets", list[str])
        rows: list[_Row] = saved.entry(state, "knob", list[_Row])
        knob = [Setting(np.inf if row.budget is None else row.budget, row.chain, row.taus) for row in rows]
        weights, joined = saved.array(state, "weights", (None, len(targets))), saved.array(state, "joined", (3, len(targets)))
        scorers = Scorers(tuple(targets), weights, joined, saved.entry(state, "recorded", bool))
        known = described(state)[1]
        if not knob or not {id_ for setting in knob for id_ in setting.chain} <= set(known) & set(targets):
            raise ArtefactError("names no chain, or a target that is not known", field="knob", fix=saved.FIX)
        return cls(config, known, knob, scorers)


@dataclass(frozen=True, slots=True)
class _Row:
    budget: float | None
    chain: tuple[str, ...]
    taus: tuple[float, ...]


def _within(settings: Sequence[Setting], budget: float | None) -> Setting:
    """The dearest setting within the budget; the cheapest when none is."""
    return next((s for s in settings if budget is None or s.budget <= budget), settings[-1])


def _taus(setting: Setting, chain: Sequence[str]) -> list[float]:
    """The thresholds of those stages that are here, but for the last; 0 for a target that stands in."""
    known = dict(zip(setting.chain, setting.taus, strict=False))
    return [known.get(id_, 0.0) for id_ in chain[:-1]]


@dataclass(frozen=True, kw_only=True)
class FrugalGPTConfig(PolicyConfig):
    """How long, how good a scorer, how dear.

    longest     most models in a chain, 1 to 3
    scorer      simulated: a signal with this AUC; agreement: sigma of three recorded samples, all billed;
                auto: agreement where the table has three samples of quality, else simulated
    auc         of the simulated signal, between right and wrong answers
    alpha       ridge penalty of the query's part of the scorer
    budget_usd  mean cost per query that the chain may come to; None: any
    weights     of the answer's features in the live scorer, see `junctor.plans.answers`
    """

    longest: int = 3
    scorer: Literal["auto", "simulated", "agreement"] = "auto"
    auc: float = 0.8
    alpha: float = 30.0
    budget_usd: float | None = None
    weights: tuple[float, ...] = DEFAULT_WEIGHTS

    name: ClassVar[str] = "frugalgpt"
    fitted: ClassVar[type[Policy]] = FrugalGPT
    about: ClassVar[About | None] = About(
        title="FrugalGPT, LLM cascade",
        family="after the answer",
        status="simulated",
        source="Chen et al. 2023, FrugalGPT; authors' code",
        formula=(
            "chain of L <= 3 models; accept answer l when g_l(query, answer) >= tau_l, the last one always\n"
            "order and tau: grid of 40 quantiles per tau and local search, best mean quality under a mean-cost budget"
        ),
        complexity="fit O(N D^2 + chains N 40^2); a decision O(D)",
        adapted=(
            "Tables hold no answers: the scorer reads the query's vector and a drawn signal of AUC .8 in place of DistilBERT.",
            "Recorded scores (samples of 'score') go before the drawn ones, and so does the agreement of three samples.",
            "Chains go from cheap to dear and are made of six models, those on the front of mean cost and quality first.",
            "Live, the signal is a weighted sum of six features of the answer's text; thresholds are chances, as in the fit.",
            "Only a fit on scores recorded from such texts knows what they are worth; else they count as log odds as they are.",
        ),
        unverified=("The AUC of the authors' scorer.",),
        claims=(
            Claim(figure=".8522 @ $9.8e-6, .8698 @ $1.92e-4, .8746 @ $1.36e-3", on="HEADLINES", sure="read"),
            Claim(figure="98.3% saved at GPT-4 accuracy", on="HEADLINES", sure="notes"),
        ),
    )

    def __post_init__(self) -> None:
        check(1 <= self.longest <= chains.LONGEST, "frugalgpt.longest", "must be 1, 2 or 3")
        check(0.5 <= self.auc < 1, "frugalgpt.auc", "must be at least 0.5 and below 1")
        check(self.alpha > 0, "frugalgpt.alpha", "must be positive")
        check(self.budget_usd is None or self.budget_usd > 0, "frugalgpt.budget_usd", "must be positive")

    @property
    def needs(self) -> frozenset[str]:
        """The scorer looks at the query."""
        return frozenset({"embedding"})

    def probes_of(self, table: OutcomeTable) -> int:
        """Calls per stage that is not the last: three where agreement is the signal."""
        return 3 if self._agrees(table) else 1

    def _agrees(self, table: OutcomeTable) -> bool:
        samples = table.samples.get("quality")
        enough = samples is not None and samples.shape[2] >= 3
        return self.scorer == "agreement" or (self.scorer == "auto" and enough and "score" not in table.samples)

    def signal(self, table: OutcomeTable, rng: np.random.Generator) -> Array:
        """[N, M] what is seen of each answer, 0 where nothing was recorded."""
        if not self._agrees(table):
            return np.nan_to_num(signals.scores(table, self.auc, rng)[:, :, 0])
        keys = signals.drawn_answers(table, 3, (0.9, 0.6), 4, rng)["key"][:, :, :3]
        flat = keys.reshape(-1, keys.shape[2])
        return np.asarray(0.5 - signals.sigma(flat)).reshape(keys.shape[:2])

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> FrugalGPT:
        """Scorers on one part of the rows, thresholds on another: what is fitted twice on the same rows flatters itself."""
        measured.same_rows(table, features, self.name)
        vectors = features.vectors(self.name)
        known = outcomes_of(table, self.name)
        tried = np.flatnonzero(table.mask.any(axis=0)).tolist()
        if len(table) < 3:
            raise UserError(f"{len(table)} rows are too few to learn from", field=self.name, fix="record more queries")
        order = rng.permutation(len(table))
        ends = max(1, int(PRIOR_SHARE * len(order))), max(2, int((PRIOR_SHARE + SCORER_SHARE) * len(order)))
        prior, score, rest = np.split(order, ends)
        signal = self.signal(table, rng)
        scorers = _scorers(self, table, vectors, signal, prior, score)
        odds = scorers.odds(vectors[rest])
        share = float(self.probes_of(table) - 1)
        cost = costs_of(table)[rest]
        data = chains.Scored(filled(table.quality)[rest], cost, scorers.scores(odds, signal[rest]), share)
        budgets = budgets_of(cost.mean(axis=0)[tried], share)
        points = chains.best_per_budget(data, tried, budgets, self.longest)
        ids = table.targets.ids
        knob = [Setting(b, tuple(ids[c] for c in p.columns), p.taus) for b, p in zip(budgets, points, strict=True)]
        return FrugalGPT(self, known, knob, scorers)


def budgets_of(singles: Array, share: float = 0.0) -> list[float]:
    """The knob: any cost, then budgets by ratio from all of the dearest chain down to the cheapest single target."""
    low, high = float(singles.min()), float(singles.max()) * (2.0 + share)
    if not 0 < low < high:
        return [float("inf")]
    return [float("inf"), *np.geomspace(high, low * (1 + 1e-9), BUDGETS).tolist()]


def _scorers(
    config: FrugalGPTConfig,
    table: OutcomeTable,
    vectors: NDArray[np.float32],
    signal: Array,
    prior: NDArray[np.intp],
    score: NDArray[np.intp],
) -> Scorers:
    """The query's part on the rows `prior`, what the answer adds on the rows `score`."""
    weights, bias = ridge(vectors[prior].astype(np.float64), table.quality[prior], config.alpha)
    overall = means(table.quality)
    bias = np.where(np.isnan(bias), np.where(np.isnan(overall), 0.5, overall), bias)
    made = Scorers(table.targets.ids, np.vstack([weights, bias]), np.zeros((3, len(bias))))
    odds = made.odds(vectors[score])
    joined = np.zeros((3, len(bias)))
    joined[0] = 1.0
    for column in range(len(bias)):
        right = table.quality[score, column]
        if not np.isnan(right).all():
            x = np.column_stack([odds[:, column], signal[score, column]])
            found, constant = logistic(x, right[:, None], 1.0)
            joined[:, column] = [found[0, 0], found[1, 0], constant[0]]
    return Scorers(made.targets, made.weights, joined, "score" in table.samples)
