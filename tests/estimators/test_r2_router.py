"""r2-router: interpolation by hand, budgets in ids and settings, overruns, and simulated saturating curves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.estimators.r2_router import R2RouterConfig, budget_of
from junctor.estimators.regression import ridge
from junctor.types import Catalogue, Price, Target

from .tables import NAN, seen, table
from .traits import aiq_of, budgeted, fitted, halves, quality_of, saturating

RNG = np.random.default_rng(0)
X = RNG.standard_normal((80, 3)).astype(np.float32)


def recorded(quality, ids, **columns):
    found = table(quality, targets=[t.id for t in ids], **columns)
    return replace(found, targets=Catalogue(list(ids)))


def test_a_budget_is_read_off_settings_or_the_id():
    assert budget_of(Target(id="a@800")) == ("a", 800.0)
    assert budget_of(Target(id="a@short", settings={"max_output_tokens": 50})) == ("a", 50.0)
    assert budget_of(Target(id="cheap", model="a", settings={"max_output_tokens": 50})) == ("a", 50.0)
    assert budget_of(Target(id="mail@example@40")) == ("mail@example", 40.0)
    for plain in ("a", "a@high", "@5", "a@0"):
        assert budget_of(Target(id=plain)) is None


def test_on_an_ordinary_table_it_is_a_ridge():
    quality = np.random.default_rng(1).random((80, 2))
    fit = R2RouterConfig(alpha=10.0).fit(table(quality), seen(X), RNG)
    weights, bias = ridge(X.astype(np.float64), quality, 10.0)
    assert fit.predict_many(seen(X)).quality == pytest.approx(np.clip(X @ weights + bias, 0, 1))
    assert fit.budgets == {}


def curves():
    """Quality rises by .001 a token for half of the queries, the same for all at budget 100."""
    ids = budgeted([("m", 100), ("m", 300), ("m", 500)])
    slope = np.where(X[:, 0] > 0, 0.001, 0.0005)[:, None]
    quality = 0.2 + slope * (np.array([[100.0, 300.0, 500.0]]) - 100.0)
    return ids, quality


def test_quality_between_budgets_is_interpolated_and_flat_beyond():
    ids, quality = curves()
    fit = R2RouterConfig(alpha=1e-6).fit(recorded(quality, ids), seen(X), RNG)
    told = fit.curve(seen(X), "m", [50, 100, 200, 300, 400, 500, 4000])
    heads = fit.predict_many(seen(X)).quality
    assert told[:, 0] == pytest.approx(heads[:, 0])
    assert told[:, 2] == pytest.approx((heads[:, 0] + heads[:, 1]) / 2)
    assert told[:, 4] == pytest.approx((heads[:, 1] + heads[:, 2]) / 2)
    assert told[:, 6] == pytest.approx(heads[:, 2])
    with pytest.raises(UserError, match=r"was not fitted under a budget.*models with budgets: m"):
        fit.curve(seen(X), "other", [100])


def test_a_budget_that_was_never_tried_is_filled_in_with_its_cost():
    ids, quality = curves()
    cost = np.tile([1.0, 3.0, 5.0], (80, 1))
    gone = np.array([False, True, False])
    sparse = recorded(np.where(gone, NAN, quality), ids, cost=np.where(gone, NAN, cost))
    whole = R2RouterConfig().fit(recorded(quality, ids, cost=cost), seen(X), RNG).predict_many(seen(X))
    filled = R2RouterConfig().fit(sparse, seen(X), RNG).predict_many(seen(X))
    assert filled.quality[:, 1] == pytest.approx(whole.quality[:, 1], abs=1e-6)
    assert filled.cost_usd[:, 1] == pytest.approx(np.full(80, 3.0))
    empty = R2RouterConfig(interpolate=False).fit(sparse, seen(X), RNG).predict_many(seen(X))
    assert np.isnan(empty.quality[:, 1]).all()


def test_a_new_budget_is_onboarded_by_interpolation_and_corrected_by_its_rows():
    ids, quality = curves()
    old = R2RouterConfig().fit(recorded(quality[:, [0, 2]], [ids[0], ids[2]]), seen(X), RNG)
    two = recorded(quality[:2, 1:2], [ids[1]])
    wider = old.onboard("m@300", two, seen(X[:2]))
    told = wider.predict_many(seen(X)).quality
    assert np.abs(told[:, 2] - quality[:, 1]).mean() < 0.03
    alone = R2RouterConfig(interpolate=False).fit(recorded(quality[:, [0, 2]], [ids[0], ids[2]]), seen(X), RNG)
    bare = alone.onboard("m@300", two, seen(X[:2])).predict_many(seen(X)).quality
    assert np.abs(bare[:, 2] - quality[:, 1]).mean() > 2 * np.abs(told[:, 2] - quality[:, 1]).mean()
    many = recorded(np.full((80, 1), 0.9), [ids[1]])
    assert old.onboard("m@300", many, seen(X)).predict_many(seen(X)).quality[:, 2].mean() > 0.8, "rows are believed"


def test_answers_that_overrun_their_budget_are_paid_for():
    price = Price(output_usd_per_mtok=10.0)
    ids = [replace_price(t, price) for t in budgeted([("m", 100), ("m", 1000)])]
    tokens = np.tile([250.0, 1000.0], (80, 1))  # "in 100 words", it was told, and took 250
    rows = recorded(np.full((80, 2), 0.5), ids, cost=tokens * 10.0 / 1e6, output_tokens=tokens)
    real = R2RouterConfig().fit(rows, seen(X), RNG).predict(seen(X)).cost_usd
    assert real == pytest.approx([0.0025, 0.01])
    hoped = R2RouterConfig(cost="budgeted").fit(rows, seen(X), RNG).predict(seen(X)).cost_usd
    assert hoped == pytest.approx([0.001, 0.01]), "what the bill would be if budgets were kept"


def replace_price(target, price):
    return Target(id=target.id, settings=target.settings, price=price)


@pytest.mark.slow
def test_budgets_as_candidates_beat_whole_answers_on_saturating_curves():
    """Short questions need few tokens: without short budgets among the candidates the gain over the bars is gone."""
    train, test = halves(1500, 800)
    gains = []
    for seed in range(2):
        found = saturating(np.random.default_rng(seed))
        cheap_bar = max(aiq_of(name, found, train, test) for name in ("mean", "kmeans-table"))
        whole = np.zeros(found.chance.shape, dtype=bool)
        whole[:, [3, 7]] = True  # only the longest budget of either model
        without = aiq_of("r2-router", found, train, test, whole)
        gains.append((aiq_of("r2-router", found, train, test) - cheap_bar, without - cheap_bar))
    assert np.mean(gains, axis=0)[0] > 0.02
    assert np.mean(gains, axis=0)[1] < 0.0


def test_under_a_hard_budget_interpolation_finds_lengths_that_were_never_recorded():
    found = saturating(np.random.default_rng(0))
    train, test = halves(1500, 800)
    ends = np.ones(found.chance.shape, dtype=bool)
    ends[:, [1, 2, 5, 6]] = False
    limit = float(np.median(found.cost[:, 2]) * 1.3)
    own, without = (quality_of("r2-router", found, train, test, ends, budget_usd=limit, interpolate=on) for on in (True, False))
    bar = quality_of("linear", found, train, test, ends, budget_usd=limit)
    assert own > max(without, bar) + 0.1
    assert without < bar + 0.03


def test_budgets_survive_the_state_of_a_policy():
    found = saturating(np.random.default_rng(1), rows=100)
    policy = fitted("r2-router", found, np.arange(100), None, {})
    again = type(policy.estimator).from_state(policy.estimator.state())
    assert again.budgets == policy.estimator.budgets
    assert again.budgets["small@50"] == ("small", 50.0)


def test_bad_settings_and_rows_are_refused():
    for settings in ({"alpha": 0.0}, {"cost": "free"}):
        with pytest.raises(ConfigError, match=r"r2-router\."):
            R2RouterConfig(**settings)
    with pytest.raises(UserError, match="no row to learn from"):
        R2RouterConfig().fit(table(np.empty((0, 2))), seen(np.empty((0, 2), np.float32)), RNG)
