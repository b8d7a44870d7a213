"""The tape: recorded outcomes that can be read only after their call is in the bill.

A policy that replays its plans on a table must not peek: a cascade that reads the dear model's outcome before deciding whether
to call it is an oracle. So it is handed a Tape. `call` bills a call and opens its cell; `read` refuses what was not opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Replay

Rows = NDArray[np.intp]
Columns = NDArray[np.intp] | int


class NotBilled(LookupError):
    """An outcome was read before its call was billed: the policy peeks."""


class Recording:
    """What N queries x M targets would answer, draw by draw.

    measures   name -> [N, M, S]; "quality" is always there. A measure with one draw serves every draw of the call
    cost_usd   [N, M] of one call, or None; NaN where the call was not recorded
    """

    def __init__(self, table: OutcomeTable, measures: Mapping[str, Array] | None = None) -> None:
        self.shape = table.quality.shape
        self.measures: dict[str, Array] = {"quality": table.quality[:, :, None], **(measures or {})}
        self.cost_usd = table.cost_usd

    def tape(self) -> Tape:
        """A blank tape: nothing is billed, nothing can be read."""
        return Tape(self)


class Tape:
    """One run of N plans over a Recording. `rows` are positions [n]; `columns` and `draw` are one for all, or [n] of them."""

    def __init__(self, recording: Recording) -> None:
        rows, columns = recording.shape
        self._recording = recording
        self._opened = np.zeros((rows, columns), dtype=np.intp)
        self._lost = np.zeros(rows, dtype=bool)
        self.cost_usd = np.zeros(rows)
        self.calls = np.zeros(rows)
        self.quality = np.full(rows, np.nan)

    def call(self, rows: Rows, columns: Columns, times: int = 1) -> None:
        """Bill `times` calls of each of these cells and open as many draws."""
        self._opened[rows, columns] += times
        self.calls[rows] += times
        self._lost[rows] |= np.isnan(self._recording.measures["quality"][rows, columns, 0])
        if self._recording.cost_usd is not None:
            self.cost_usd[rows] += times * self._recording.cost_usd[rows, columns]

    def pay(self, rows: Rows, columns: Columns, share: float, calls: int) -> None:
        """Bill `calls` further calls that cost `share` of a call of these cells all together: a verifier's, a scorer's."""
        self.calls[rows] += calls
        if self._recording.cost_usd is not None:
            self.cost_usd[rows] += share * self._recording.cost_usd[rows, columns]

    def read(self, name: str, rows: Rows, columns: Columns, draw: Columns = 0) -> Array:
        """[n] of a measure's draw; raises NotBilled when one of the calls is not in the bill."""
        if (self._opened[rows, columns] <= draw).any():
            raise NotBilled(f"{name} was read before its call was billed")
        values = self._recording.measures[name]
        found: Array = values[rows, columns, np.minimum(draw, values.shape[2] - 1)]
        return found

    def give(self, rows: Rows, columns: Columns, draw: Columns = 0) -> None:
        """These answers are given in the end: their quality is the plan's."""
        self.quality[rows] = self.read("quality", rows, columns, draw)

    @property
    def outcome(self) -> tuple[Array, Array]:
        """Quality [N] and cost [N]; both NaN for a row where a call was made that was not recorded."""
        lost = self._lost | np.isnan(self.cost_usd)
        return np.where(lost, np.nan, self.quality), np.where(lost, np.nan, self.cost_usd)


def replay_of(settings: Sequence[float], tapes: Sequence[Tape], *, billed: bool) -> Replay:
    """What L tapes came to, one per setting; `billed` says whether the table has costs."""
    outcomes = [tape.outcome for tape in tapes]
    return Replay(
        np.array(settings, dtype=np.float64),
        np.stack([quality for quality, _ in outcomes]),
        np.stack([cost for _, cost in outcomes]) if billed else None,
        np.stack([tape.calls for tape in tapes]),
    )
