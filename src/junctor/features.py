"""What estimators and policies see of requests: texts, vectors and labels, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from junctor.errors import UserError
from junctor.types import Request

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Features:
    """N requests as arrays.

    texts      N strings
    embedding  float32 [N, D], unit length or zero; None when no part asked for it
    labels     name -> N strings ("" = no label), for example {"dataset": [...]}
    """

    texts: Sequence[str]
    embedding: NDArray[np.float32] | None = None
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(cls, request: Request) -> Features:
        """The one-row features of a request: those that the engine attached, or text and labels alone."""
        if request.features is not None:
            return request.features
        return cls([request.text], None, {name: [value] for name, value in request.labels.items()})

    def take(self, rows: Ints | Sequence[int]) -> Features:
        """The given rows, in the given order."""
        index = np.asarray(rows, dtype=np.intp)
        places: list[int] = index.tolist()
        return Features(
            [self.texts[i] for i in places],
            None if self.embedding is None else self.embedding[index],
            {name: [values[i] for i in places] for name, values in self.labels.items()},
        )

    def vectors(self, who: str) -> NDArray[np.float32]:
        """The embedding [N, D]; raises UserError in the name of `who` when there is none."""
        if self.embedding is None:
            raise UserError("needs an embedding", field=who, fix="pass features made by an encoder")
        return self.embedding

    def label(self, name: str) -> Sequence[str]:
        """The labels of this name, N strings; all empty when there are none."""
        found = self.labels.get(name)
        return [""] * len(self.texts) if found is None else found

    def without_labels(self) -> Features:
        """The same requests as they arrive from strangers: labels are known of recorded rows, not of new ones."""
        return Features(self.texts, self.embedding)
