"""Fitting a stack: members on folds, weights on what they held out, then the members again on everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from junctor.estimators import measured, neighbours
from junctor.estimators.blending import Blend, Evidence, best_columns, blend
from junctor.estimators.knn import KNNConfig
from junctor.estimators.measured import Columns
from junctor.estimators.stack_parts import Parts, smallest
from junctor.estimators.stacking import (
    STRENGTHS,
    Grouping,
    Look,
    cluster_groupings,
    fitted_temperature,
    folds_of,
    gap_weights,
    gaps,
    label_grouping,
    label_places,
    linear_maps,
    soft_table,
)
from junctor.estimators.text_statistics import many
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator

if TYPE_CHECKING:
    from junctor.estimators.stack import StackConfig

NEIGHBOURS = (20, 80, 320)
LISTED_ROWS = 4000
"""From here on neighbours are looked up in an index, where the extra `ann` is installed: a scan would be most of a decision."""
FEWEST_ROWS = 20
"""With fewer rows nothing can be held out: the stack is the means."""
Vectors = NDArray[np.float32]
Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Material:
    """Rows to learn from: vectors [n, E], views [n, D], outcomes [n, C], the place of each row's label (-1: none)."""

    vectors: Vectors
    view: Array
    values: Array
    places: Ints

    def take(self, rows: Ints | NDArray[np.bool_]) -> Material:
        """These rows."""
        return Material(self.vectors[rows], self.view[rows], self.values[rows], self.places[rows])

    def __len__(self) -> int:
        return len(self.vectors)


def fitted_parts(config: StackConfig, table: OutcomeTable, vectors: Vectors, rng: np.random.Generator) -> tuple[Columns, Parts]:
    """What the columns are, and everything that a Stack holds."""
    kept = _drawn(len(table), config.rows, rng)
    some = table.take(kept) if len(kept) < len(table) else table
    columns, values = measured.stack(some)
    whole = [_recorded(table, name) for name in columns.measures]
    mean, least = (np.concatenate([f(each) for each in whole]) for f in (measured.means, smallest))
    labels, places = label_places(some.label)
    statistics = many(some.texts)
    look = Look.of(statistics)
    view = np.hstack([vectors[kept], look.part(statistics)])
    material = Material(vectors[kept], view, values, places)
    clusters = cluster_groupings(material.vectors, view.shape[1], rng)
    made, temperature, k = _weighed(config, material, some.groups(), columns, mean, clusters, len(labels), rng)
    groupings = [*clusters]
    if len(labels) > 1:
        groupings.append(label_grouping(view, material.places, len(labels), temperature))
    groupings = [grouping for grouping in groupings if made.matters(grouping.name)]
    linear, bias = _linear(made, columns, material, np.nan_to_num(mean))
    member = f"knn{k}"
    memory = _memory(k, table, vectors, rng) if made.matters(member) else None
    spread = np.asarray(np.linalg.inv(_covariance(view) + made.strength * np.eye(view.shape[1])), dtype=np.float64)
    return columns, Parts(
        look=look,
        linear=linear,
        bias=bias,
        groupings=tuple(groupings),
        tables=tuple(_table(made, columns, grouping, material, np.nan_to_num(mean)) for grouping in groupings),
        memory=memory,
        memory_weight=made.weights(member, columns) if memory is not None else np.zeros(columns.width),
        mean=mean,
        offset=made.offset,
        contenders=made.contenders,
        belief=made.belief,
        noise=made.noise,
        seen=table.mask.sum(axis=0).astype(np.float64),
        view_mean=view.mean(axis=0),
        spread=spread,
        least=least,
        blend=made,
        labels=tuple(labels) if config.known_labels else (),
        label_name=table.label_name,
    )


def _recorded(table: OutcomeTable, measure: str) -> Array:
    """[N, M] of one measure that is there."""
    found: Array = getattr(table, measure)
    return found


