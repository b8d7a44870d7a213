"""Arms of a linear bandit: per target one ridge regression of what came of a call on the context that it was chosen in.

The models are disjoint, as in LinUCB (Li et al. 2010, algorithm 1). Arm j holds C_j = (λI + Σ x xᵀ)⁻¹ and, per response r, a
moment m_jr = λ θ_0 + Σ r x, so that θ_jr = C_j m_jr. One outcome is one update of rank one (Sherman and Morrison 1950), d²
steps. There are two responses, quality and bill, so that what is known of quality survives a change of price.

The last row of every array is the arm that nobody has tried: a target that turns up later begins as a copy of it. Its quality
is an optimistic one, so that it is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from junctor.estimators import saved
from junctor.policy import Array, State

RESPONSES = 2
"""Quality and bill, in this order."""
Rows = slice | NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Prior:
    """What an arm is before it is tried.

    ridge      λ: how many observations of unit length the prior is worth
    quality    expected whatever the context; high = tried soon
    bill       expected in the units of bills
    discount   in (0, 1]: what an observation still counts after one more of the same arm; 1 forgets nothing
    """

    ridge: float = 1.0
    quality: float = 1.0
    bill: float = 1.0
    discount: float = 1.0


class LinearArms:
    """M arms over d context numbers, the first of which is always 1.

    inverse   [M + 1, d, d] C_j
    moment    [M + 1, 2, d] m_jr
    weights   [M + 1, 2, d] θ_jr
    times     [M + 1] outcomes taken
    """

    def __init__(self, ids: Sequence[str], dims: int, prior: Prior) -> None:
        self.prior, self.dims = prior, dims
        self.ids: list[str] = []
        self.inverse = (np.eye(dims) / prior.ridge)[None]
        self.weights = np.zeros((1, RESPONSES, dims))
        self.weights[0, :, 0] = prior.quality, prior.bill
        self.moment = prior.ridge * self.weights
        self.times = np.zeros(1)
        self._place: dict[str, int] = {}
        self.total = 0.0
        for id_ in ids:
            self.add(id_)

    def __len__(self) -> int:
        return len(self.ids)

    def place(self, id_: str) -> int:
        """The row of an arm; the last row for one that is not known."""
        return self._place.get(id_, len(self.ids))

    def add(self, id_: str) -> int:
        """The row of an arm, which is made when it is not known."""
        if id_ in self._place:
            return self._place[id_]
        row = self._place[id_] = len(self.ids)
        self.ids.append(id_)
        for name in ("inverse", "moment", "weights", "times"):
            values = getattr(self, name)
            setattr(self, name, np.concatenate([values, values[-1:]]))
        return row

    def stand(self, x: Array, rows: Rows) -> tuple[Array, Array, Array]:
        """What is known of K arms in N contexts [N, d]: quality, bill, and √(xᵀ C x), each [N, K]."""
        weights = self.weights[rows]
        inverse = self.inverse[rows]
        if len(x) == 1:
            one = x[0]
            mean = weights.dot(one)
            width = inverse.dot(one).dot(one)[None]
            return mean[None, :, 0], mean[None, :, 1], np.sqrt(np.maximum(width, 0.0))
        width = np.stack([np.einsum("nd,nd->n", x @ part, x) for part in inverse], axis=1)
        return x @ weights[:, 0].T, x @ weights[:, 1].T, np.sqrt(np.maximum(width, 0.0))

    def take(self, row: int, x: Array, quality: float, bill: float) -> None:
        """One outcome of one arm; a bill of NaN is not known and teaches nothing."""
        if bill != bill:
            bill = float(self.weights[row, 1].dot(x))
        responses = np.array([[quality], [bill]]) * x
        if self.prior.discount < 1.0:
            self._forget(row, x)
            self.moment[row] += responses
        else:
            inverse = self.inverse[row]
            reach = inverse.dot(x)
            inverse -= np.multiply.outer(reach, reach / (1.0 + reach.dot(x)))
            self.moment[row] += responses
        np.dot(self.moment[row], self.inverse[row], out=self.weights[row])
        self.times[row] += 1.0
        self.total += 1.0

    def _forget(self, row: int, x: Array) -> None:
        """Draw the arm back to its prior by the share that is forgotten, and add x xᵀ."""
        keep = self.prior.discount
        precision = keep * np.linalg.inv(self.inverse[row]) + np.outer(x, x)
        precision[np.diag_indices(self.dims)] += (1.0 - keep) * self.prior.ridge
        self.inverse[row] = np.linalg.inv(precision)
        self.moment[row] = keep * self.moment[row] + (1.0 - keep) * self.moment[-1]

    def copy(self) -> LinearArms:
        """Another one that learns on its own."""
        made = LinearArms((), self.dims, self.prior)
        made.ids, made._place, made.total = list(self.ids), dict(self._place), self.total
        made.inverse, made.moment, made.weights, made.times = (
            values.copy() for values in (self.inverse, self.moment, self.weights, self.times)
        )
        return made

    def state(self) -> State:
        """Everything but the last row, which the prior makes again."""
        arrays = {"inverse": self.inverse, "moment": self.moment, "weights": self.weights, "times": self.times}
        return State({"arms": list(self.ids)}, {name: values[:-1].copy() for name, values in arrays.items()})

    @classmethod
    def from_state(cls, state: State, dims: int, prior: Prior) -> Self:
        """The inverse of `state`; raises ArtefactError when it does not fit."""
        made = cls(saved.entry(state, "arms", list[str]), dims, prior)
        count = len(made)
        made.inverse[:-1] = saved.array(state, "inverse", (count, dims, dims))
        made.moment[:-1] = saved.array(state, "moment", (count, RESPONSES, dims))
        made.weights[:-1] = saved.array(state, "weights", (count, RESPONSES, dims))
        made.times[:-1] = saved.array(state, "times", (count,))
        made.total = float(made.times.sum())
        return made
