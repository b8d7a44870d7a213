"""Off-policy estimators on planted logs whose truth is known: unbiased, covered by their intervals, DR surer than IPS."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.bench.offline_estimators import Logs, doubly_robust, effective_rows, halves, interval, ips, replay, snips
from junctor.errors import UserError

ACTIONS = 4
ROWS = 600
REPEATS = 200


class World:
    """Rewards in [0, 1] that depend on a two-sided context; the logging policy prefers what is bad in one of the two."""

    mean = np.array([[0.9, 0.5, 0.3, 0.2], [0.1, 0.6, 0.8, 0.3]])
    logging = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    target = np.array([[0.7, 0.1, 0.1, 0.1], [0.0, 0.2, 0.8, 0.0]])
    truth = float((mean * target).sum(axis=1).mean())

    def logs(self, rng, rows=ROWS, *, uniform=False):
        side = rng.integers(2, size=rows)
        chances = np.full((rows, ACTIONS), 1 / ACTIONS) if uniform else self.logging[side]
        action = (chances.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1)
        reward = (rng.random(rows) < self.mean[side, action]).astype(np.float64)
        taken = chances[np.arange(rows), action]
        return Logs(action, reward, taken, np.arange(rows)), self.target[side], side


WORLD = World()


def repeated(estimate, *, uniform=False, rows=ROWS):
    """Values of an estimate over many planted logs."""
    found = []
    for seed in range(REPEATS):
        rng = np.random.default_rng(seed)
        logs, policy, side = WORLD.logs(rng, rows, uniform=uniform)
        found.append(estimate(logs, policy, side, rng).value)
    return np.array(found)


def good_model(side):
    return WORLD.mean[side] + 0.05


def bad_model(side):
    return np.full((len(side), ACTIONS), 0.9)


ESTIMATES = {
    "ips": lambda logs, policy, side, rng: ips(logs, policy),
    "snips": lambda logs, policy, side, rng: snips(logs, policy),
    "dr": lambda logs, policy, side, rng: doubly_robust(logs, policy, good_model(side)),
    "dr with a bad model": lambda logs, policy, side, rng: doubly_robust(logs, policy, bad_model(side)),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_each_is_right_on_average(name):
    found = repeated(ESTIMATES[name])
    assert abs(found.mean() - WORLD.truth) < 4 * found.std() / REPEATS**0.5 + (0.005 if name == "snips" else 0.0)


def test_replay_is_right_on_a_uniform_log_and_wrong_on_another():
    found = repeated(lambda logs, policy, side, rng: replay(logs, policy), uniform=True)
    assert abs(found.mean() - WORLD.truth) < 4 * found.std() / REPEATS**0.5
    other = repeated(lambda logs, policy, side, rng: replay(logs, policy))
    assert abs(other.mean() - WORLD.truth) > 10 * other.std() / REPEATS**0.5


def test_the_model_alone_would_be_wrong_where_it_is_bad():
    rng = np.random.default_rng(0)
    _, policy, side = WORLD.logs(rng)
    direct = (policy * bad_model(side)).sum(axis=1).mean()
    assert abs(direct - WORLD.truth) > 0.1


def test_doubly_robust_scatters_less_than_ips():
    scatter = {name: repeated(estimate).std() for name, estimate in ESTIMATES.items()}
    assert scatter["dr"] < 0.8 * scatter["ips"]
    assert scatter["dr"] <= scatter["snips"] * 1.05


def test_fitted_on_the_rows_that_it_corrects_a_model_biases_dr():
    """Cross-fitting: a model that knows each row's own reward leaves nothing to correct."""

    def memory(logs, policy, side, rng):
        expected = np.full((len(logs), ACTIONS), 0.5)
        expected[np.arange(len(logs)), logs.action] = logs.reward
        return doubly_robust(logs, policy, expected)

    def crossed(logs, policy, side, rng):
        first = halves(logs.query, rng)
        expected = np.empty((len(logs), ACTIONS))
        for fit, there in ((first, ~first), (~first, first)):
            for s in (0, 1):
                for a in range(ACTIONS):
                    rows = fit & (side == s) & (logs.action == a)
                    expected[there & (side == s), a] = logs.reward[rows].mean() if rows.any() else 0.5
        return doubly_robust(logs, policy, expected)

    wrong, right = repeated(memory), repeated(crossed)
    error = right.std() / REPEATS**0.5
    assert abs(wrong.mean() - WORLD.truth) > 8 * error
    assert abs(right.mean() - WORLD.truth) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_intervals_cover_the_truth_as_often_as_they_say(name):
    covered = 0
    for seed in range(REPEATS):
        rng = np.random.default_rng(1000 + seed)
        logs, policy, side = WORLD.logs(rng)
        found = ESTIMATES[name](logs, policy, side, rng).resampled(logs.query, 200, rng)
        low, high = interval(found)
        covered += low <= WORLD.truth <= high
    assert 0.88 <= covered / REPEATS <= 0.99


def test_rows_of_one_query_are_drawn_together():
    rng = np.random.default_rng(0)
    logs, policy, _ = WORLD.logs(rng, 100)
    many = Logs(*(np.repeat(part, 9) for part in (logs.action, logs.reward, logs.propensity, logs.query)))
    once = snips(logs, policy).resampled(logs.query, 500, np.random.default_rng(1))
    ninefold = snips(many, np.repeat(policy, 9, axis=0)).resampled(many.query, 500, np.random.default_rng(1))
    np.testing.assert_allclose(once, ninefold)


def test_effective_rows_by_hand():
    logs = Logs(np.array([0, 0, 1]), np.ones(3), np.full(3, 0.5), np.arange(3))
    assert effective_rows(logs, np.full((3, 2), 0.5)) == 3.0
    assert effective_rows(logs, np.tile([1.0, 0.0], (3, 1))) == 2.0
    assert effective_rows(logs, np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])) == 0.0
    assert np.isnan(replay(logs, np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])).value)


def test_bad_logs_are_refused():
    with pytest.raises(UserError, match="no logged decision"):
        Logs(np.zeros(0, int), np.zeros(0), np.zeros(0), np.zeros(0, int))
    with pytest.raises(UserError, match="propensity"):
        Logs(np.zeros(1, int), np.ones(1), np.zeros(1), np.zeros(1, int))
