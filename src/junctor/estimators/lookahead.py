"""lookahead: before an answer exists, predict what it would be like, and score the target from that.

Source: Lookahead (NeurIPS 2025), the variant with a masked language model. Its auxiliary task reconstructs each candidate's
real response. Outcome tables hold no responses, but often their length: here a latent of each would-be answer is trained to
tell its number of output tokens, and the trunk below to tell the pattern of who is right. Both heads are dropped when training
ends.
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
from junctor.estimators.regression import logistic
from junctor.estimators.settings import check
from junctor.estimators.trained import Trained
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig
from junctor.types import Target

LENGTHS, PATTERNS = 2.0, 0.1
"""Shares of the auxiliary weight: lengths are seen almost without noise, who is right is as noisy as the labels themselves."""
ONBOARD_PENALTY = 3.0
"""L2 penalty of a new target's logistic head on the trunk."""
START = 0.3
"""Heads start so much smaller than the trunk: the first predictions are the targets' means."""


class Lookahead(Trained):
    """Holds the trunk [D, H] and, per target, the head [H, M] that its latent and its score come down to."""

    name: ClassVar[str] = "lookahead"
    shapes: ClassVar[Mapping[str, str]] = {"project": "DH", "shift": "H", "heads": "HM", "bias": "M"}

    def prepare(self, parts: Mapping[str, Array]) -> None:
        """A bias that is NaN for a target that was never tried."""
        self._level = parts["bias"] + 0.0 * parts["prior"]

    def odds(self, vectors: Array, features: Features) -> Array:
        """The trunk and one head per target."""
        del features
        odds: Array = self._trunk(vectors) @ self._parts["heads"] + self._level
        return odds

    def _trunk(self, vectors: Array) -> Array:
        """[N, H]: half of it linear, half rectified."""
        return _bent(vectors @ self._parts["project"] + self._parts["shift"])

    def introduced(self, target: Target, quality: Array, vectors: Array, features: Features) -> dict[str, Array]:
        """A logistic head on the trunk, fitted on its rows; the trunk stays."""
        del target, features
        weights, bias = logistic(self._trunk(vectors), quality[:, None], ONBOARD_PENALTY)
        heads = np.concatenate([self._parts["heads"], weights], axis=1)
        return {"heads": heads, "bias": np.append(self._parts["bias"], bias)}


def _bent(trunk: Array) -> Array:
    half = trunk.shape[1] // 2
    return np.concatenate([trunk[:, :half], np.maximum(trunk[:, half:], 0.0)], axis=1)


