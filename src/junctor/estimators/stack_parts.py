"""What a fitted stack holds, and its way to and from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from junctor.errors import ArtefactError
from junctor.estimators import measured, saved
from junctor.estimators.blending import Blend
from junctor.estimators.knn import KNN
from junctor.estimators.measured import Columns
from junctor.estimators.stacking import STRENGTHS, Grouping, Look, linear_maps, soft_table
from junctor.policy import Array, Estimator, State

MEMORY = "memory/"


@dataclass(frozen=True, slots=True)
class Parts:
    """Arrays of a stack; C columns are measures x targets, D numbers a view of the request.

    linear, bias     [D, C], [C]: all ridges, weighted and added up, as deviations from the mean
    groupings        soft groups; `tables` [G, C] are their weighted deviations
    memory           the neighbours' estimator, or None where it has no weight; `memory_weight` [C]
    mean, offset     [C]: the training means (NaN: never recorded), and what makes predictions right on average
    contenders, belief   see blending.Blend
    noise, seen      [M]: variance around predictions, and how often a target was recorded
    view_mean, spread    [D], [D, D]: where the training views lie, for `quality_std`
    least            [C]: the smallest value that was recorded
    """

    look: Look
    linear: Array
    bias: Array
    groupings: tuple[Grouping, ...]
    tables: tuple[Array, ...]
    memory: Estimator | None
    memory_weight: Array
    mean: Array
    offset: Array
    contenders: NDArray[np.intp]
    belief: float
    noise: Array
    seen: Array
    view_mean: Array
    spread: Array
    least: Array
    blend: Blend
    labels: tuple[str, ...] = ()
    label_name: str = ""

    def state(self, config: Mapping[str, Any]) -> State:
        """As plain data; the memory's own state under `memory/`."""
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _ARRAYS}
        arrays |= {"look/centre": self.look.centre, "look/scale": self.look.scale, "contenders": self.contenders}
        for place, (grouping, table) in enumerate(zip(self.groupings, self.tables, strict=True)):
            arrays |= {
                f"group{place}/weights": grouping.weights,
                f"group{place}/bias": grouping.bias,
                f"group{place}/table": table,
            }
        plain: dict[str, Any] = {
            **config,
            "groups": [grouping.name for grouping in self.groupings],
            "belief": self.belief,
            "members": dict(self.blend.quality),
            "measures_of": {name: dict(weights) for name, weights in self.blend.measures.items()},
            "summary": self.blend.summary,
            "labels": list(self.labels),
            "label_name": self.label_name,
            "memory": {},
        }
        if self.memory is not None:
            inner = self.memory.state()
            plain["memory"] = dict(inner.config)
            arrays |= {MEMORY + name: values for name, values in inner.arrays.items()}
        return State(plain, arrays)

    @classmethod
    def read(cls, state: State, columns: Columns) -> Parts:
        """The inverse of `state`; raises ArtefactError when something is missing or misshapen."""
        c, m = columns.width, len(columns.targets)
        look = Look(saved.array(state, "look/centre", (None,)), saved.array(state, "look/scale", (None,)))
        linear = saved.array(state, "linear", (None, c))
        d = len(linear)
        names = saved.entry(state, "groups", list[str])
        labels = saved.entry(state, "labels", list[str])
        groupings, tables = [], []
        for place, name in enumerate(names):
            weights = saved.array(state, f"group{place}/weights", (d, None))
            groupings.append(Grouping(name, weights, saved.array(state, f"group{place}/bias", (weights.shape[1],))))
            tables.append(saved.array(state, f"group{place}/table", (weights.shape[1], c)))
        contenders = saved.array(state, "contenders", (None,), np.int64).astype(np.intp)
        if not len(contenders) or contenders.min() < 0 or contenders.max() >= m:
            raise ArtefactError("does not name targets", field="contenders", fix=saved.FIX)
        mean, offset = saved.array(state, "mean", (c,), finite=False), saved.array(state, "offset", (c,))
        noise, belief = saved.array(state, "noise", (m,)), saved.entry(state, "belief", float)
        measures = saved.entry(state, "measures_of", dict[str, dict[str, float]])
        blend = Blend(
            saved.entry(state, "members", dict[str, float]),
            measures,
            contenders,
            offset,
            belief,
            noise,
            saved.entry(state, "summary", str),
        )
        return cls(
            look=look,
            linear=linear,
            bias=saved.array(state, "bias", (c,)),
            groupings=tuple(groupings),
            tables=tuple(tables),
            memory=_memory(state, columns),
            memory_weight=saved.array(state, "memory_weight", (c,)),
            mean=mean,
            offset=offset,
            contenders=contenders,
            belief=belief,
            noise=noise,
            seen=saved.array(state, "seen", (m,)),
            view_mean=saved.array(state, "view_mean", (d,)),
            spread=saved.array(state, "spread", (d, d)),
            least=saved.array(state, "least", (c,)),
            blend=blend,
            labels=tuple(labels),
            label_name=saved.entry(state, "label_name", str),
        )

    def widened(self, columns: Columns, values: Array, view: Array, memory: Estimator | None) -> Parts:
        """With one more target, learned from its rows: values [n, K] of the K measures, views [n, D]."""
        prior = measured.means(values)
        known = np.nan_to_num(prior)
        strongest = f"ridge{max(STRENGTHS):g}"
        slopes, bias = linear_maps(view, values, known)[strongest]
        m, k = len(columns.targets), len(columns.measures)
        weights = [self.blend.quality, *(self.blend.measures[name] for name in columns.measures[1:])]
        ridges = np.array([sum(w for name, w in each.items() if name.startswith("ridge")) for each in weights])
        tables = []
        for grouping, table in zip(self.groupings, self.tables, strict=True):
            share = np.array([each.get(grouping.name, 0.0) for each in weights])
            tables.append(columns.widen(table, (soft_table(grouping.of(view), values, known) - known) * share))
        remembered = self.memory_weight.reshape(k, m).max(axis=1) if m else np.zeros(k)
        residual = float(self.noise.mean()) if m else measured.UNKNOWN_VARIANCE
        return replace(
            self,
            linear=columns.widen(self.linear, slopes * ridges),
            bias=columns.widen(self.bias, bias * ridges),
            tables=tuple(tables),
            memory=memory,
            memory_weight=columns.widen(self.memory_weight, remembered),
            mean=columns.widen(self.mean, prior),
            offset=columns.widen(self.offset, np.zeros(k)),
            noise=np.append(self.noise, residual),
            seen=np.append(self.seen, float(len(values))),
            least=columns.widen(self.least, smallest(values)),
        )


_ARRAYS = ("linear", "bias", "memory_weight", "mean", "offset", "noise", "seen", "view_mean", "spread", "least")


def smallest(values: Array) -> Array:
    """[C]: the least recorded value of each column; zero for a column without any."""
    low: Array = np.where(np.isnan(values), np.inf, values).min(axis=0, initial=np.inf)
    return np.where(np.isinf(low), 0.0, low)


def _memory(state: State, columns: Columns) -> Estimator | None:
    inner = saved.entry(state, "memory", dict[str, Any])
    if not inner:
        return None
    arrays = {name.removeprefix(MEMORY): values for name, values in state.arrays.items() if name.startswith(MEMORY)}
    memory = KNN.from_state(State(inner, arrays))
    if memory.targets != columns.targets:
        raise ArtefactError("knows other targets", field="memory", fix=saved.FIX)
    return memory
