"""Inverted lists and knn over them: recall, how far predictions are from exact ones, state, and what happens without faiss."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from junctor.errors import ArtefactError, MissingExtra
from junctor.estimators import neighbours
from junctor.estimators.knn import EXACT_ROWS, KNN, KNNConfig
from junctor.estimators.knn_lists import ListedKNN
from junctor.estimators.neighbours import Lists
from junctor.outcomes import OutcomeTable
from junctor.testing import check_estimator, planted
from junctor.testing.planted import through_files
from junctor.types import Catalogue

pytest.importorskip("faiss")

DIM, CLUSTERS, TARGETS = 64, 300, 4


def clustered(rows, seed=1):
    """Unit vectors around 300 centres, and outcomes that depend on the centre."""
    world, rng = np.random.default_rng(0), np.random.default_rng(seed)
    scale = (1.0 + np.arange(DIM)) ** -0.4
    centres = world.standard_normal((CLUSTERS, DIM)) * scale
    skill = world.uniform(0.05, 0.95, (CLUSTERS, TARGETS))
    home = rng.choice(CLUSTERS, rows, p=_unequal())
    vectors = (centres[home] + rng.uniform(0.3, 1.0, (rows, 1)) * rng.standard_normal((rows, DIM)) * scale).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    quality = (rng.random((rows, TARGETS)) < skill[home]).astype(np.float64)
    cost = rng.uniform(0.5, 1.5, (rows, TARGETS)) * [1e-4, 1e-3, 1e-2, 1e-1]
    table = OutcomeTable([""] * rows, Catalogue.of(["a", "b", "c", "d"]), quality, cost)
    return table, table.features(vectors)


def _unequal():
    weights = 1.0 / (5.0 + np.arange(CLUSTERS))
    return weights / weights.sum()


def fit(table, features, **settings):
    return KNNConfig(**settings).fit(table, features, np.random.default_rng(0))


@pytest.fixture(scope="module")
def both():
    """Exact and listed on 20,000 rows, and 300 new requests."""
    table, features = clustered(20_000)
    return fit(table, features, index="exact"), fit(table, features, index="lists"), clustered(300, seed=2)[1]


def test_most_neighbours_are_found_and_the_others_are_nearly_as_near(both):
    exact, _, asked = both
    vectors = exact._vectors
    lists, order = Lists.build(vectors, np.random.default_rng(0), "knn")
    near = asked.embedding @ vectors.T
    true = np.argsort(-near, axis=1)[:, :100]
    similarity, places = lists.nearest_many(asked.embedding, 100)
    recall = [len(np.intersect1d(order[p], t)) / 100 for p, t in zip(places, true, strict=True)]
    assert np.mean(recall) >= 0.9
    assert np.abs(np.take_along_axis(near, order[places], axis=1) - similarity).max() < 0.02, "8 bits a dimension"
    assert np.take_along_axis(near, order[places], axis=1).mean() > np.take_along_axis(near, true, axis=1).mean() - 0.01
    one = lists.nearest(asked.embedding[0], 100)
    assert np.array_equal(one[1], places[0])


@pytest.mark.parametrize("weights", ["uniform", "similarity"])
def test_predictions_agree_with_exact_ones(both, weights):
    exact, _, asked = both
    table, features = clustered(20_000)
    one, other = (fit(table, features, index=index, weights=weights).predict_many(asked) for index in ("exact", "lists"))
    gap = np.abs(one.quality - other.quality)
    assert np.mean(gap) < 0.01
    assert np.quantile(gap, 0.99) < 0.06, "a hundred draws have a standard error of 0.05"
    assert np.abs(one.cost_usd / other.cost_usd - 1).max() < 0.1
    assert np.quantile(np.abs(one.quality_std - other.quality_std), 0.99) < 0.01
    assert (one.quality.argmax(1) == other.quality.argmax(1)).mean() > 0.93
    del exact


@pytest.mark.slow
def test_it_conforms():
    table, features = clustered(2_000)
    leave_out = ("settings_round_trip",)  # fit returns a subclass of what is registered
    check_estimator(KNNConfig(index="lists", k=20), table=table, features=features, leave_out=leave_out)


def test_few_rows_are_no_accident():
    table, features = planted(3)
    found = fit(table, features, index="lists").predict_many(features)
    assert found.quality == pytest.approx(np.tile(table.quality.mean(axis=0), (3, 1)))


def test_gaps_are_treated_as_in_the_exact_form():
    table, features = clustered(6_000)
    from junctor.testing.planted import with_gaps

    sparse = with_gaps(table, 0.4, np.random.default_rng(0))
    asked = clustered(100, seed=2)[1]
    one, other = (fit(sparse, features, index=index, k=50).predict_many(asked) for index in ("exact", "lists"))
    assert np.mean(np.abs(one.quality - other.quality)) < 0.02
    assert fit(sparse, features, index="lists", k=50).expect(asked.take([3])).quality == pytest.approx(other.quality[3])


def test_a_newcomer_is_imputed_as_in_the_exact_form():
    table, features = clustered(6_000)
    known = table.only(["a", "b", "c"])
    rows = np.arange(0, 6_000, 20)
    one, other = (
        fit(known, features, index=index, k=50).onboard("d", table.take(rows), features.take(rows))
        for index in ("exact", "lists")
    )
    asked = clustered(100, seed=2)[1]
    assert isinstance(other, ListedKNN)
    assert np.mean(np.abs(one.predict_many(asked).quality[:, 3] - other.predict_many(asked).quality[:, 3])) < 0.02


def test_its_state_is_plain_arrays_and_brings_back_the_same_numbers(both):
    _, fitted, asked = both
    state = through_files(fitted.state())
    assert {values.dtype.kind for values in state.arrays.values()} <= {"f", "i", "u"}
    again = KNN.from_state(state)
    assert isinstance(again, ListedKNN)
    one, other = fitted.predict_many(asked), again.predict_many(asked)
    assert np.array_equal(one.quality, other.quality)
    assert np.array_equal(one.quality_std, other.quality_std)
    sizes = state.arrays["lists/sizes"]
    for name, value in {
        "sizes": sizes + 1,
        "codes": state.arrays["lists/codes"][1:],
        "centroids": state.arrays["lists/centroids"] * np.nan,
    }.items():
        with pytest.raises(ArtefactError):
            KNN.from_state(type(state)(state.config, {**state.arrays, f"lists/{name}": value}))


def test_the_same_seed_gives_the_same_lists():
    table, features = clustered(5_000)
    one, other = (fit(table, features, index="lists").state() for _ in range(2))
    assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)


def test_many_rows_are_listed_by_themselves_and_then_nothing_is_tuned():
    config = KNNConfig()
    assert not config.listed(EXACT_ROWS)
    assert config.listed(EXACT_ROWS + 1)
    assert not KNNConfig(index="exact").listed(10**6)
    assert config.candidates(EXACT_ROWS + 1) == [config]
    assert len(config.candidates(EXACT_ROWS)) > 5


def test_how_many_lists_are_looked_at_grows_slower_than_the_rows():
    def looked_at(rows, count):
        lists = object.__new__(Lists)
        lists.sizes = np.full(2 ** round(np.log2(2 * rows**0.5)), 1, dtype=np.int64)
        lists._starts = np.array([0, rows])
        return lists.probes(count) * rows / len(lists.sizes)

    assert looked_at(10**6, 100) < 2 * looked_at(60_000, 100)
    assert looked_at(10**6, 300) > 2 * looked_at(10**6, 100)


def test_without_faiss_many_rows_are_scanned_and_lists_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(neighbours, "available", lambda: False)
    assert not KNNConfig().listed(10**6)
    assert len(KNNConfig().candidates(10**6)) > 5
    table, features = planted(50)
    with pytest.raises(MissingExtra, match=r"junctor\[ann\]"):
        fit(table, features, index="lists")


def test_a_saved_index_says_what_is_missing_where_it_is_read(both, monkeypatch):
    state = both[1].state()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"knn\.index: needs the package faiss.*junctor\[ann\]"):
        KNN.from_state(state)
