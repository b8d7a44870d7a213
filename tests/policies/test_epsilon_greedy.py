"""epsilon-greedy: planted specialists, the schedule, and a log that can judge any policy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.bench.offline_estimators import Logs, snips
from junctor.policies.contexts import Reduced
from junctor.policies.epsilon_greedy import EpsilonGreedyConfig

from .specialists import blind, earned, fixed, stream

COLD = EpsilonGreedyConfig(warm=0.0, dims=8)


def test_it_beats_the_best_single_target_while_it_learns():
    world = stream()
    assert earned(COLD, world) > fixed(world) + 0.1


def test_without_context_it_does_not(monkeypatch):
    world = stream()
    blind(monkeypatch, Reduced)
    assert earned(COLD, world) < fixed(world)


def test_exploration_decays_to_its_floor_with_outcomes_and_not_with_decisions():
    world = stream(300)
    config = replace(COLD, epsilon=0.4, decay=0.99, floor=0.05)
    learner = config.fit(world.table, world.features, np.random.default_rng(0))
    learner.decide_many(world.features, world.before, np.random.default_rng(0))
    assert learner.epsilon == pytest.approx(0.4)
    for row in range(10):
        learner.arms.take(0, learner.context.matrix(world.features.take([row]))[0], 1.0, 1.0)
    assert learner.epsilon == pytest.approx(0.4 * 0.99**10)
    learner.arms.total = 1e6
    assert learner.epsilon == 0.05


def test_its_log_judges_every_single_target():
    world = stream(4000)
    learner = replace(COLD, warm=0.1, epsilon=0.5, decay=1.0).fit(world.table, world.features, np.random.default_rng(0))
    chosen, propensity = learner.decide_many(world.features, world.before, np.random.default_rng(1))
    rows = np.arange(len(world))
    logs = Logs(chosen, world.quality[rows, chosen], propensity, rows)
    for place in range(4):
        shares = np.tile(np.eye(4)[place], (len(world), 1))
        assert snips(logs, shares).value == pytest.approx(world.quality[:, place].mean(), abs=0.06)
