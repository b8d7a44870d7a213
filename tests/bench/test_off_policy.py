"""The off-policy experiment: on planted logs its estimates agree with the truth; on GreenServ's with what is recorded."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.bench.off_policy import OffPolicy, known_value, merged, prepared, replayed
from junctor.bench.offline_estimators import interval
from junctor.bench.prepare import Setup
from junctor.bench.sets.greenserv import greenserv, runs
from junctor.outcomes import OutcomeTable
from junctor.policies.linucb import LinUCBConfig
from junctor.testing import planted

EXPERIMENT = OffPolicy()


def logged(rows=800, times=6, seed=0):
    """Every query `times` times, one uniform choice each; and the table of all outcomes that nobody saw."""
    table, features = planted(rows, seed)
    rng = np.random.default_rng(seed)
    table.quality[:, 3] = rng.random(rows) < 0.6
    place = np.tile(np.arange(rows), times)
    action = rng.integers(4, size=len(place))
    quality, propensity = np.full((len(place), 4), np.nan), np.full((len(place), 4), np.nan)
    line = np.arange(len(place))
    quality[line, action] = table.quality[place, action]
    propensity[line, action] = 0.25
    labels = {"topic": [table.labels["topic"][i] for i in place.tolist()]}
    seen = OutcomeTable(
        texts=[table.texts[i] for i in place.tolist()],
        targets=table.targets,
        quality=quality,
        propensity=propensity,
        labels=labels,
        label_name="topic",
    )
    assert features.embedding is not None
    return seen, seen.features(features.embedding[place]), table


LOGS, SEEN, TRUTH = logged()
SETUP = Setup(LOGS, SEEN, None, {}, (), None, (), False)


def figures(policy, seeds=2):
    result = EXPERIMENT.run(SETUP, policy, seeds=seeds, resamples=200)
    assert not result.skipped
    return result.figures


def test_every_estimate_is_close_to_the_truth():
    truth = float(TRUTH.quality[:, 3].mean())
    found = figures("best-single")
    for name in ("value_dr", "value_snips", "value_ips", "value_replay", "value_known"):
        assert found[name][:, 0].mean() == pytest.approx(truth, abs=0.1), name
    low, high = interval(found["value_dr"][0])
    assert low < truth < high
    assert found["interval_width"][0, 0] == pytest.approx(high - low)
    assert figures("random")["value_ips"][:, 0].mean() == pytest.approx(TRUTH.quality.mean(), abs=0.04)


def test_context_pays_and_doubly_robust_is_the_surest():
    found, bar = figures("linear"), figures("best-single")
    assert found["value_dr"][:, 0].mean() > bar["value_dr"][:, 0].mean() + 0.1
    assert found["value_dr"][:, 1:].std() < found["value_ips"][:, 1:].std()
    assert found["effective_sample_size"][0, 0] == pytest.approx(len(LOGS) / 8, rel=0.2)


def test_what_judges_was_not_learned_from():
    trial = prepared(SETUP, 2)[1]
    assert not set(trial.known.texts) & set(trial.asked.texts)
    assert len(trial.known) + len(trial.asked) == 800
    assert trial.uniform
    assert (trial.logs.propensity == 0.25).all()


def test_merging_keeps_every_cell_once():
    rows = np.arange(len(LOGS))
    table, features, place = merged(LOGS, SEEN, rows)
    assert len(table) == len(features) == 800
    assert table.texts[place[5]] == LOGS.texts[5]
    known = ~np.isnan(table.quality)
    np.testing.assert_array_equal(table.quality[known], TRUTH.quality[known])


def test_known_value_does_not_favour_what_was_tried_often():
    quality = np.full((100, 2), np.nan)
    quality[:, 0], quality[:10, 1] = 1.0, 0.0
    assert known_value(quality, np.full((100, 2), 0.5)) == pytest.approx(0.5)
    assert np.isnan(known_value(np.full((2, 2), np.nan), np.full((2, 2), 0.5)))


def test_a_learner_lives_on_what_agrees_with_it():
    learner = LinUCBConfig(warm=0.0, dims=6).fit(LOGS, SEEN, np.random.default_rng(0))
    kept = replayed(learner, LOGS, SEEN, np.random.default_rng(0))
    assert len(kept) == pytest.approx(len(LOGS) / 4, rel=0.15)
    assert learner.arms.total == len(set(kept.tolist()))
    early, late = kept[: len(kept) // 3], kept[-len(kept) // 3 :]
    assert np.nanmean(LOGS.quality[late]) > np.nanmean(LOGS.quality[early])


def test_who_takes_part():
    assert {"random", "best-single", "label-table", "knn", "linucb"} <= set(EXPERIMENT.policies(SETUP))
    table, features = planted(300)
    assert EXPERIMENT.policies(Setup(table, features, None, {}, (), None, (), False)) == ()


@pytest.mark.slow
def test_two_runs_agree():
    one, other = figures("greenserv", 1), figures("greenserv", 1)
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])


@pytest.mark.data
def test_the_logs_give_back_the_published_regrets(data):
    found = runs(data)
    assert found.regret(uniform=True).mean() == pytest.approx(607.3, abs=12)
    assert found.regret(uniform=False).mean() == pytest.approx(457.7, abs=20)
    table = greenserv(data)
    assert len(table) == 25_000
    assert len(np.unique(table.groups())) > 2_490
    assert np.nansum(table.propensity) == pytest.approx(12_500 / 16)
    assert int((~np.isnan(merged(table, table.features(), np.arange(25_000))[0].quality)).sum()) == pytest.approx(
        16_807, abs=60
    )
    cells = {}
    for query, model, reward in zip(found.query.tolist(), found.model.tolist(), found.reward.tolist(), strict=True):
        assert cells.setdefault((query, model), reward) == pytest.approx(reward)
