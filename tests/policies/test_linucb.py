"""linucb: on planted specialists it beats every single target, blind it does not; doubt is what makes it look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.bench.worlds import live, requests
from junctor.policies.contexts import Reduced
from junctor.policies.linucb import LinUCB, LinUCBConfig

from .specialists import blind, earned, fixed, stream

COLD = LinUCBConfig(warm=0.0, dims=8)


def test_it_beats_the_best_single_target_while_it_learns():
    world = stream()
    assert earned(COLD, world) > fixed(world) + 0.15


def test_without_context_it_does_not(monkeypatch):
    world = stream()
    blind(monkeypatch, Reduced)
    assert earned(COLD, world) < fixed(world) + 0.02


def test_it_is_certain_and_takes_the_highest_bound():
    world = stream(200)
    learner = COLD.fit(world.table, world.features, np.random.default_rng(0))
    for row in range(40):
        learner.arms.take(0, learner.context.matrix(world.features.take([row]))[0], 0.5, 1.0)
    request = requests(world.features.without_labels())[0]
    made = learner.decide(request, world.before, np.random.default_rng(0))
    assert made.propensity == 1.0
    assert made.propensity_kind == "exact"
    assert made.target != "sailor", "the others were never tried"
    scores = [row.score for row in made.ranked]
    assert scores == sorted(scores, reverse=True)


def test_it_looks_where_it_is_in_doubt():
    world = stream(400)
    learner = COLD.fit(world.table, world.features, np.random.default_rng(0))
    x = learner.context.matrix(world.features)
    for row in range(300):
        for place in range(4):
            if place == 0 or row < 20:
                learner.arms.take(place, x[row], 0.6 if place == 0 else 0.4, 1.0)
    asked = world.features.take(range(300, 400))
    often = []
    for alpha in (0.0, 0.3, 3.0):
        policy = LinUCB(replace(COLD, alpha=alpha), learner.context, learner.arms, learner.scales)
        chosen, _ = policy.decide_many(asked, world.before, np.random.default_rng(0))
        often.append(float((chosen == 0).mean()))
    assert often[0] > 0.9
    assert often[2] < 0.1


def test_cost_is_traded_for_quality():
    free, priced = stream(weight=0.0), stream(weight=1.0)
    dear = [(_learned(COLD.priced(world.weight), world) == 3).mean() for world in (free, priced)]
    assert dear[1] <= dear[0]
    assert earned(COLD.priced(1.0), priced) > fixed(priced) + 0.1


def _learned(config, world):
    learner = config.fit(world.table, world.features, np.random.default_rng(0))
    live(learner, world, np.random.default_rng(0))
    return learner.frozen().decide_many(world.features, world.before, np.random.default_rng(0))[0]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_warm_start_on_a_full_table_is_as_good_as_what_it_lived_through(seed):
    world, other = stream(seed=seed), stream(seed=seed + 50)
    warm = LinUCBConfig(dims=8).fit(world.table, world.features, np.random.default_rng(seed))
    chosen, _ = warm.frozen().decide_many(other.features, other.before, np.random.default_rng(0))
    assert other.quality[np.arange(len(other)), chosen].mean() > fixed(other) + 0.2
