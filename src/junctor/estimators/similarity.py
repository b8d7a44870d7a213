"""similarity: how well the query fits a target's own description. Needs no outcomes, so it routes to what was never tried.

quality = (1 + s) / 2 with s the cosine of query and description, mixed with the cosine of their word and character n-grams when
`lexical` is not zero. It ranks targets; it is no probability. Costs and latencies, where recorded, are each target's mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About
from junctor.encoders import load_encoder
from junctor.encoders.base import Encoder
from junctor.errors import ArtefactError, UserError
from junctor.estimators import measured, saved
from junctor.estimators.measured import Columns
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State
from junctor.types import Target

MIXES = (0.0, 0.3, 0.6)


class Similarity(Estimator):
    """Holds description vectors [M, D], their n-gram vectors [M, L] (L = 0 without the lexical channel) and means [C]."""

    name: ClassVar[str] = "similarity"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(
        self,
        config: SimilarityConfig,
        columns: Columns,
        vectors: NDArray[np.float32],
        grams: NDArray[np.float32],
        mean: Array,
        lexical: Encoder | None,
    ) -> None:
        self.config = config
        self.targets = columns.targets
        self._columns, self._vectors, self._grams, self._mean, self._lexical = columns, vectors, grams, mean, lexical

    def predict_many(self, features: Features) -> Prediction:
        """Similarities of N queries [N, M], and the means of what else was recorded."""
        vectors = measured.of_width(features.vectors(self.name), self._vectors.shape[1], self.name)
        close = (vectors @ self._vectors.T).astype(np.float64)
        if self._lexical is not None:
            grams = self._lexical.encode(features.texts) @ self._grams.T
            close = (1.0 - self.config.lexical) * close + self.config.lexical * grams
        flat = np.tile(self._mean, (len(features), 1))
        flat[:, : len(self.targets)] = np.clip((1.0 + close) / 2.0, 0.0, 1.0)
        return self._columns.prediction(flat)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Similarity:
        """Read the new target's description from `rows.targets`; its costs are the means of the rows, which may be none."""
        del features
        columns = self._columns.plus(target)
        one = rows.only([target])
        vectors, grams = _described(self.config, list(one.targets), self._lexical)
        found = [measured.means(np.full((1, 1), np.nan) if (v := getattr(one, m)) is None else v) for m in columns.measures]
        return Similarity(
            self.config,
            columns,
            np.vstack([self._vectors, measured.of_width(vectors, self._vectors.shape[1], self.name)]),
            np.vstack([self._grams, grams]),
            self._columns.widen(self._mean, np.concatenate(found)),
            self._lexical,
        )

    def state(self) -> State:
        """The description vectors and the means, and which n-gram encoder made the grams."""
        digest = "" if self._lexical is None else self._lexical.digest
        config = {**saved.described(self._columns), "settings": self.config.settings(), "lexical_digest": digest}
        return State(config, {"vectors": self._vectors, "grams": self._grams, "mean": self._mean})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        columns = saved.columns(state)
        config = configured(SimilarityConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        lexical = _lexical(config)
        if (lexical.digest if lexical else "") != saved.entry(state, "lexical_digest", str):
            raise ArtefactError("was made by another version of the encoder lexical", field="grams", fix=saved.FIX)
        count = len(columns.targets)
        vectors = saved.array(state, "vectors", (count, None), np.float32)
        grams = saved.array(state, "grams", (count, lexical.dim if lexical else 0), np.float32)
        return cls(config, columns, vectors, grams, saved.array(state, "mean", (columns.width,), finite=False), lexical)


def _lexical(config: SimilarityConfig) -> Encoder | None:
    return load_encoder("lexical") if config.lexical else None


def _words(target: Target) -> str:
    """What describes a target: its description, else the words of its id."""
    return target.description or " ".join(re.findall(r"[^\W_]+", target.id))


def _described(
    config: SimilarityConfig, targets: list[Target], lexical: Encoder | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors [M, D] and n-gram vectors [M, L] of the descriptions."""
    texts = [_words(target) for target in targets]
    grams = np.zeros((len(texts), 0), dtype=np.float32) if lexical is None else lexical.encode(texts)
    return load_encoder(config.encoder).encode(texts), grams


@dataclass(frozen=True, kw_only=True)
class SimilarityConfig(EstimatorConfig):
    """encoder: made the features, and reads the descriptions; lexical: the weight of the n-gram channel, 0 to 1."""

    encoder: str = "static"
    lexical: float = 0.3

    name: ClassVar[str] = "similarity"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = Similarity
    about: ClassVar[About | None] = About(
        title="Similarity to descriptions",
        family="bars",
        status="ours",
        source="folklore: nearest description, as tool and intent selection do without examples",
        formula="q_j(x) = (1 + s) / 2, s = cosine of query and description of j, mixed with that of their n-grams",
        complexity="fit: M encodings; decision: O(M D)",
    )

    def __post_init__(self) -> None:
        check(0.0 <= self.lexical <= 1.0, "similarity.lexical", "must be in [0, 1]")

    def candidates(self, rows: int) -> Sequence[SimilarityConfig]:
        """Without and with the lexical channel."""
        del rows
        return [replace(self, lexical=mix) for mix in MIXES]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Similarity:
        """Embed the descriptions of the table's targets; the table may be without rows."""
        del rng
        measured.same_rows(table, features, self.name)
        columns, values = measured.stack(table)
        lexical = _lexical(self)
        vectors, grams = _described(self, list(table.targets), lexical)
        if features.embedding is not None and features.embedding.shape[1] != vectors.shape[1]:
            message = (
                f"{self.encoder!r} makes vectors of {vectors.shape[1]} numbers, the features have {features.embedding.shape[1]}"
            )
            raise UserError(message, field="similarity.encoder", fix="name the encoder that made the features")
        return Similarity(self, columns, vectors, grams, measured.means(values), lexical)
