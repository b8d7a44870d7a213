"""routerdc: it wins where luck is shared and cells are missing; both losses do what they say; hopeless queries are skipped."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError
from junctor.estimators import descent, routerdc
from junctor.estimators.knn import KNNConfig
from junctor.estimators.linear import ALPHAS, LinearConfig
from junctor.estimators.routerdc import Pairs, RouterDCConfig, extremes
from junctor.testing import planted

from .tables import NAN
from .worlds import hidden_skills

RNG = np.random.default_rng(0)
WORLD = {"rows": 1000, "targets": 12, "dim": 48, "depth": 3, "tried": 0.25, "luck": 8.0}


def one_by_one(torch, scores, best, worst):
    """What it is without the contrast: each outcome for itself, right or wrong."""
    return descent.binary_loss(torch, 4.0 * scores, best, best + worst)


@pytest.mark.slow
def test_it_wins_where_luck_is_shared_and_not_without_the_contrast(monkeypatch):
    """Hard queries fail everybody: only a comparison within the query tells who is better. Most cells are missing."""
    config = RouterDCConfig(sample_weight=0.0)  # these queries lie in no clusters: the second loss has nothing to say
    worlds = [hidden_skills(seed=seed, **WORLD) for seed in (0, 1)]
    bars = [
        max(world.gained(bar) for bar in (*(LinearConfig(alpha=a) for a in ALPHAS), *(KNNConfig(k=k) for k in (10, 40, 100))))
        for world in worlds
    ]
    found = [world.gained(config) for world in worlds]
    assert np.mean(found) > np.mean(bars) + 0.06, f"{found} against {bars}"
    monkeypatch.setattr(routerdc, "sample_llm_loss", one_by_one)
    without = [world.gained(config) for world in worlds]
    assert np.mean(without) < np.mean(bars), f"without the contrast {without} against {bars}"


def test_it_converges():
    world = hidden_skills(seed=0, **WORLD)
    losses = world.fit(RouterDCConfig(sample_weight=0.0)).losses
    assert losses[-1] < 0.85 * losses[0]


def test_the_sample_loss_draws_clusters_together():
    table, features = planted(300)
    topic = np.array(table.labels["topic"])
    apart = {}
    for weight in (0.0, 1.0):
        fitted = RouterDCConfig(sample_weight=weight, clusters=3).fit(table, features, np.random.default_rng(0))
        placed = features.embedding.astype(float) @ fitted.state().arrays["project"] + fitted.state().arrays["shift"]
        placed /= np.linalg.norm(placed, axis=1, keepdims=True)
        near, same = placed @ placed.T, topic[:, None] == topic
        apart[weight] = near[same].mean() - near[~same].mean()
    assert apart[1.0] > apart[0.0] + 0.1


def test_cosines_order_targets_as_quality_does_within_a_target():
    table, features = planted(200)
    fitted = RouterDCConfig().fit(table, features, np.random.default_rng(0))
    cosine, quality = fitted.cosines(features.embedding.astype(float)), fitted.predict_many(features).quality
    assert np.abs(cosine).max() <= 1.0 + 1e-9
    for column in range(4):
        assert (np.diff(quality[np.argsort(cosine[:, column]), column]) >= -1e-12).all(), "calibration may not turn the order"
    assert quality.mean(axis=0) == pytest.approx(table.quality.mean(axis=0), abs=0.02), "calibrated on the training rows"


def test_best_and_worst_of_a_query():
    best, worst = extremes(np.array([[1.0, 0.9, 0.4, 0.6, 0.0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1.0]]), 2, 3, RNG)
    assert best.tolist()[0] == [1, 1, 0, 0, 0]
    assert worst.tolist()[0] == [0, 0, 1, 0, 1], "the third worst scores .6, above .5: no negative"
    assert best[1].sum() == 0, "nobody solved it: no positive"
    assert worst[2].sum() == 0, "everybody did: no negative"
    best, worst = extremes(np.array([[NAN, 0.2, NAN, 0.0]]), 3, 3, RNG)
    assert best.tolist() == [[0, 1, 0, 0]], "what was not recorded is neither"
    assert worst.tolist() == [[0, 0, 0, 1]], "a positive is no negative"


def test_pairs_are_of_the_own_cluster_and_of_others():
    cluster = np.array([0, 0, 1, 1, 1, 2])
    drawn = Pairs.of(cluster, 3).draw(np.arange(6).repeat(50), RNG)
    own = cluster.repeat(50)
    assert (cluster[drawn[:, 0]] == own).all()
    assert (cluster[drawn[:, 1:]] != own[:, None]).all()
    assert set(drawn[:50, 1:].ravel().tolist()) == {2, 3, 4, 5}


def test_large_labels_do_not_drown_small_ones():
    table, _ = planted(240)
    rows = routerdc._balanced(table, 10, RNG)
    labels = np.array(table.label)[rows]
    assert {name: int((labels == name).sum()) for name in set(labels)} == dict.fromkeys(set(table.label), 10)


def test_settings_are_validated():
    for settings, said in (
        ({"top": 0}, "routerdc.top"),
        ({"temperature": 0.0}, "temperature"),
        ({"sample_weight": -1.0}, "sample"),
    ):
        with pytest.raises(ConfigError, match=said):
            RouterDCConfig(**settings)
