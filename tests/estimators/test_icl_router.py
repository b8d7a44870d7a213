"""icl-router: the kernel that reads a profile is learned; plain neighbours of the same profile get nowhere."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError
from junctor.estimators.icl_router import ICLRouterConfig, profile_rows
from junctor.estimators.knn import KNNConfig
from junctor.estimators.linear import LinearConfig
from junctor.testing import planted

from .tables import NAN
from .worlds import hidden_skills

WORLD = {"rows": 600, "targets": 20, "dim": 24, "tried": 0.3, "bent": True}


@pytest.mark.slow
def test_it_wins_where_few_directions_matter_and_not_with_a_plain_kernel():
    """The bar is kNN on the very rows of the profile; where a target is good no straight line tells."""
    worlds = [hidden_skills(seed=seed, **WORLD) for seed in (0, 1)]
    bars = [max(w.gained(bar) for bar in (LinearConfig(), *(KNNConfig(k=k) for k in (10, 40, 100)))) for w in worlds]
    found = [world.gained(ICLRouterConfig(profile=600)) for world in worlds]
    assert min(np.array(found) - bars) > 0.3, f"{found} against {bars}"
    without = [world.gained(ICLRouterConfig(profile=600, learned=False)) for world in worlds]
    assert max(np.array(without) - bars) < 0.05, f"with the kernel it starts from {without} against {bars}"


def test_it_converges():
    losses = hidden_skills(seed=0, **WORLD).fit(ICLRouterConfig()).losses
    assert losses[-1] < 0.9 * losses[0]


def test_a_newcomer_is_its_profile():
    world = hidden_skills(seed=0, targets=26, rows=600, dim=24, tried=0.5, bent=True)
    bars = [world.newcomers(bar, 20, 120) for bar in (LinearConfig(), KNNConfig(k=10), KNNConfig(k=40))]
    found = world.newcomers(ICLRouterConfig(), 20, 120)
    assert found > max(bars) + 0.2, f"{found} against {bars}"
    fitted = world.fit(ICLRouterConfig(epochs=1, profile=50))
    assert fitted.state().arrays["profile"].shape[0] == 50, "the price of a newcomer: so many calls"


def test_the_profile_is_mostly_hard_queries():
    quality = np.array([[1.0, 1.0, 1.0]] * 80 + [[1.0, 0.0, 1.0]] * 20)
    rows = profile_rows(quality, 20, np.random.default_rng(0))
    assert (rows >= 80).sum() >= 16
    assert len(set(rows.tolist())) == 20
    assert profile_rows(quality, 500, np.random.default_rng(0)).tolist() == list(range(100))
    assert len(profile_rows(np.array([[NAN, 1.0], [NAN, NAN]]), 5, np.random.default_rng(0))) == 2


def test_a_pair_does_not_vouch_for_itself():
    """With a profile of all rows and noise for outcomes, what is learned must be that there is nothing to learn."""
    table, features = planted(240)
    noise = np.random.default_rng(0).random(table.quality.shape) < 0.5
    blank = type(table)(table.texts, table.targets, noise.astype(np.float64))
    found = ICLRouterConfig(width=32).fit(blank, features, np.random.default_rng(0)).predict_many(features).quality
    assert np.abs(found - noise.mean(axis=0)).mean() < 0.25, "training saw through its own pairs"


def test_settings_are_validated():
    for settings, said in (({"profile": 0}, "icl-router.profile"), ({"rate": 0.0}, "icl-router.rate")):
        with pytest.raises(ConfigError, match=said):
            ICLRouterConfig(**settings)
