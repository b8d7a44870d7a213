"""ragrouter: retrieved documents change who can answer; what a target knows is shifted by what it can read.

Source: RAGRouter ("Query Routing for Retrieval-Augmented Language Models"), from its abstract and notes. Documents come in the
text of the request, after a marker line; query and documents are encoded apart. A table without documents is learned from like
any other. No outcomes that were measured with the very documents are public, so this was tried on planted worlds only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.encoders import load_encoder
from junctor.errors import ArtefactError, UserError
from junctor.estimators import descent, saved, trained
from junctor.estimators.descent import Recipe
from junctor.estimators.regression import logistic
from junctor.estimators.settings import check
from junctor.estimators.trained import Trained
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, State
from junctor.types import Target

ONBOARD_PENALTY = 3.0
"""L2 penalty of a new target's logistic head."""


@dataclass(frozen=True, slots=True)
class Parted:
    """Requests taken apart: query vectors [N, D], document vectors [N, D] (0 without any), and [N, 2] whether there are
    documents and the cosine of the two.
    """

    query: Array
    documents: Array
    signs: Array


class RAGShift(Trained):
    """Holds two projections [D, H], what targets know and how they read [M, H], and what documents do at large [M, 2]."""

    name: ClassVar[str] = "ragrouter"
    shapes: ClassVar[Mapping[str, str]] = {
        "project": "DH",
        "shift": "H",
        "read": "DH",
        "read_shift": "H",
        "knowledge": "MH",
        "reading": "MH",
        "signs": "MS",
    }

    def odds(self, vectors: Array, features: Features) -> Array:
        """Similarity of the query and each target's knowledge, shifted by the documents where there are any."""
        found = parted(self.config, vectors, features.texts, reads=bool(self.stamp))
        parts = self._parts
        placed = found.query @ parts["project"] + parts["shift"]
        odds: Array = placed @ parts["knowledge"].T + parts["prior"]
        if found.signs[:, 0].any():
            odds += (placed * self._shift(found)) @ parts["reading"].T + found.signs @ parts["signs"].T
        return odds

    def _shift(self, found: Parted) -> Array:
        moved: Array = (found.documents @ self._parts["read"] + self._parts["read_shift"]) * found.signs[:, :1]
        return moved

    def introduced(self, target: Target, quality: Array, vectors: Array, features: Features) -> dict[str, Array]:
        """A logistic head over the same projections, fitted on its rows."""
        del target
        found = parted(self.config, vectors, features.texts, reads=bool(self.stamp))
        placed = found.query @ self._parts["project"] + self._parts["shift"]
        design = np.concatenate([placed, placed * self._shift(found), found.signs], axis=1)
        weights, bias = logistic(design, quality[:, None], ONBOARD_PENALTY)
        width = placed.shape[1]
        own = {"knowledge": weights[:width], "reading": weights[width : 2 * width], "signs": weights[2 * width :]}
        grown = {name: np.concatenate([self._parts[name], values.T]) for name, values in own.items()}
        return {**grown, "prior": np.append(self._parts["prior"], bias)}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; raises ArtefactError also when the encoder that read the documents is another one now."""
        found = super().from_state(state)
        if found.stamp and load_encoder(found.config.encoder).digest != found.stamp:
            raise ArtefactError("was made by another version of the encoder", field="stamp", fix=saved.FIX)
        return found


def parted(config: RAGRouterConfig, vectors: Array, texts: Sequence[str], *, reads: bool) -> Parted:
    """Query and documents apart; texts without the marker keep the vector that they came with.

    `reads` is False for an estimator that was fitted without documents: it takes every text as it is.
    """
    query, documents, signs = vectors, np.zeros_like(vectors), np.zeros((len(vectors), 2))
    places = [i for i, text in enumerate(texts) if config.marker in text] if reads else []
    if places:
        pairs = [texts[i].partition(config.marker) for i in places]
        encode = load_encoder(config.encoder).encode
        asked, given = (encode(part).astype(np.float64) for part in ([p[0] for p in pairs], [p[2] for p in pairs]))
        if asked.shape[1] != vectors.shape[1]:
            message = f"{config.encoder!r} makes vectors of {asked.shape[1]} numbers, the features have {vectors.shape[1]}"
            raise UserError(message, field="ragrouter.encoder", fix="name the encoder that made the features")
        query = vectors.copy()
        query[places], documents[places] = asked, given
        signs[places] = np.stack([np.ones(len(places)), np.sum(asked * given, axis=1)], axis=1)
    return Parted(query, documents, signs)


@dataclass(frozen=True, kw_only=True)
class RAGRouterConfig(EstimatorConfig):
    """Hyper-parameters.

    marker     what stands between query and documents in a request's text
    documents  False never looks for documents: the static router that the paper compares with
    contrast   weight of the contrastive loss beside the cross-entropy
    encoder    made the features, and reads query and documents apart
    """

    marker: str = "\n### Documents\n"
    documents: bool = True
    width: int = 64
    contrast: float = 0.5
    encoder: str = "static"
    rate: float = 0.005
    decay: float = 10.0
    epochs: int = 50

    name: ClassVar[str] = "ragrouter"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = RAGShift
    about: ClassVar[About | None] = About(
        title="RAGRouter: query routing for retrieval-augmented language models",
        family="contrastive and graph",
        status="simulated",
        source="Query Routing for Retrieval-Augmented Language Models (RAGRouter)",
        formula=(
            "k'_j = k_j + d * r_j, d = R e(documents)\n"
            "logit P(right) = prior_j + P e(query) . k'_j + s_j . (1, cos(query, documents))\n"
            "L = BCE + c x contrast of right against wrong over {with, without documents} of the same query"
        ),
        adapted=(
            "No outcomes measured with the very documents are public: it is shown on planted worlds only.",
            (
                "A frozen encoder reads query and documents; in the paper all-mpnet-base-v2 does, and a cross-encoder"
                " their interaction, for which the product of the two projections and their cosine stand in."
            ),
            "Documents come in the request's text after a marker line.",
        ),
        unverified=("The exact form of the paper's contrastive loss was not read.",),
        complexity="fit O(epochs N (D H + M H)); decision O(D H + M H), plus encoding query and documents where there are any",
        claims=(
            Claim(
                figure="+3.61% over the best model, +3.29 to +9.33% over other routers",
                on="its own benchmark",
                sure="abstract",
            ),
        ),
    )

    def __post_init__(self) -> None:
        check(bool(self.marker), "ragrouter.marker", "must not be empty")
        for key in ("width", "epochs"):
            check(getattr(self, key) >= 1, f"ragrouter.{key}", "must be at least 1")
        check(self.contrast >= 0, "ragrouter.contrast", "must not be negative")
        check(self.rate > 0, "ragrouter.rate", "must be positive")
        check(self.decay >= 0, "ragrouter.decay", "must not be negative")

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> RAGShift:
        """Train on queries with and without documents; raises UserError without a row, or where the encoder is another one."""
        columns, values, vectors = trained.learnable(table, features, self.name)
        quality = values[:, : len(columns.targets)]
        reads = self.documents and any(self.marker in text for text in features.texts)
        found = parted(self, vectors, features.texts, reads=reads)
        parts = trained.common(columns, values, vectors)
        partner = partners(self.marker, features.texts)
        made = self._trained(quality, found, partner, parts["prior"], rng)
        parts.update(made.weights)
        return RAGShift(self, columns, parts, made.losses, load_encoder(self.encoder).digest if reads else "")

    def _trained(
        self, quality: Array, found: Parted, partner: NDArray[np.intp], prior: Array, rng: np.random.Generator
    ) -> descent.Descent:
        torch = descent.torch_for(self.name)
        asked, given = trained.standard(found.query), trained.standard(found.documents)
        x = trained.float_rows(torch, (found.query - asked[0]) / asked[1])
        read = trained.float_rows(torch, (found.documents - given[0]) / given[1] * found.signs[:, :1])
        signs, level = trained.float_rows(torch, found.signs), trained.float_rows(torch, np.nan_to_num(prior))
        right, seen = descent.cells(torch, quality)
        paired = torch.from_numpy((partner >= 0).astype(np.float32))[:, None]

        def scores(w: Mapping[str, Any], rows: NDArray[np.intp]) -> Any:
            placed = x[rows] @ w["project"] + w["shift"]
            shift = read[rows] @ w["read"] + w["read_shift"] * signs[rows][:, :1]
            return placed @ w["knowledge"].T + (placed * shift) @ w["reading"].T + signs[rows] @ w["signs"].T + level

        def loss(w: Mapping[str, Any], batch: NDArray[np.intp], draw: np.random.Generator) -> Any:
            del draw
            own = scores(w, batch)
            total = descent.binary_loss(torch, own, right[batch], seen[batch])
            if not self.contrast:
                return total
            other = np.maximum(partner[batch], 0)
            both = torch.cat([own, scores(w, other)], dim=1)
            there = torch.cat([seen[batch], seen[other] * paired[batch]], dim=1)
            good = (torch.cat([right[batch], right[other]], dim=1) > 0.5) * there
            return total + self.contrast * descent.contrast_loss(torch, both, good, there - good)

        recipe = Recipe(rate=self.rate, decay=self.decay, epochs=self.epochs)
        start = _start(found.query.shape[1], quality.shape[1], self.width, rng)
        made = descent.descend(self.name, start, loss, np.arange(len(x)), recipe, rng)
        w = made.weights
        w["project"], w["shift"] = trained.folded(w["project"], w["shift"], *asked)
        w["read"], w["read_shift"] = trained.folded(w["read"], w["read_shift"], *given)
        return made


def _start(dim: int, targets: int, width: int, rng: np.random.Generator) -> dict[str, Array]:
    """Documents are first read like queries, so that what matches begins as a similarity; targets begin alike."""
    project = trained.drawn(rng, dim, width)
    return {
        "project": project,
        "shift": np.zeros(width),
        "read": project.copy(),
        "read_shift": np.zeros(width),
        "knowledge": 0.1 * rng.standard_normal((targets, width)),
        "reading": 0.1 * rng.standard_normal((targets, width)),
        "signs": np.zeros((targets, 2)),
    }


def partners(marker: str, texts: Sequence[str]) -> NDArray[np.intp]:
    """[N]: for each row a row of the same query, with documents where it has none and without where it has some; else -1."""
    split = [text.partition(marker) for text in texts]
    first: dict[tuple[str, bool], int] = {}
    for row, (query, cut, _) in enumerate(split):
        first.setdefault((query, bool(cut)), row)
    return np.array([first.get((query, not cut), -1) for query, cut, _ in split], dtype=np.intp)


RAGShift.settings = RAGRouterConfig
