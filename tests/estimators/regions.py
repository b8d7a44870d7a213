"""Planted worlds of regions: queries cluster in space, and each target has its own chance of a right answer in each cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from junctor.features import Features
from junctor.fitting import policy_config, validation_score, visible
from junctor.outcomes import OutcomeTable
from junctor.policy import Policy, PolicyConfig
from junctor.types import Catalogue


@dataclass(frozen=True)
class Split:
    """Recorded rows to learn from, and new ones whose "quality" is the true chance, so that nothing but the policy is noisy."""

    table: OutcomeTable
    features: Features
    fresh: OutcomeTable
    seen: Features

    def fit(self, config: PolicyConfig | str, **settings) -> Policy:
        """The policy of this name or config, fitted with a fixed seed."""
        made = policy_config(config, settings) if isinstance(config, str) else config
        return made.fit(self.table, self.features, np.random.default_rng(0))

    def quality(self, config: PolicyConfig | str, **settings) -> float:
        """True mean quality of what it chooses for the new rows."""
        return self.reached(self.fit(config, **settings))

    def reached(self, policy: Policy) -> float:
        """True mean quality of what a fitted policy chooses."""
        seen = visible(policy, self.seen)
        places, _ = policy.decide_many(seen, self.fresh.targets, np.random.default_rng(0))
        return float(self.fresh.quality[np.arange(len(places)), places].mean())

    def height(self, config: PolicyConfig | str, **settings) -> float:
        """Mean height of the true cost-quality curve between the cheapest and the dearest target."""
        policy = self.fit(config, **settings)
        return validation_score(policy, self.fresh, self.seen, np.random.default_rng(0))

    def single(self) -> float:
        """True quality of the target that the training rows say is best."""
        return self.quality("best-single")


def split(
    chance: np.ndarray,
    vectors: np.ndarray,
    rows: int,
    *,
    cost: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    seed: int = 0,
    **columns: np.ndarray,
) -> Split:
    """The first `rows` are recorded once each, the others are new. chance, cost and columns are [N, M], vectors [N, D]."""
    rng = np.random.default_rng(seed)
    drawn = (rng.random(chance.shape) < chance).astype(np.float64)
    whole = OutcomeTable(
        texts=list(texts) if texts is not None else [f"query {i}" for i in range(len(chance))],
        targets=Catalogue.of([f"target-{j}" for j in range(chance.shape[1])]),
        quality=drawn,
        cost_usd=cost,
        labels={} if labels is None else {"task": list(labels)},
        label_name="" if labels is None else "task",
        **columns,
    )
    features = whole.features(unit(vectors).astype(np.float32))
    new = np.arange(rows, len(chance))
    fresh = replace(whole, quality=chance).take(new)
    return Split(whole.take(np.arange(rows)), features.take(np.arange(rows)), fresh, features.take(new))


def regions(
    chance: Sequence[Sequence[float]],
    *,
    rows: int,
    dim: int = 32,
    noise: float = 1.0,
    cost: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    centres: np.ndarray | None = None,
    test: int = 600,
    seed: int = 0,
) -> Split:
    """`chance` is [regions, targets]; vectors: centre and noise of `noise` times its length; cost per target;
    names: each region's label."""
    rng = np.random.default_rng(seed)
    skill = np.array(chance)
    region = rng.integers(len(skill), size=rows + test)
    middle = unit(rng.standard_normal((len(skill), dim))) if centres is None else centres
    vectors = middle[region] + noise * rng.standard_normal((rows + test, dim)) / dim**0.5
    prices = None if cost is None else np.tile(np.array(cost), (rows + test, 1))
    labels = None if names is None else [names[r] for r in region.tolist()]
    return split(skill[region], vectors, rows, cost=prices, labels=labels, seed=seed)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
