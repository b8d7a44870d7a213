"""From what a policy chose to its figures: every metric that the table can give, on the test set and on each resample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from junctor.bench import metrics
from junctor.bench.frontiers import hull_paths
from junctor.bench.references import Curve, oracle_choices
from junctor.bench.resample import Resamples
from junctor.outcomes import OutcomeTable

Array = NDArray[np.float64]
Figures = Mapping[str, Array]
"""metric -> [1 + B]: the test set as it is, then each resample. NaN = not defined or not reached."""


@dataclass(frozen=True)
class Frame:
    """What all policies of one seed are judged against.

    table        the test rows
    resamples    of the same rows
    best_single  the target of the highest mean quality on the *training* rows
    strong, weak the two targets of a two-target table by training quality, or None
    billed       whether `cost_usd` holds real costs (a two-target table without any is given 1 per strong call)
    """

    table: OutcomeTable
    resamples: Resamples
    best_single: int
    strong: int | None = None
    weak: int | None = None
    billed: bool = True

    @cached_property
    def singles_quality(self) -> Array:
        """[R, M] mean quality of every target alone."""
        return self.resamples.means(self.table.quality.T)

    @cached_property
    def singles_cost(self) -> Array:
        """[R, M] mean cost of every target alone."""
        assert self.table.cost_usd is not None
        return self.resamples.means(self.table.cost_usd.T)

    @cached_property
    def oracle_quality(self) -> Array:
        """[R] mean quality of the per-query oracle."""
        chosen = self.table.quality[np.arange(len(self.table)), oracle_choices(self.table)]
        return self.resamples.means(chosen[None, :])[:, 0]

    @cached_property
    def groups(self) -> Mapping[str, NDArray[np.bool_]]:
        """Label -> mask over the test rows; empty when the table has no labels."""
        labels = np.array(self.table.label, dtype=object)
        return {name: labels == name for name in sorted({str(x) for x in labels if x})}

    @cached_property
    def parts(self) -> Mapping[str, Resamples]:
        """Label -> the resamples restricted to its rows."""
        return {name: self.resamples.only(mask) for name, mask in self.groups.items()}

    @cached_property
    def group_cost_bounds(self) -> tuple[Array, Array]:
        """Two [R, G]: mean cost of the cheapest and of the dearest single target per dataset (the whole set without labels)."""
        assert self.table.cost_usd is not None
        if not self.groups:
            return self.singles_cost.min(axis=1, keepdims=True), self.singles_cost.max(axis=1, keepdims=True)
        costs = [self.parts[name].means(self.table.cost_usd[mask].T) for name, mask in self.groups.items()]
        return np.stack([c.min(axis=1) for c in costs], axis=1), np.stack([c.max(axis=1) for c in costs], axis=1)

    def by_group(self, values: Array) -> Array:
        """[R, G] means of `values` [N] per dataset; one column for the whole set when there are no labels."""
        if not self.groups:
            return self.resamples.means(values[None, :])
        columns = [self.parts[name].means(values[mask][None, :])[:, 0] for name, mask in self.groups.items()]
        return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True)
class Judged:
    """The figures of one policy for one seed, with what plots need: its quality per dataset and its hull on the test set."""

    figures: Figures
    per_dataset: Mapping[str, float] = field(default_factory=dict)
    hull: tuple[Array, Array] | None = None
    recorded: float = 1.0


def judge(curve: Curve, frame: Frame) -> Judged:
    """Every metric of one policy that this table can give."""
    point = curve.quality[curve.operating]
    quality = frame.resamples.means(curve.quality)
    grouped = frame.by_group(point)
    figures = {**_quality_figures(quality[:, curve.operating], grouped, frame)}
    hull = None
    if curve.strong is not None and (curve.knob or curve.mixed):
        figures |= _share_figures(curve.strong, quality, frame)
    if curve.cost_usd is not None and frame.billed:
        cost = frame.resamples.means(curve.cost_usd)
        figures |= _point_cost_figures(curve, quality, cost, grouped, frame)
        if curve.knob:
            figures |= _curve_figures(curve, quality, cost, frame)
        x, y = hull_paths(cost[:1], quality[:1])
        hull = (x[0], y[0])
    per_dataset = {name: float(v) for name, v in zip(frame.groups, grouped[0], strict=False) if np.isfinite(v)}
    return Judged(figures, per_dataset, hull, recorded=float(np.mean(~np.isnan(point))))


def _quality_figures(quality: Array, grouped: Array, frame: Frame) -> dict[str, Array]:
    best = frame.singles_quality[:, frame.best_single]
    figures = {"quality": quality, "oracle_gap_closed": metrics.gap_closed(quality, best, frame.oracle_quality)}
    if frame.groups:
        figures["quality_macro"] = _row_means(grouped)
    return figures


def _point_cost_figures(curve: Curve, quality: Array, cost: Array, grouped: Array, frame: Frame) -> dict[str, Array]:
    assert curve.cost_usd is not None
    at_quality, at_cost = quality[:, curve.operating], cost[:, curve.operating]
    low, high = frame.group_cost_bounds
    return {
        "cost_usd": at_cost,
        "routerarena": metrics.routerarena(at_quality, at_cost),
        "vl_rank": metrics.vl_rank(grouped, frame.by_group(curve.cost_usd[curve.operating]), low, high),
    }


def _curve_figures(curve: Curve, quality: Array, cost: Array, frame: Frame) -> dict[str, Array]:
    low, high = frame.singles_cost.min(axis=1), frame.singles_cost.max(axis=1)
    best = int(frame.singles_quality[0].argmax())
    best_quality, best_cost = frame.singles_quality[:, best], frame.singles_cost[:, best]
    wanted = frame.singles_quality[:, frame.best_single]
    hulled = metrics.aiq(cost, quality, low, high)
    return {
        "aiq": hulled,
        "aiq_released": metrics.aiq_released(cost, quality, high),
        "area": hulled if curve.mixed else metrics.curve_area(cost, quality, low, high),
        "hypervolume": metrics.hypervolume(cost, quality, low, high),
        "qnc": metrics.qnc(cost, quality, best_quality, best_cost),
        "peak": metrics.peak(quality),
        "cost_at_equal_quality": metrics.cost_at_equal_quality(cost, quality, wanted),
    }


def _share_figures(strong: Array, quality: Array, frame: Frame) -> dict[str, Array]:
    assert frame.strong is not None
    assert frame.weak is not None
    share = frame.resamples.means(strong)
    low, high = frame.singles_quality[:, frame.weak], frame.singles_quality[:, frame.strong]
    return {
        "apgr": metrics.apgr(share, quality, low, high),
        "cpt50": metrics.cpt(share, quality, low, high, 0.5),
        "cpt80": metrics.cpt(share, quality, low, high, 0.8),
    }


def _row_means(values: Array) -> Array:
    """Row means without the NaNs: a resample may miss a small dataset altogether."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.asarray(total / np.maximum(known.sum(axis=1), 1))
