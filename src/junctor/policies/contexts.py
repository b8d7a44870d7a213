"""What a bandit sees of a request: a few numbers, the first of which is 1. They travel in the decision, so keep them few.

A context is learned without outcomes, from the training prompts alone, and does not change while the bandit learns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.estimators import measured, saved
from junctor.features import Features
from junctor.policy import Array, State

MOST_DIMS = 32
"""The numbers of a context are written into every decision: no more than these."""


class Context(ABC):
    """Turns N requests into [N, d] numbers, d = `dims`."""

    needs: ClassVar[frozenset[str]] = frozenset()
    dims: int

    @abstractmethod
    def matrix(self, features: Features) -> Array:
        """[N, d]; the first column is 1."""

    @abstractmethod
    def state(self) -> State:
        """Everything needed to make it again."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""


class Flat(Context):
    """Sees nothing: the same number for every request."""

    dims = 1

    def matrix(self, features: Features) -> Array:
        """Ones [N, 1]."""
        return np.ones((len(features), 1))

    def state(self) -> State:
        """Nothing."""
        return State()

    @classmethod
    def from_state(cls, state: State) -> Self:
        """From nothing."""
        del state
        return cls()


class Reduced(Context):
    """The embedding on its first principal axes, all scaled by one number so that their mean squared length is 1.

    centre   [D]
    axes     [D, d - 1]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(self, centre: NDArray[np.float32], axes: NDArray[np.float32]) -> None:
        self._centre, self._axes = centre, axes
        self._offset = centre @ axes
        self.dims = axes.shape[1] + 1

    @classmethod
    def of(cls, vectors: NDArray[np.float32], dims: int) -> Self:
        """Learned from training vectors [N, D]: at most `dims` axes, fewer where the vectors span fewer."""
        centre = vectors.mean(axis=0)
        centred = (vectors - centre).astype(np.float64)
        values, axes = np.linalg.eigh(centred.T @ centred / max(1, len(vectors)))
        kept = np.argsort(-values)[: min(dims, MOST_DIMS - 1)]
        kept = kept[values[kept] > 1e-9 * max(1e-9, float(values.max(initial=0.0)))]
        axes, values = axes[:, kept], values[kept]
        axes *= np.where(axes[np.abs(axes).argmax(axis=0), np.arange(len(kept))] < 0, -1.0, 1.0)
        length = float(np.sqrt(values.sum()))
        return cls(centre.astype(np.float32), np.ascontiguousarray(axes / (length or 1.0), dtype=np.float32))

    def matrix(self, features: Features) -> Array:
        """[N, d] of N embeddings."""
        vectors = measured.of_width(features.vectors("bandit"), len(self._centre), "bandit")
        found = np.ones((len(vectors), self.dims))
        found[:, 1:] = vectors @ self._axes - self._offset
        return found

    def state(self) -> State:
        """Centre and axes."""
        return State({}, {"centre": self._centre, "axes": self._axes})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        axes = saved.array(state, "axes", (None, None), np.float32)
        return cls(saved.array(state, "centre", (len(axes),), np.float32), axes)