@dataclass(frozen=True, kw_only=True)
class LookaheadConfig(EstimatorConfig):
    """Hyper-parameters.

    width       of the trunk; latent: dimensions of each would-be answer
    auxiliary   weight of the loss of predicting answer lengths, and of that of the pattern of who is right; 0 leaves both out
    patterns    groups of rows that are alike in who is right
    """

    width: int = 64
    latent: int = 4
    auxiliary: float = 0.5
    patterns: int = 8
    rate: float = 0.005
    decay: float = 3.0
    epochs: int = 80

    name: ClassVar[str] = "lookahead"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = Lookahead
    about: ClassVar[About | None] = About(
        title="Lookahead routing by predicted latent responses",
        family="contrastive and graph",
        status="adapted",
        source="Lookahead (NeurIPS 2025), masked-language-model variant; released code huangcb01/lookahead-routing",
        formula=(
            "z_j = A_j trunk(e(x)): latent of target j's would-be answer; logit P(right) = w_j . z_j + b_j\n"
            "L = BCE(right) + a |log tokens_j - c_j . z_j - d_j|^2 + a CE(pattern of who is right | trunk)"
        ),
        adapted=(
            "A frozen sentence encoder and a trained trunk replace ModernBERT-base with 64 masked tokens per candidate.",
            (
                "The auxiliary targets are the length of the real response, and the pattern of who is right on the row; the"
                " paper's is the response's text, which outcome tables do not hold."
            ),
            (
                "Recorded qualities are the labels as they are: the paper scales them per query to [0, 1], which makes a winner"
                " of a target that failed like all others."
            ),
        ),
        unverified=(
            "Its mean over seven benchmarks is of scores that are normalised between bounds we could not derive again.",
        ),
        complexity="fit O(epochs N H (D + M k)); decision O(D H + H M)",
        claims=(
            Claim(figure="+7.7% mean normalised score over the best router", on="7 benchmarks, 5 models", sure="abstract"),
        ),
    )

    def __post_init__(self) -> None:
        for key, least in (("width", 2), ("latent", 1), ("patterns", 1), ("epochs", 1)):
            check(getattr(self, key) >= least, f"lookahead.{key}", f"must be at least {least}")
        check(self.auxiliary >= 0, "lookahead.auxiliary", "must not be negative")
        check(self.rate > 0, "lookahead.rate", "must be positive")
        check(self.decay >= 0, "lookahead.decay", "must not be negative")

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Lookahead:
        """Train trunk, latents and all heads, keep the heads of quality; raises UserError without a row."""
        columns, values, vectors = trained.learnable(table, features, self.name)
        quality = values[:, : len(columns.targets)]
        parts = trained.common(columns, values, vectors)
        found = self._trained(quality, lengths(table), vectors, parts["prior"], rng)
        w = found.weights
        heads = np.einsum("mhk,mk->hm", w["latent"], w["quality"])
        parts.update(project=w["project"], shift=w["shift"], heads=heads, bias=w["bias"])
        return Lookahead(self, columns, parts, found.losses)

    def _trained(
        self, quality: Array, tokens: Array, vectors: Array, prior: Array, rng: np.random.Generator
    ) -> descent.Descent:
        torch = descent.torch_for(self.name)
        centre, scale = trained.standard(vectors)
        x = trained.float_rows(torch, (vectors - centre) / scale)
        right, seen = descent.cells(torch, quality)
        long, told = descent.cells(torch, tokens)
        pattern = torch.from_numpy(patterns(quality, self.patterns, rng))
        half = self.width // 2

        def parts(w: Mapping[str, Any], batch: NDArray[np.intp]) -> tuple[Any, Any]:
            trunk = x[batch] @ w["project"] + w["shift"]
            trunk = torch.cat([trunk[:, :half], trunk[:, half:].relu()], dim=1)
            latent = torch.einsum("nh,mhk->nmk", trunk, w["latent"])
            odds = (latent * w["quality"]).sum(dim=2) + w["bias"]
            total = descent.binary_loss(torch, odds, right[batch], seen[batch])
            miss = (long[batch] - (latent * w["length"]).sum(dim=2)) ** 2 * told[batch]
            return trunk, total + LENGTHS * self.auxiliary * miss.sum() / told[batch].sum().clamp(min=1.0)

        def loss(w: Mapping[str, Any], batch: NDArray[np.intp], draw: np.random.Generator) -> Any:
            del draw
            trunk, total = parts(w, batch)
            guess = torch.nn.functional.cross_entropy(trunk @ w["pattern"], pattern[batch])
            return total + PATTERNS * self.auxiliary * guess

        def judge(w: Mapping[str, Any], batch: NDArray[np.intp], draw: np.random.Generator) -> Any:
            del draw
            return parts(w, batch)[1]

        recipe = Recipe(rate=self.rate, decay=self.decay, epochs=self.epochs)
        start = self._start(quality, vectors, prior, rng)
        found = descent.descend(self.name, start, loss, np.arange(len(x)), recipe, rng, judge=judge)
        project, shift = trained.folded(found.weights["project"], found.weights["shift"], centre, scale)
        found.weights.update(project=project, shift=shift)
        return found

    def _start(self, quality: Array, vectors: Array, prior: Array, rng: np.random.Generator) -> dict[str, Array]:
        targets = quality.shape[1]
        return {
            "project": trained.drawn(rng, vectors.shape[1], self.width),
            "shift": np.zeros(self.width),
            "latent": trained.drawn(rng, self.width, targets, self.latent, gain=START).transpose(1, 0, 2).copy(),
            "quality": rng.standard_normal((targets, self.latent)),
            "length": rng.standard_normal((targets, self.latent)),
            "bias": np.nan_to_num(prior),
            "pattern": trained.drawn(rng, self.width, self.patterns, gain=START),
        }


def lengths(table: OutcomeTable) -> Array:
    """Standardised log output tokens [N, M]; NaN where not recorded, everywhere for a table without them."""
    if table.output_tokens is None:
        return np.full(table.quality.shape, np.nan)
    logs = np.log1p(np.maximum(table.output_tokens, 0.0))
    centred = logs - means(logs)
    spread = np.sqrt(means(centred**2))
    return centred / np.where(spread > trained.FEWEST_DEVIATION, spread, 1.0)


def patterns(quality: Array, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """[N]: the group of each row by who is right, k-means of its outcomes with gaps at each target's mean."""
    rated = trained.rated(quality)
    return trained.nearest(rated, trained.clusters(rated, count, rng))


Lookahead.settings = LookaheadConfig
