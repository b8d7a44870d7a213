"""icl-router: a target is its profile, pairs of (query, was it right?); a learned kernel reads the profile for each new query.

Source: ICL-Router, known to us from notes. Theirs is a language model that reads the profile as context; here cross-attention
from the query to the profile queries stands in for it. A new target needs its profile, and nothing is trained again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.estimators import descent, trained
from junctor.estimators.descent import Recipe
from junctor.estimators.measured import means
from junctor.estimators.settings import check
from junctor.estimators.trained import Trained
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig
from junctor.types import Target

PSEUDO = 1.0
"""Attention of so many average profile queries is added at a target's mean, so that a few far-off pairs do not decide."""
HARD = 0.8
"""Share of the profile that is drawn among queries on which targets differ, as far as there are so many."""
ROWS_PER_EPOCH = 2048
"""Each row is compared with the whole profile: fewer of them make an epoch."""


class ICLProfiles(Trained):
    """Holds the kernel [D, H], the profile's places [P, H] and outcomes [P, M] (NaN: not recorded), and two gains [2]."""

    name: ClassVar[str] = "icl-router"
    gaps: ClassVar[frozenset[str]] = frozenset({"profile"})
    shapes: ClassVar[Mapping[str, str]] = {"kernel": "DH", "keys": "PH", "profile": "PM", "gains": "G"}

    def prepare(self, parts: Mapping[str, Array]) -> None:
        """The profile as centred outcomes beside what was recorded, for one product per query."""
        rated = trained.rated(parts["profile"])
        self._read = np.concatenate([rated, ~np.isnan(parts["profile"])], axis=1)
        self._half = 0.5 * np.sum(parts["keys"] ** 2, axis=1)

    def odds(self, vectors: Array, features: Features) -> Array:
        """Each target's prior, moved by its own profile near the query, and by everybody's."""
        del features
        parts = self._parts
        near = vectors @ parts["kernel"] @ parts["keys"].T - self._half
        near -= near.max(axis=1, keepdims=True)
        weight = np.exp(near, out=near)
        total = weight @ self._read
        targets = len(self.targets)
        own = total[:, :targets] / (total[:, targets:] + PSEUDO * weight.mean(axis=1, keepdims=True))
        gain, shared = parts["gains"]
        odds: Array = parts["prior"] + gain * own + shared * own.mean(axis=1, keepdims=True)
        return odds

    def introduced(self, target: Target, quality: Array, vectors: Array, features: Features) -> dict[str, Array]:
        """Its rows are its profile: they join the others' as rows that only it has answered."""
        del target, features
        old, parts = self._parts["profile"], self._parts
        wide = np.full((len(old) + len(quality), old.shape[1] + 1), np.nan)
        wide[: len(old), :-1], wide[len(old) :, -1] = old, quality
        return {"profile": wide, "keys": np.concatenate([parts["keys"], vectors @ parts["kernel"]])}


