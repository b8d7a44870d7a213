"""The bandit experiment: worlds, changes, references, and who comes out ahead on a planted table."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.bench.online import REFERENCES, Bandit, crossed, prepared
from junctor.bench.prepare import Setup
from junctor.bench.worlds import CHANGES, changed, live, world_of
from junctor.errors import NoTarget
from junctor.outcomes import OutcomeTable
from junctor.policies import choosing
from junctor.policies.linucb import LinUCBConfig
from junctor.policy import Learner, State
from junctor.testing import planted
from junctor.testing.planted import with_gaps
from junctor.types import Catalogue


def setup_of(table, features):
    return Setup(table, features, None, {}, (), None, (), False)


TABLE, FEATURES = planted(1500)
SETUP = setup_of(TABLE, FEATURES)
EXPERIMENT = Bandit()


def figures(policy, setup=SETUP, seeds=1):
    result = EXPERIMENT.run(setup, policy, seeds=seeds, resamples=20)
    assert not result.skipped
    return result


class Watcher(Learner):
    """Takes the first target always, and writes down what it is told and what it sees."""

    name = "watcher"

    def __init__(self):
        self.told, self.prices, self.sizes, self.labels = [], [], [], set()

    def decide(self, request, targets, rng):
        self.prices.append(targets[0].price.usd_per_call if targets[0].price else None)
        self.sizes.append(len(targets))
        self.labels |= set(request.labels) | set(request.features.labels)
        return choosing.decision(request, [targets.ids[0]], policy="watcher", version="", reasons=("first",))

    def decide_many(self, features, targets, rng):
        return choosing.always(0, len(features))

    def learn(self, decision, outcome):
        self.told.append((decision.id, outcome))

    def state(self):
        return State()

    @classmethod
    def from_state(cls, state):
        return cls()


def test_feedback_comes_late_some_of_it_twice_and_all_of_it():
    world = world_of(TABLE, FEATURES, 0.1, np.random.default_rng(0))
    watcher = Watcher()
    live(watcher, world, np.random.default_rng(0))
    ids = [int(id_) for id_, _ in watcher.told]
    assert set(ids) == set(range(1500))
    assert 0.03 < len(ids) / 1500 - 1 < 0.07
    assert ids != sorted(ids)
    late = [after - step for after, steps in enumerate(world.told) for step in steps]
    assert min(late) >= 0
    assert 7 < np.mean(late) < 12
    assert not watcher.labels, "labels are not known of requests as they come"


def test_only_the_outcome_of_the_choice_is_told():
    world = world_of(TABLE, FEATURES, 0.1, np.random.default_rng(0))
    watcher = Watcher()
    live(watcher, world, np.random.default_rng(0))
    for id_, outcome in watcher.told[:50]:
        assert outcome.quality == TABLE.quality[int(id_), 0]
        assert outcome.cost_usd == TABLE.cost_usd[int(id_), 0]


def test_changes_are_what_they_say():
    world = world_of(TABLE, FEATURES, 0.1, np.random.default_rng(0))
    best = int(world.utility[:750].mean(axis=0).argmax())
    price, newcomer, swap = (changed(world, change) for change in CHANGES)
    assert price.cost[750:, best].mean() == pytest.approx(5 * world.scale, rel=0.1)
    assert price.after[best].price != price.before[best].price
    np.testing.assert_array_equal(price.cost[:750], world.cost[:750])
    assert len(newcomer.before) == 3
    assert np.isneginf(newcomer.utility[:750, best]).all()
    assert np.isfinite(newcomer.utility[750:]).all()
    worst = int(world.utility[:750].mean(axis=0).argmin())
    np.testing.assert_array_equal(swap.quality[750:, best], world.quality[750:, worst])
    np.testing.assert_array_equal(swap.quality[:750], world.quality[:750])
    free = world_of(
        OutcomeTable(texts=TABLE.texts, targets=TABLE.targets, quality=TABLE.quality), FEATURES, 0.0, np.random.default_rng(0)
    )
    assert changed(free, "price") is None


def test_a_policy_sees_the_new_price_and_the_new_target_only_when_they_are_there():
    world = world_of(TABLE, FEATURES, 0.1, np.random.default_rng(0))
    watcher = Watcher()
    live(watcher, changed(world, "new arm"), np.random.default_rng(0))
    assert watcher.sizes[:750] == [3] * 750
    assert watcher.sizes[750:] == [4] * 750


def test_references_stand_where_they_must():
    random, best, knn = (figures(name).figures for name in REFERENCES)
    assert best["regret_fixed"][0, 0] == 0.0
    assert random["regret_fixed"][0, 0] > 100
    assert knn["regret_fixed"][0, 0] < -50
    assert knn["regret_class"][0, 0] >= 0
    for found in (random, best, knn):
        assert found["regret_oracle"][0, 0] >= found["regret_class"][0, 0]
        assert found["regret_oracle"].shape == (1, 21)
        assert found.keys() == set(EXPERIMENT.metrics)
        assert (found["frozen_utility"] <= found["frozen_quality"]).all()


@pytest.mark.slow
def test_learning_pays_and_without_learning_it_does_not(monkeypatch):
    learned = figures("linucb")
    assert learned.figures["regret_fixed"][0, 0] < -30
    assert learned.figures["regret_after_new_arm"][0, 0] < figures("best-single").figures["regret_after_new_arm"][0, 0]
    monkeypatch.setattr(LinUCBConfig.fitted, "learn", lambda self, decision, outcome: None)
    deaf = figures("linucb").figures
    assert deaf["regret_fixed"][0, 0] > learned.figures["regret_fixed"][0, 0] + 100
    assert deaf["frozen_utility"][0, 0] < learned.figures["frozen_utility"][0, 0] - 0.1


def test_curves_are_short_and_end_at_the_total():
    result = figures("exp3")
    curve = result.curves["regret_oracle"]
    assert len(curve["step"]) == len(curve["lost"]) <= 100
    total = result.figures["regret_oracle"][0, 0] * curve["step"][-1] / 1000
    assert curve["lost"][-1] == pytest.approx(total, rel=1e-3)


@pytest.mark.slow
def test_everybody_lives_through_the_same_stream_and_two_runs_agree():
    trials = prepared(SETUP, 1, 20)
    assert prepared(SETUP, 1, 20) is trials
    one, other = (figures("thompson").figures for _ in range(2))
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])
    chosen = crossed(trials[0].world, "knn")
    np.testing.assert_array_equal(chosen, crossed(trials[0].world, "knn"))


def test_who_takes_part():
    names = EXPERIMENT.policies(SETUP)
    assert {"linucb", "thompson", "epsilon-greedy", "exp3", "greenserv", *REFERENCES} <= set(names)
    assert "port" not in names
    assert "knn" not in EXPERIMENT.policies(setup_of(TABLE, TABLE.features()))
    assert "exp3" in EXPERIMENT.policies(setup_of(TABLE, TABLE.features()))
    few, seen = planted(300)
    assert EXPERIMENT.policies(setup_of(few, seen)) == ()
    sparse = with_gaps(TABLE, 0.6, np.random.default_rng(0))
    assert EXPERIMENT.policies(setup_of(sparse, FEATURES)) == ()


def test_a_set_without_costs_has_no_price_to_change():
    table = OutcomeTable(texts=TABLE.texts, targets=Catalogue.of(TABLE.targets.ids), quality=TABLE.quality)
    found = figures("epsilon-greedy", setup_of(table, table.features(FEATURES.embedding))).figures
    assert "regret_after_price" not in found
    assert "regret_after_swap" in found
    np.testing.assert_allclose(found["frozen_utility"], found["frozen_quality"])


def test_a_policy_that_cannot_is_skipped_with_its_reason(monkeypatch):
    def refuse(self, request, targets, rng):
        raise NoTarget("not today", refusals={})

    monkeypatch.setattr(LinUCBConfig.fitted, "decide", refuse)
    assert "not today" in EXPERIMENT.run(SETUP, "linucb", seeds=1, resamples=5).skipped
