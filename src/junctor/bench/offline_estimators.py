"""What a policy would have earned on logs of another one: replay, IPS, SNIPS and doubly robust, as pure functions.

A log holds, for N decisions, the action a_i that was taken, its reward r_i, and the probability p_i with which the logging
policy took it. The policy to judge takes action a on row i with probability π_ia. With w_i = π_i,a_i / p_i:

    replay   Σ π_i,a_i r_i / Σ π_i,a_i       of a uniform log: what is left when decisions are kept where the policy agrees
    IPS      Σ w_i r_i / N                   unbiased; its variance grows with the weights
    SNIPS    Σ w_i r_i / Σ w_i               consistent; no reward can leave the recorded range
    DR       Σ [Σ_a π_ia q̂_ia + w_i (r_i - q̂_i,a_i)] / N    unbiased whatever q̂ is, and the surer the better q̂ is

Sources: replay, Li, Chu, Langford, Wang 2011, Unbiased offline evaluation of contextual-bandit-based news article
recommendation algorithms; IPS, Horvitz and Thompson 1952; SNIPS, Swaminathan and Joachims 2015, The self-normalized estimator
for counterfactual learning; DR, Dudík, Langford, Li 2011, Doubly robust policy evaluation and learning. q̂ must be fitted on
other rows than those that it corrects ("cross-fitted"), or DR is biased.

Every estimate is one number and its resamples: rows of one query are drawn together, because they are one draw of nature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from junctor.errors import UserError

Array = NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Logs:
    """N logged decisions.

    action       [N] what was taken, 0 … M - 1
    reward       [N]
    propensity   [N] in (0, 1]
    query        [N] which query a row is about; rows of one query are resampled together
    """

    action: NDArray[np.intp]
    reward: Array
    propensity: Array
    query: NDArray[np.intp]

    def __post_init__(self) -> None:
        if not len(self.action):
            raise UserError("there is no logged decision", field="logs", fix="log decisions with their propensities")
        if not ((self.propensity > 0) & (self.propensity <= 1)).all():
            raise UserError("must be in (0, 1]", field="propensity", fix="log the probability of what was chosen")

    def __len__(self) -> int:
        return len(self.action)

    def weights(self, policy: Array) -> Array:
        """[N] π_i,a_i / p_i of a policy [N, M]."""
        return self.taken(policy) / self.propensity

    def taken(self, values: Array) -> Array:
        """[N] the column of the action that was taken."""
        found: Array = values[np.arange(len(self)), self.action]
        return found


@dataclass(frozen=True, slots=True)
class Ratio:
    """An estimate as a ratio of sums over rows: value = Σ above / Σ below; NaN where nothing is below."""

    above: Array
    below: Array

    @property
    def value(self) -> float:
        """The estimate."""
        return float(_over(np.array(self.above.sum()), np.array(self.below.sum())))

    def resampled(self, query: NDArray[np.intp], resamples: int, rng: np.random.Generator) -> Array:
        """[1 + B] the estimate, then its value on B resamples of the queries, drawn with replacement."""
        count = int(query.max()) + 1
        sums = np.stack([np.bincount(query, weights=part, minlength=count) for part in (self.above, self.below)])
        present = np.flatnonzero(np.bincount(query, minlength=count))
        sums = sums[:, present]
        counts = rng.multinomial(len(present), np.full(len(present), 1 / len(present)), size=resamples)
        drawn: Array = counts.astype(np.float64) @ sums.T
        return np.concatenate([[self.value], _over(drawn[:, 0], drawn[:, 1])])


def replay(logs: Logs, policy: Array) -> Ratio:
    """Mean reward where log and policy agree. Only for logs of a uniform policy; unbiased there, with N / M rows."""
    agree = logs.taken(policy)
    return Ratio(agree * logs.reward, agree)


def ips(logs: Logs, policy: Array) -> Ratio:
    """Inverse propensity scoring: unbiased."""
    return Ratio(logs.weights(policy) * logs.reward, np.ones(len(logs)))


def snips(logs: Logs, policy: Array) -> Ratio:
    """Self-normalised inverse propensity scoring: a little biased, much less scattered, blind to a shift of all rewards."""
    weights = logs.weights(policy)
    return Ratio(weights * logs.reward, weights)


def doubly_robust(logs: Logs, policy: Array, expected: Array) -> Ratio:
    """The outcome model's value of the policy, corrected by the weighted errors of the model on what was logged.

    expected   [N, M] rewards q̂, predicted by a model that was fitted on other rows
    """
    corrected = logs.weights(policy) * (logs.reward - logs.taken(expected))
    return Ratio((policy * expected).sum(axis=1) + corrected, np.ones(len(logs)))


def effective_rows(logs: Logs, policy: Array) -> float:
    """(Σ w)² / Σ w²: how many rows of the policy's own the log is worth (Kish 1965)."""
    weights = logs.weights(policy)
    square = float((weights**2).sum())
    return float(weights.sum()) ** 2 / square if square > 0 else 0.0


def interval(resampled: Array, level: float = LEVEL) -> tuple[float, float]:
    """The central interval of an estimate [1 + B] at this level: percentiles of its resamples."""
    known = resampled[1:][np.isfinite(resampled[1:])]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def halves(query: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.bool_]:
    """[N] which half each row is in, whole queries: what an outcome model is fitted on, and what it then predicts."""
    side: NDArray[np.bool_] = rng.permutation(int(query.max(initial=0)) + 1) % 2 == 0
    return np.asarray(side[query])


def _over(above: Array, below: Array) -> Array:
    found: Array = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return found