def _drawn(rows: int, most: int, rng: np.random.Generator) -> Ints:
    """All row numbers, or `most` of them at random, in order."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(rng.choice(rows, most, replace=False))


def _covariance(view: Array) -> Array:
    centred = view - view.mean(axis=0)
    found: Array = centred.T @ centred
    return found


def _weighed(
    config: StackConfig,
    material: Material,
    groups: Ints,
    columns: Columns,
    mean: Array,
    clusters: list[Grouping],
    labels: int,
    rng: np.random.Generator,
) -> tuple[Blend, float, int]:
    """The weights, the temperature of label probabilities, and how many neighbours are averaged."""
    few = _drawn(len(material), config.held_out, rng)
    seen, fold = material.take(few), folds_of(groups[few], config.folds, rng)
    usable = len(seen) >= FEWEST_ROWS and len(np.unique(fold)) == config.folds
    if not usable:
        empty = Evidence({}, seen.values, mean)
        return _nothing(empty, columns), 1.0, NEIGHBOURS[0]
    temperature = _temperature(seen, fold, labels) if labels > 1 else 1.0
    held: dict[str, Array] = {}
    for rows, found in _folds(config, seen, fold, clusters, labels, temperature):
        for name, values in found.items():
            held.setdefault(name, np.full(seen.values.shape, np.nan))[rows] = values
    held = {name: values for name, values in held.items() if not np.isnan(values).any()}
    k = _best_neighbours(held, seen.values, mean, len(columns.targets))
    kept = {name: values for name, values in held.items() if not name.startswith("knn") or name == f"knn{k}"}
    return blend(Evidence(kept, seen.values, mean), columns), temperature, k


def _nothing(evidence: Evidence, columns: Columns) -> Blend:
    """No weights: the means as they are."""
    m = len(columns.targets)
    return Blend(
        {},
        {name: {} for name in columns.measures[1:]},
        best_columns(evidence.mean[:m]),
        np.zeros(columns.width),
        1.0,
        measured.variances(evidence.actual[:, :m]),
        f"fewer than {FEWEST_ROWS} rows: nothing can be held out, so the best single target is taken",
    )


def _temperature(material: Material, fold: Ints, labels: int) -> float:
    """Of label probabilities, on rows that the recogniser had not seen."""
    scores = np.zeros((len(material), labels))
    for number in np.unique(fold).tolist():
        rest, out = fold != number, fold == number
        if (material.places[rest] >= 0).any():
            grouping = label_grouping(material.view[rest], material.places[rest], labels, 1.0)
            scores[out] = material.view[out] @ grouping.weights + grouping.bias
    return fitted_temperature(scores, material.places)


def _folds(
    config: StackConfig, material: Material, fold: Ints, clusters: list[Grouping], labels: int, temperature: float
) -> Iterator[tuple[NDArray[np.bool_], dict[str, Array]]]:
    """Per fold the rows that it holds out, and every member's predictions for them."""
    for number in np.unique(fold).tolist():
        out = fold == number
        rest, asked = material.take(~out), material.take(out)
        prior = np.nan_to_num(measured.means(rest.values))
        found = {
            name: prior + bias + asked.view @ weights
            for name, (weights, bias) in linear_maps(rest.view, rest.values, prior).items()
        }
        for grouping in clusters:
            found[grouping.name] = grouping.of(asked.view) @ soft_table(grouping.of(rest.view), rest.values, prior)
        if labels > 1 and (rest.places >= 0).any():
            grouping = label_grouping(rest.view, rest.places, labels, temperature)
            known = _one_hot(rest.places, labels)
            member = _one_hot(asked.places, labels) if config.known_labels else grouping.of(asked.view)
            unknown = asked.places < 0
            member[unknown] = grouping.of(asked.view[unknown])
            found["label"] = member @ soft_table(known, rest.values, prior)
        found |= _neighbours(rest, asked, prior)
        yield out, found


def _one_hot(places: Ints, count: int) -> Array:
    """[n, count]; a row of zeros for a row without a label."""
    out = np.zeros((len(places), count))
    rows = np.flatnonzero(places >= 0)
    out[rows, places[rows]] = 1.0
    return out


def _neighbours(rest: Material, asked: Material, prior: Array) -> dict[str, Array]:
    """Means over the nearest rows, for each number of neighbours that there are rows enough for; by one search."""
    numbers = [k for k in NEIGHBOURS if 2 * k <= len(rest)]
    if not numbers:
        return {}
    found = {f"knn{k}": np.empty(asked.values.shape) for k in numbers}
    filled, seen = np.nan_to_num(rest.values), (~np.isnan(rest.values)).astype(np.float64)
    complete = bool(seen.all())
    for block in measured.blocks(len(asked), max(len(rest), numbers[-1] * rest.values.shape[1])):
        near = asked.vectors[block] @ rest.vectors.T
        places = np.argpartition(-near, numbers[-1] - 1, axis=1)[:, : numbers[-1]]
        order = np.argsort(-np.take_along_axis(near, places, axis=1), axis=1, kind="stable")
        places = np.take_along_axis(places, order, axis=1)
        for k in numbers:
            total = filled[places[:, :k]].sum(axis=1)
            times = np.float64(k) if complete else seen[places[:, :k]].sum(axis=1)
            found[f"knn{k}"][block] = np.where(times > 0, total / np.maximum(times, 1.0), prior)
    return found


def _best_neighbours(held: dict[str, Array], actual: Array, mean: Array, targets: int) -> int:
    """The number of neighbours that alone explains the gaps between the best targets best."""
    known = np.nan_to_num(mean)
    contenders = best_columns(mean[:targets])
    wanted = (actual - known)[:, contenders]
    best, chosen = np.inf, NEIGHBOURS[0]
    for k in reversed(NEIGHBOURS):
        if f"knn{k}" not in held:
            continue
        moved = (held[f"knn{k}"] - known)[:, contenders]
        weight = gap_weights({"knn": moved}, wanted)["knn"]
        loss = float((gaps(wanted - weight * moved, ~np.isnan(wanted)) ** 2).sum())
        if loss < best - 1e-12:
            best, chosen = loss, k
    return chosen


def _linear(made: Blend, columns: Columns, material: Material, prior: Array) -> tuple[Array, Array]:
    """All ridges, weighted and added up."""
    weights, bias = np.zeros((material.view.shape[1], columns.width)), np.zeros(columns.width)
    if any(made.matters(f"ridge{strength:g}") for strength in STRENGTHS):
        for name, (slopes, intercepts) in linear_maps(material.view, material.values, prior).items():
            share = made.weights(name, columns)
            weights += slopes * share
            bias += intercepts * share
    return weights, bias


def _table(made: Blend, columns: Columns, grouping: Grouping, material: Material, prior: Array) -> Array:
    """The weighted deviations of a grouping's groups from the means [G, C]."""
    membership = _one_hot(material.places, len(grouping.bias)) if grouping.name == "label" else grouping.of(material.view)
    return (soft_table(membership, material.values, prior) - prior) * made.weights(grouping.name, columns)


def _memory(k: int, table: OutcomeTable, vectors: Vectors, rng: np.random.Generator) -> Estimator:
    """The neighbours' estimator over all rows."""
    listed = len(table) > LISTED_ROWS and neighbours.available()
    return KNNConfig(k=k, index="lists" if listed else "auto").fit(table, table.features(vectors), rng)
