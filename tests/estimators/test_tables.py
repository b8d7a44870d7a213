"""mean, label-table and kmeans-table: averages over all rows, over a label, over a cluster."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError, TableError, UserError
from junctor.estimators.kmeans_table import KMeansTableConfig
from junctor.estimators.label_table import LabelTableConfig
from junctor.estimators.mean import MeanConfig

from .tables import NAN, at, seen, table

RNG = np.random.default_rng(0)


def test_mean_is_over_what_was_recorded():
    found = table([[1, 0], [NAN, 1], [0, NAN]], cost=[[1, 2], [NAN, 4], [3, NAN]])
    predicted = MeanConfig().fit(found, found.features(), RNG).predict(found.features())
    assert predicted.quality.tolist() == [0.5, 0.5]
    assert predicted.cost_usd.tolist() == [2, 3]
    assert predicted.latency_s is None


def test_error_of_a_mean_shrinks_with_rows():
    few, many = table([[1, 0], [0, 1]]), table([[1, 0], [0, 1]] * 50)
    errors = [MeanConfig().fit(t, t.features(), RNG).predict(t.features()).quality_std[0] for t in (few, many)]
    # variance 1/4 over two values, taken together with one value's worth: sqrt((2/4 + 1/4) / 3 / 2)
    assert errors[0] == pytest.approx((0.75 / 3 / 2) ** 0.5)
    assert errors[1] == pytest.approx((25.25 / 101 / 100) ** 0.5)


def test_predictions_of_the_mean_cannot_be_changed_by_a_caller():
    found = table([[1, 0]])
    predicted = MeanConfig().fit(found, found.features(), RNG).predict(found.features())
    with pytest.raises(ValueError, match="read-only"):
        predicted.quality[0] = 7


def test_mean_onboards_from_the_rows_that_record_the_new_target():
    old = MeanConfig().fit(table([[1, 0]]), table([[1, 0]]).features(), RNG)
    rows = table([[1, 0, 1], [0, 1, NAN], [0, 1, 0]])
    wider = old.onboard("c", rows, rows.features())
    assert wider.predict(rows.features()).quality.tolist() == [1, 0, 0.5]
    with pytest.raises(UserError, match="already known"):
        wider.onboard("c", rows, rows.features())
    with pytest.raises(TableError, match="is not in the table"):
        old.onboard("z", rows, rows.features())
    blank = table([[1, 0, NAN]])
    with pytest.raises(TableError, match="no quality is recorded"):
        old.onboard("c", blank, blank.features())


def test_features_must_be_of_the_same_rows():
    with pytest.raises(UserError, match="1 rows of features for 2 rows"):
        MeanConfig().fit(table([[1], [0]]), table([[1]]).features(), RNG)


LABELLED = table([[1, 0], [1, 0], [0, 1], [0, 0]], labels=["x", "x", "y", ""], cost=[[1, 2]] * 4)


def label_table(shrinkage, rows=LABELLED):
    return LabelTableConfig(shrinkage=shrinkage).fit(rows, rows.features(), RNG)


def ask(fitted, label):
    return fitted.predict(seen(at(0), [label])).quality.tolist()


def test_label_table_averages_per_label_and_falls_back_to_the_mean():
    fitted = label_table(0.0)
    assert ask(fitted, "x") == [1, 0]
    assert ask(fitted, "y") == [0, 1]
    assert ask(fitted, "never seen") == ask(fitted, "") == [0.5, 0.25]
    assert fitted.predict(seen(at(0))).quality.tolist() == [0.5, 0.25]


def test_label_table_draws_small_labels_to_the_mean():
    # two rows of x at quality 1, two pseudo-rows at the mean 0.5
    assert ask(label_table(2.0), "x") == [0.75, 0.125]
    assert label_table(2.0).predict(seen(at(0), ["x"])).cost_usd.tolist() == [1, 2]


def test_label_table_reads_the_label_it_is_told_to():
    rows = LABELLED
    assert LabelTableConfig(label="task").fit(rows, rows.features(), RNG).label == "task"
    with pytest.raises(UserError, match=r"no label 'other'.*labels there are: task"):
        LabelTableConfig(label="other").fit(rows, rows.features(), RNG)


def test_label_table_onboards_per_label():
    rows = table([[1, 0, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], labels=["x", "x", "y", "new"])
    wider = label_table(0.0).onboard("c", rows, rows.features())
    assert ask(wider, "x") == [1, 0, 1]
    assert ask(wider, "y") == [0, 1, 0]
    assert ask(wider, "new") == [0.5, 0.25, 0.5]


def test_shrinkage_must_not_be_negative():
    with pytest.raises(ConfigError, match=r"label-table\.shrinkage: must not be negative"):
        LabelTableConfig(shrinkage=-1.0)
    with pytest.raises(ConfigError, match=r"kmeans-table\.shrinkage"):
        KMeansTableConfig(shrinkage=-1.0)
    with pytest.raises(ConfigError, match=r"kmeans-table\.clusters"):
        KMeansTableConfig(clusters=0)


def test_kmeans_table_averages_per_cluster():
    rows = table([[1, 0]] * 5 + [[0, 1]] * 5)
    vectors = at(0, 1, 2, 3, 4, 90, 91, 92, 93, 94)
    fitted = KMeansTableConfig(clusters=2, shrinkage=0.0).fit(rows, seen(vectors), np.random.default_rng(0))
    assert fitted.predict(seen(at(10))).quality.tolist() == [1, 0]
    assert fitted.predict(seen(at(80))).quality.tolist() == [0, 1]
    new = table([[0, 0, 1], [0, 0, 0]])
    wider = fitted.onboard("c", new, seen(at(0, 90)))
    assert wider.predict(seen(at(10))).quality.tolist() == [1, 0, 1]
    assert wider.predict(seen(at(80))).quality.tolist() == [0, 1, 0]


def test_kmeans_table_has_no_more_clusters_than_rows_and_bears_equal_queries():
    rows = table([[1, 0], [0, 1], [1, 1]])
    fitted = KMeansTableConfig(clusters=50).fit(rows, seen(at(5, 5, 5)), np.random.default_rng(0))
    assert np.isfinite(fitted.predict(seen(at(0))).quality).all()
    empty = table(np.empty((0, 2)))
    with pytest.raises(UserError, match="no row to learn from"):
        KMeansTableConfig().fit(empty, seen(np.empty((0, 2), np.float32)), RNG)


def test_kmeans_grid_keeps_ten_rows_a_cluster():
    assert [c.clusters for c in KMeansTableConfig().candidates(200)] == [5, 10, 20]
    assert [c.clusters for c in KMeansTableConfig(clusters=3).candidates(10)] == [3]
