"""linear: ridge against its closed form, logistic against its own slope and scikit-learn, gaps and bounds."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.estimators.linear import LinearConfig
from junctor.estimators.regression import logistic, ridge, sigmoid
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.testing import planted
from junctor.types import Catalogue

from .tables import NAN, seen, table

RNG = np.random.default_rng(0)


def test_ridge_by_hand():
    # one centred feature: w = sum(xy) / (sum(xx) + alpha) = 4 / (2 + 2), b = mean
    weights, bias = ridge(np.array([[-1.0], [0.0], [1.0]]), np.array([[1.0], [3.0], [5.0]]), 2.0)
    assert weights[0, 0] == pytest.approx(1.0)
    assert bias[0] == pytest.approx(3.0)


def test_ridge_solves_the_augmented_least_squares_problem_whatever_is_missing():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((40, 5)), rng.standard_normal((40, 3))
    y[rng.random(y.shape) < 0.3] = np.nan
    y[:, 2] = np.nan
    weights, bias = ridge(x, y, 3.0)
    for column in (0, 1):
        rows = ~np.isnan(y[:, column])
        design = np.vstack(
            [np.hstack([x[rows], np.ones((rows.sum(), 1))]), np.hstack([3.0**0.5 * np.eye(5), np.zeros((5, 1))])]
        )
        wanted = np.linalg.lstsq(design, np.concatenate([y[rows, column], np.zeros(5)]), rcond=None)[0]
        assert weights[:, column] == pytest.approx(wanted[:5])
        assert bias[column] == pytest.approx(wanted[5])
    assert np.isnan(bias[2])
    assert (weights[:, 2] == 0).all()


def test_logistic_reaches_the_optimum_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(2)
    x = rng.standard_normal((300, 6))
    y = (rng.random((300, 2)) < sigmoid(x[:, :2] * 2 - 1)).astype(float)
    y[:60, 1] = np.nan
    weights, bias = logistic(x, y, 4.0)
    for column in (0, 1):
        rows = ~np.isnan(y[:, column])
        wanted = LogisticRegression(C=1 / 4.0, tol=1e-8, max_iter=1000).fit(x[rows], y[rows, column])
        assert weights[:, column] == pytest.approx(wanted.coef_[0], abs=5e-3)
        assert bias[column] == pytest.approx(wanted.intercept_[0], abs=2e-2)


def test_logistic_stays_finite_for_a_target_that_never_fails():
    weights, bias = logistic(np.eye(3), np.array([[1.0, NAN]] * 3), 1.0)
    assert np.isfinite(weights).all()
    assert 0.8 < sigmoid(bias[:1])[0] < 1.0
    assert np.isnan(bias[1])
    assert logistic(np.eye(3), np.empty((3, 0)), 1.0)[0].shape == (3, 0)


def test_sigmoid_does_not_overflow():
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0, 0.5, 1]


def test_auto_takes_logistic_for_right_or_wrong_targets_only():
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((50, 4)).astype(np.float32)
    quality = np.stack([(vectors[:, 0] > 0).astype(float), 0.5 + 0.1 * vectors[:, 0]], axis=1)
    rows = table(quality)
    both = LinearConfig(alpha=0.1).fit(rows, seen(vectors), RNG)
    assert both.state().arrays["odds"].tolist() == [1, 0]
    found = both.predict_many(seen(vectors)).quality
    assert ((found[:, 0] > 0.5) == (quality[:, 0] > 0.5)).mean() > 0.95
    assert np.abs(found[:, 1] - quality[:, 1]).max() < 0.01
    squared = LinearConfig(alpha=0.1, loss="squared").fit(rows, seen(vectors), RNG)
    assert squared.state().arrays["odds"].tolist() == [0, 0]
    with pytest.raises(UserError, match="b has outcomes other than 0 and 1"):
        LinearConfig(loss="logistic").fit(rows, seen(vectors), RNG)


def test_no_prediction_leaves_what_was_recorded():
    vectors = np.array([[-1.0], [1.0]], np.float32)
    rows = table([[0.2], [0.8]], cost=[[0.001], [0.01]])
    far = LinearConfig(alpha=1e-6).fit(rows, seen(vectors), RNG).predict_many(seen(np.array([[-9.0], [9.0]], np.float32)))
    assert far.quality.ravel().tolist() == [0, 1]
    assert far.cost_usd.ravel().tolist() == [0.001, 0.01]


def test_a_target_that_was_never_tried_cannot_be_predicted():
    rows = table([[0.5, NAN]] * 3)
    found = LinearConfig().fit(rows, seen(np.eye(3, dtype=np.float32)), RNG).predict(seen(np.eye(3, dtype=np.float32)))
    assert np.isnan(found.quality[1])
    assert found.quality[0] == pytest.approx(0.5)


def test_onboarding_fits_the_new_target_and_leaves_the_others():
    rows, features = planted(200)
    old = LinearConfig(alpha=1.0).fit(rows.only(rows.targets.ids[:3]), features, RNG)
    wider = old.onboard("generalist", rows, features)
    whole = LinearConfig(alpha=1.0).fit(rows, features, RNG)
    assert wider.predict_many(features).quality == pytest.approx(whole.predict_many(features).quality, abs=1e-3)


def test_bad_input_is_refused():
    rows = table([[1.0]] * 2)
    with pytest.raises(UserError, match="needs an embedding"):
        LinearConfig().fit(rows, rows.features(), RNG)
    with pytest.raises(UserError, match="no row to learn from"):
        LinearConfig().fit(table(np.empty((0, 1))), seen(np.empty((0, 2), np.float32)), RNG)
    fitted = LinearConfig().fit(rows, seen(np.eye(2, dtype=np.float32)), RNG)
    with pytest.raises(UserError, match="vectors of 3 numbers"):
        fitted.predict(seen(np.ones((1, 3), np.float32)))
    for settings in ({"alpha": 0.0}, {"loss": "hinge"}):
        with pytest.raises(ConfigError, match=r"linear\."):
            LinearConfig(**settings)


def test_plain_figures_are_the_prediction() -> None:
    """What a gateway decides by in plain numbers is what the arrays say, unknown targets included."""
    rng = np.random.default_rng(0)
    made = rng.normal(size=(60, 8)).astype(np.float32)
    quality = (rng.random((60, 4)) < 0.5).astype(np.float64)
    quality[:, 3] = np.nan
    targets = Catalogue.of(["a", "b", "c", "never"])
    for values in (quality, np.where(np.isnan(quality), np.nan, rng.random((60, 4)))):
        rows = OutcomeTable(texts=[str(i) for i in range(60)], targets=targets, quality=values, cost_usd=rng.random((60, 4)))
        fitted = LinearConfig().fit(rows, Features(rows.texts, made), rng)
        for row in range(5):
            one = Features([""], made[row : row + 1])
            plain, found = fitted.figures(one), fitted.predict(one)
            np.testing.assert_allclose(plain.quality, found.quality, rtol=1e-12)
            np.testing.assert_allclose(plain.cost_usd, found.cost_usd, rtol=1e-12)
            assert plain.latency_s is None