@dataclass(frozen=True, kw_only=True)
class ICLRouterConfig(EstimatorConfig):
    """profile: pairs that describe a target, also the price of onboarding one; width: dimensions of the kernel's space;
    learned: False keeps the kernel it starts from, which is plain kernel regression on the profile.
    """

    profile: int = 512
    width: int = 32
    learned: bool = True
    rate: float = 0.01
    epochs: int = 30

    name: ClassVar[str] = "icl-router"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = ICLProfiles
    about: ClassVar[About | None] = About(
        title="ICL-Router: in-context-learned model representations",
        family="neighbours and tables",
        status="adapted",
        source="ICL-Router, stage 2 (profiles of query vector and correctness); known from notes that agree",
        formula=(
            "a_i(x) = exp(-|K e(x) - K e(x_i)|^2 / 2) over the profile P_j = {(e(x_i), right?)} of target j\n"
            "logit P(right) = prior_j + g sum_i a_i (y_ij - mean y_j) / sum_i a_i + h mean over targets; BCE, K g h trained"
        ),
        adapted=(
            "Cross-attention with a trained kernel replaces the language model that reads the profile and answers Yes or No.",
            "Stage 1 (a projector trained to reconstruct the query) is left out: the frozen encoder's vectors are used.",
            "The profile is drawn from training rows, mostly those on which targets differ.",
        ),
        unverified=("The average of about 76.30 does not match its own rows exactly (76.35).",),
        complexity="fit O(epochs N P (H + M)); decision O(D H + P (H + M)); a new target costs its profile's calls",
        claims=(
            Claim(
                figure="76.30 mean accuracy against 74.16 of EmbedLLM, 73.19 of the best single model",
                on="10 sets, 8 models of 7-9B",
            ),
        ),
    )

    def __post_init__(self) -> None:
        for key in ("profile", "width", "epochs"):
            check(getattr(self, key) >= 1, f"icl-router.{key}", "must be at least 1")
        check(self.rate > 0, "icl-router.rate", "must be positive")

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> ICLProfiles:
        """Draw the profile, train the kernel on all rows, each blind to its own pair; raises UserError without a row."""
        columns, values, vectors = trained.learnable(table, features, self.name)
        quality = values[:, : len(columns.targets)]
        parts = trained.common(columns, values, vectors)
        places = profile_rows(quality, self.profile, rng)
        found = self._trained(quality, vectors, places, parts["prior"], rng)
        parts.update(found.weights)
        parts["profile"], parts["keys"] = quality[places], vectors[places] @ parts["kernel"]
        return ICLProfiles(self, columns, parts, found.losses)

    def _trained(
        self, quality: Array, vectors: Array, places: NDArray[np.intp], prior: Array, rng: np.random.Generator
    ) -> descent.Descent:
        torch = descent.torch_for(self.name)
        x = trained.float_rows(torch, vectors - vectors.mean(axis=0))
        right, seen = descent.cells(torch, quality)
        rated = trained.float_rows(torch, trained.rated(quality[places]))
        known, level = seen[places], trained.float_rows(torch, np.nan_to_num(prior))
        own = torch.from_numpy(np.searchsorted(places, np.arange(len(quality))))
        mine = torch.from_numpy(np.isin(np.arange(len(quality)), places))

        def loss(w: Mapping[str, Any], batch: NDArray[np.intp], draw: np.random.Generator) -> Any:
            del draw
            keys = x[places] @ w["kernel"]
            near = x[batch] @ w["kernel"] @ keys.T - 0.5 * (keys * keys).sum(dim=1)
            blind = torch.zeros_like(near, dtype=torch.bool)
            inside = mine[batch].nonzero()[:, 0]
            blind[inside, own[batch][inside]] = True
            near = near.masked_fill(blind, -torch.inf)
            weight = (near - near.max(dim=1, keepdim=True).values.detach()).exp()
            mean = (weight @ rated) / (weight @ known + PSEUDO * weight.mean(dim=1, keepdim=True))
            odds = level + w["gains"][0] * mean + w["gains"][1] * mean.mean(dim=1, keepdim=True)
            return descent.binary_loss(torch, odds, right[batch], seen[batch])

        start = {"kernel": _first_kernel(vectors, self.width), "gains": np.array([3.0, 0.0])}
        recipe = Recipe(rate=self.rate, epochs=self.epochs, rows=ROWS_PER_EPOCH)
        rows = np.arange(len(quality)) if self.learned and len(places) > 1 else np.zeros(0, dtype=np.intp)
        return descent.descend(self.name, start, loss, rows, recipe, rng)


def profile_rows(quality: Array, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Positions of the profile's queries, ascending: mostly hard ones, on which recorded targets differ."""
    filled = np.where(np.isnan(quality), means(quality), quality)
    differ = rng.permutation(np.flatnonzero(np.nan_to_num(filled).std(axis=1) > 0.0))
    hard = differ[: int(HARD * count)]
    rest = rng.permutation(np.setdiff1d(np.arange(len(quality)), hard))
    return np.sort(np.concatenate([hard, rest[: count - len(hard)]]))


def _first_kernel(vectors: Array, width: int) -> Array:
    """The main axes of the embeddings, scaled so that the typical squared distance of two queries is 8."""
    centred = vectors - vectors.mean(axis=0)
    _, turned = np.linalg.eigh(centred.T @ centred)
    axes = turned[:, ::-1][:, :width]
    kernel = np.zeros((vectors.shape[1], width))
    spread = float(np.sum((centred @ axes) ** 2)) / len(centred)
    kernel[:, : axes.shape[1]] = axes * np.sqrt(4.0 / max(spread, 1e-12))
    return kernel


ICLProfiles.settings = ICLRouterConfig
