"""knn: hand-computed neighbours, gaps, ties, onboarding."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.estimators.knn import KNNConfig
from junctor.testing import planted

from .tables import NAN, at, seen, table

RNG = np.random.default_rng(0)
ROWS = table([[1, 0], [1, 0], [0, 1], [0, 1]], cost=[[1, 10], [3, 10], [5, 10], [7, 10]])
PLACES = at(0, 10, 80, 90)


def fit(k, rows=ROWS, places=PLACES, **settings):
    return KNNConfig(k=k, **settings).fit(rows, seen(places), RNG)


def test_neighbours_are_averaged():
    found = fit(2).predict(seen(at(4)))
    assert found.quality.tolist() == [1, 0]
    assert found.cost_usd.tolist() == [2, 10]
    assert fit(3).predict(seen(at(4))).quality == pytest.approx([2 / 3, 1 / 3])


def test_more_neighbours_than_rows_means_all_rows():
    assert fit(99).predict(seen(at(4))).quality.tolist() == [0.5, 0.5]
    assert fit(99).predict_many(seen(at(4, 50))).quality.tolist() == [[0.5, 0.5]] * 2


def test_a_query_without_any_known_token_gets_the_mean():
    assert fit(1).predict(seen(np.zeros((1, 2), np.float32))).quality.tolist() == [0.5, 0.5]


def test_all_that_are_as_near_as_the_kth_count():
    rows = table([[1], [0], [0], [1]])
    found = fit(1, rows, at(0, 20, 20, 90)).predict(seen(at(20)))
    assert found.quality.tolist() == [0.0]
    mirrored = fit(1, rows, at(0, 40, 80, 90)).predict(seen(at(20)))
    assert mirrored.quality.tolist() == [0.5], "0 and 40 degrees are equally near to 20"


def test_the_order_of_rows_does_not_matter():
    rows, features = planted(120)
    turned = np.arange(len(rows))[::-1]
    one = KNNConfig(k=7).fit(rows, features, RNG).predict_many(features)
    other = KNNConfig(k=7).fit(rows.take(turned), features.take(turned), RNG).predict_many(features)
    assert one.quality == pytest.approx(other.quality)


def test_weights_by_similarity():
    found = fit(4, weights="similarity").predict(seen(at(0)))
    near = np.cos(np.radians([0, 10, 80]))
    # the fourth is at a right angle and hardly counts
    assert found.quality[0] == pytest.approx((near[0] + near[1]) / near.sum(), abs=1e-5)
    away = fit(4, weights="similarity").predict(seen(at(180)))
    assert np.isfinite(away.quality).all()


def test_only_neighbours_that_record_a_target_speak_for_it():
    rows = table([[1, NAN], [1, NAN], [0, 1], [0, 0]])
    fitted = fit(2, rows, shrinkage=0.0)
    # no neighbour recorded b: its mean over all rows
    assert fitted.predict(seen(at(5))).quality.tolist() == [1, 0.5]
    assert fitted.predict(seen(at(85))).quality.tolist() == [0, 0.5]
    assert fit(3, rows, shrinkage=0.0).predict(seen(at(5))).quality == pytest.approx([2 / 3, 1.0])
    # one of three recorded b (as 1); the two that did not pull with 2 * 2/3 of its mean 0.5
    pulled = fit(3, rows, shrinkage=2.0).predict(seen(at(5))).quality
    assert pulled == pytest.approx([2 / 3, (1 + 4 / 3 * 0.5) / (1 + 4 / 3)])


def test_a_target_that_was_never_tried_cannot_be_predicted():
    found = fit(2, table([[1, NAN]] * 4)).predict(seen(at(5)))
    assert found.quality[0] == 1
    assert np.isnan(found.quality[1])


def test_standard_error_tells_two_neighbours_from_many():
    rows = table([[i % 2] for i in range(100)])
    places = at(*np.linspace(0, 90, 100))
    few, many = (fit(k, rows, places).predict(seen(at(45))).quality_std[0] for k in (4, 64))
    assert few == pytest.approx((0.25 + 0.25 / 4) ** 0.5 / 5**0.5)
    assert many < few / 3


def test_onboarding_imputes_from_the_nearest_calibration_rows():
    calibration = table([[NAN, NAN, 1.0]] * 5 + [[NAN, NAN, 0.0]] * 5)
    wider = fit(2).onboard("c", calibration, seen(at(0, 1, 2, 3, 4, 86, 87, 88, 89, 90)))
    assert wider.targets == ("a", "b", "c")
    assert wider.predict(seen(at(4))).quality.tolist() == [1, 0, 1]
    assert wider.predict(seen(at(86))).quality.tolist() == [0, 1, 0]
    assert np.isnan(wider.predict(seen(at(86))).cost_usd[2]), "its cost was never recorded"


def test_another_encoders_vectors_are_refused():
    with pytest.raises(UserError, match="vectors of 3 numbers, fitted on 2"):
        fit(2).predict(seen(np.ones((1, 3), np.float32)))
    with pytest.raises(UserError, match="vectors of 3 numbers, fitted on 2"):
        fit(2).predict_many(seen(np.ones((2, 3), np.float32)))
    with pytest.raises(UserError, match="needs an embedding"):
        KNNConfig().fit(ROWS, ROWS.features(), RNG)
    with pytest.raises(UserError, match="no row to learn from"):
        KNNConfig().fit(table(np.empty((0, 2))), seen(np.empty((0, 2), np.float32)), RNG)


def test_settings_are_validated():
    for settings, said in (({"k": 0}, "knn.k"), ({"weights": "none"}, "knn.weights"), ({"shrinkage": -1}, "knn.shrinkage")):
        with pytest.raises(ConfigError, match=said):
            KNNConfig(**settings)


def test_the_grid_goes_from_smooth_to_fine_and_stops_at_half_of_the_rows():
    tried = [c.k for c in KNNConfig().candidates(200) if c.weights == "uniform"]
    assert tried == [100, 80, 40, 20, 10, 5]
    assert {c.k for c in KNNConfig().candidates(3000)} >= {300, 200, 160}
    assert [c.k for c in KNNConfig().candidates(4)] == [5]
