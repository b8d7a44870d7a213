"""hybrid-llm: labels by hand, t*, the threshold, and a world where the gap is not the smaller target's own failure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.estimators.regions import Split, split, unit
from tests.estimators.tables import NAN, at, seen, table

from junctor.errors import ConfigError, TableError, UserError
from junctor.policies import hybrid_llm
from junctor.policies.hybrid_llm import HybridLLMConfig, best_shift, gaps, labels
from junctor.testing import planted
from junctor.types import Request

RNG = np.random.default_rng(0)


def test_labels_of_single_outcomes():
    gap = np.array([[0.0], [-0.2], [0.3], [-0.8], [NAN]])
    for kind in ("deterministic", "probabilistic"):
        assert labels(gap, kind)[:4].tolist() == [1, 0, 1, 0]
        assert np.isnan(labels(gap, kind)[4])


def test_labels_of_samples_are_shares_of_all_pairs():
    rows = table([[0.5, 1.0]] * 2)
    samples = np.array([[[1.0, 0.0], [1.0, 1.0]], [[NAN, NAN], [1.0, 0.0]]])
    rows = replace(rows, samples={"quality": samples})
    gap = gaps(rows, 0, 1)
    assert labels(gap, "probabilistic").tolist() == [0.5, 0.0]  # the second row has no sample: its single outcomes count
    assert labels(gap, "deterministic").tolist() == [0.0, 0.0]


def test_the_shift_makes_labels_differ_most_and_is_zero_where_the_small_target_rarely_loses():
    assert best_shift(np.array([[0.0], [0.1], [-0.4]])) == 0.0
    # the small target always loses, by 0.1 or by 0.5: only a shift between them tells queries apart
    gap = np.array([[-0.1]] * 5 + [[-0.5]] * 5)
    assert best_shift(gap) == pytest.approx(0.1)
    assert labels(gap, "transformed").tolist() == [1] * 5 + [0] * 5
    assert best_shift(np.array([[0.2], [NAN]])) == 0.0


def told_by_the_gap(seed: int, rows: int = 400, dim: int = 24) -> Split:
    """One direction says how hard a query is for both targets, another whether the dear one gains by it."""
    rng = np.random.default_rng(seed)
    x = unit(rng.standard_normal((rows + 800, dim))) * dim**0.5
    small = 0.45 - 0.4 * np.tanh(1.5 * x[:, 0])
    large = np.minimum(small + np.where(x[:, 1] > 0, 0.5, 0.0), 1.0)
    cost = np.tile([0.001, 0.01], (len(x), 1))
    return split(np.stack([small, large], axis=1), x, rows, cost=cost, seed=seed)


def test_it_beats_the_cheap_bars_on_the_gap_and_not_on_the_small_targets_own_failures(monkeypatch):
    worlds = [told_by_the_gap(seed) for seed in range(3)]

    def height(name: str, **settings) -> float:
        return float(np.mean([world.height(name, **settings) for world in worlds]))

    ours = height("hybrid-llm", alpha=3.0)
    assert ours > height("mean") + 0.02
    assert ours > max(height("knn", k=20), height("knn", k=60)) + 0.005
    monkeypatch.setattr(hybrid_llm, "gaps", lambda rows, column, reference: (rows.quality[:, column] - 1.0)[:, None])
    assert height("hybrid-llm", alpha=3.0) < ours - 0.01


def test_the_cheapest_above_the_threshold_is_called_and_else_the_reference():
    rows = table([[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1]] * 5, cost=[[1, 2, 9]] * 20)
    vectors = np.tile(at(0, 5, 90, 180), (5, 1))
    policy = HybridLLMConfig(alpha=0.01, threshold=0.5).fit(rows, seen(vectors), RNG)
    assert policy.reference == "c"
    assert policy.decide_many(seen(at(0, 90, 180)), rows.targets, RNG)[0].tolist() == [0, 1, 2]
    made = policy.decide(Request(id="r", features=seen(at(90))), rows.targets, RNG)
    assert "the cheapest of those whose chance to do as well as c is 0.50 or more" in made.reasons
    sure = HybridLLMConfig(alpha=0.01, threshold=1.0).fit(rows, seen(vectors), RNG)
    assert sure.decide_many(seen(at(0, 90, 180)), rows.targets, RNG)[0].tolist() == [2, 2, 2]


def test_the_sweep_goes_from_the_reference_to_the_cheapest():
    rows, features = planted()
    policy = HybridLLMConfig().fit(rows, features, RNG)
    sweep = policy.decide_sweep(features, rows.targets, RNG)
    assert (sweep.choices[0] == rows.targets.ids.index("generalist")).all()
    assert (sweep.choices[-1] == rows.targets.ids.index("linguist")).all()


def test_without_costs_there_is_no_reason_to_leave_the_reference():
    rows, features = planted()
    policy = HybridLLMConfig(threshold=0.3).fit(replace(rows, cost_usd=None), features, RNG)
    plain = type(rows.targets).of(list(rows.targets.ids))
    assert (policy.decide_many(features, plain, RNG)[0] == plain.ids.index("generalist")).all()


def test_the_reference_may_be_the_dearest_and_ties_in_quality_go_to_the_dearer():
    rows = table([[1, 0, 1]] * 3, cost=[[1, 9, 2]] * 3)
    assert HybridLLMConfig().fit(rows, seen(at(0, 1, 2)), RNG).reference == "c"
    assert HybridLLMConfig(reference="dearest").fit(rows, seen(at(0, 1, 2)), RNG).reference == "b"
    assert HybridLLMConfig().fit(rows.only(["a"]), seen(at(0, 1, 2)), RNG).reference == "a"


def test_a_newcomer_is_compared_with_the_same_reference():
    rows, features = planted()
    old = HybridLLMConfig().fit(rows.only(["linguist", "generalist"]), features, RNG)
    wider = old.onboard("calculator", rows, features)
    whole = HybridLLMConfig().fit(rows.only(["linguist", "generalist", "calculator"]), features, RNG)
    assert wider.chances(features) == pytest.approx(whole.chances(features), abs=1e-3)
    with pytest.raises(TableError, match="is not in the calibration rows"):
        old.onboard("calculator", rows.only(["calculator"]), features)


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="no outcome to learn from"):
        HybridLLMConfig().fit(table([[NAN]]), seen(at(0)), RNG)
    for settings in ({"labels": "hard"}, {"alpha": 0.0}, {"threshold": 1.5}, {"reference": "x"}, {"fallbacks": -1}):
        with pytest.raises(ConfigError, match=r"hybrid-llm\."):
            HybridLLMConfig(**settings)
