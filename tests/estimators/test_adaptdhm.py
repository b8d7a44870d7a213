"""adaptdhm: distributions are recovered by dynamic routing, and each has its own model."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ArtefactError, ConfigError, UserError
from junctor.estimators.adaptdhm import AdaptDHMConfig, centres_of, routed, squash
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.policy import State
from junctor.types import Catalogue

RNG = np.random.default_rng(0)


def world(rows=1200, seed=0, clusters=4):
    """Clusters of queries in which one and the same direction speaks for target a or, in every other cluster, against it.

    No single linear model can use that direction, and a table per cluster does not see it.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(clusters, size=rows)
    inner = rng.standard_normal((rows, 8))
    vectors = np.hstack([3.0 * np.eye(clusters)[kind] + 0.2 * rng.standard_normal((rows, clusters)), inner])
    sign = np.where(kind % 2 == 0, 1.0, -1.0) * np.sign(inner[:, 0])
    chance = np.stack([0.5 + 0.4 * sign, 0.5 - 0.4 * sign], axis=1)
    quality = (rng.random(chance.shape) < chance).astype(float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [str(k) for k in kind.tolist()]
    table = OutcomeTable([f"q{i}" for i in range(rows)], Catalogue.of(["a", "b"]), quality, labels={"k": names}, label_name="k")
    return table, table.features(vectors.astype(np.float32)), chance, kind


def worth(name, settings=None):
    table, features, _, _ = world(seed=1)
    later, seen, chance, _ = world(seed=2)
    policy = policy_config(name, settings).fit(table, features, np.random.default_rng(0))
    return float(chance[np.arange(len(later)), policy.decide_many(seen, later.targets, RNG)[0]].mean())


@pytest.mark.slow
def test_planted_world_own_models_win_where_one_model_and_tables_must_lose():
    ours = worth("adaptdhm", {"clusters": 4, "alpha": 3.0})
    assert ours > 0.8
    for bar in ("linear", "kmeans-table", "label-table"):
        assert worth(bar) < ours - 0.15
    # the key part removed: a single distribution
    assert worth("adaptdhm", {"clusters": 1, "alpha": 3.0}) < ours - 0.15


def test_planted_distributions_are_recovered():
    table, features, _, kind = world(seed=3)
    found = AdaptDHMConfig(clusters=4).fit(table, features, np.random.default_rng(0)).clusters_of(features)
    counts = np.zeros((4, 4))
    np.add.at(counts, (found, kind), 1.0)
    assert counts.max(axis=1).sum() / len(kind) > 0.95


def test_routing_is_shaped_by_outcomes_when_vectors_alone_are_not_enough():
    # Two groups that a weak direction tells apart, a strong one does not, and outcomes follow the weak one.
    rng = np.random.default_rng(4)
    kind = rng.integers(2, size=800)
    strong = rng.choice([-1.0, 1.0], 800)
    vectors = np.stack([strong, 0.4 * (2 * kind - 1) + 0.05 * rng.standard_normal(800)], axis=1)
    vectors = np.hstack([vectors, 0.1 * rng.standard_normal((800, 4))]).astype(np.float32)
    quality = np.stack([kind == 1, kind == 0], axis=1).astype(float)
    table = OutcomeTable([f"q{i}" for i in range(800)], Catalogue.of(["a", "b"]), quality)
    purity = []
    for weight in (2.0, 0.0):
        config = AdaptDHMConfig(clusters=2, outcomes=weight, alpha=1.0)
        same = config.fit(table, table.features(vectors), np.random.default_rng(0)).clusters_of(table.features(vectors)) == kind
        purity.append(max(same.mean(), 1 - same.mean()))
    assert purity[0] > 0.95
    assert purity[1] < 0.7


def test_routing_couples_to_the_capsule_that_agrees():
    batch = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    coupling, capsules = routed(batch, np.eye(2), rounds=3, sharpness=5.0)
    assert coupling.sum(axis=1) == pytest.approx(1)
    assert coupling.argmax(axis=1).tolist() == [0, 0, 1]
    assert np.linalg.norm(capsules, axis=1) == pytest.approx(1)
    assert np.linalg.norm(squash(np.array([[3.0, 4.0], [0.0, 0.0]])), axis=1).tolist() == pytest.approx([25 / 26, 0.0])


def test_a_cluster_that_never_tried_a_target_predicts_it_as_elsewhere():
    table, features, _, kind = world(seed=5)
    quality = table.quality.copy()
    quality[kind == 0, 1] = np.nan
    quality[kind != 0, 1] = 0.75
    sparse = OutcomeTable(table.texts, table.targets, quality)
    found = AdaptDHMConfig().fit(sparse, features, np.random.default_rng(0)).predict_many(features).quality
    assert found[kind == 0, 1] == pytest.approx(0.75, abs=0.02)


def test_degenerate_tables():
    table, features, _, _ = world(rows=5, seed=6)
    assert AdaptDHMConfig(clusters=8).fit(table, features, RNG).predict_many(features).quality.shape == (5, 2)
    one = np.zeros((4, 3))
    one[:, 0] = 1.0
    assert centres_of(one, 2, AdaptDHMConfig(), RNG).shape == (2, 3)
    with pytest.raises(UserError, match="no row to learn from"):
        AdaptDHMConfig().fit(table.take([]), features.take(np.arange(0)), RNG)
    with pytest.raises(ConfigError, match=r"adaptdhm\.momentum"):
        AdaptDHMConfig(momentum=1.0)
    fitted = AdaptDHMConfig().fit(table, features, RNG)
    empty = State(fitted.state().config, {**fitted.state().arrays, "centres": np.zeros((1, 2), np.float32)})
    with pytest.raises(ArtefactError):
        type(fitted).from_state(empty)
