"""model-sat: an aptitude test places newcomers, because topics that go together were learned from others."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError
from junctor.estimators import model_sat
from junctor.estimators.kmeans_table import KMeansTableConfig
from junctor.estimators.knn import KNNConfig
from junctor.estimators.linear import LinearConfig
from junctor.estimators.model_sat import ModelSATConfig, aptitudes, drawn_shots
from junctor.testing import planted

from .tables import NAN
from .worlds import mixed_domains

KNOWN, SHOWN = 30, 80
BARS = (KMeansTableConfig(), KMeansTableConfig(clusters=40), KNNConfig(k=10), KNNConfig(k=40), LinearConfig(alpha=10.0))


@pytest.mark.slow
def test_newcomers_are_placed_by_their_aptitude_and_not_without_it(monkeypatch):
    """Two rows per topic say little of a topic; those of its domain say enough, and the old targets told which they are."""
    worlds = [mixed_domains(seed=seed) for seed in (0, 1, 2)]
    bars = [max(world.newcomers(bar, KNOWN, SHOWN) for bar in BARS) for world in worlds]
    found = [world.newcomers(ModelSATConfig(), KNOWN, SHOWN) for world in worlds]
    assert np.mean(found) > np.mean(bars) + 0.1, f"{found} against {bars}"
    monkeypatch.setattr(model_sat, "aptitudes", lambda quality, task, tasks: np.zeros((tasks, quality.shape[1])))
    without = [world.newcomers(ModelSATConfig(), KNOWN, SHOWN) for world in worlds]
    assert np.mean(without) < np.mean(bars) - 0.1, f"without aptitudes {without} against {bars}"


def test_it_converges():
    losses = mixed_domains(seed=0).fit(ModelSATConfig()).losses
    assert losses[-1] < 0.9 * losses[0]


def test_onboarding_measures_and_trains_nothing():
    table, features = planted(240)
    old = ModelSATConfig(epochs=2).fit(table.only(table.targets.ids[:3]), features, np.random.default_rng(0))
    new = old.onboard(table.targets.ids[3], table.take(range(60)), features.take(range(60)))
    before, after = old.state().arrays, new.state().arrays
    assert all(np.array_equal(before[name], after[name]) for name in ("project", "shift", "connect", "tasks"))
    assert np.array_equal(before["aptitude"], after["aptitude"][:, :3])


def test_shots_are_few_and_leave_rows_to_learn_from():
    task = np.array([0] * 100 + [1] * 10 + [2])
    shots = drawn_shots(task, 20, np.random.default_rng(0))
    assert np.bincount(task[shots]).tolist() == [20, 5, 1]
    assert len(set(shots.tolist())) == len(shots)


def test_the_test_is_not_learned_from_again(monkeypatch):
    table, features = planted(240)
    told = {}

    def spy(self, quality, vectors, aptitude, prior, rows, rng):
        told["rows"] = rows
        return trained_as_ever(self, quality, vectors, aptitude, prior, rows, rng)

    def shots(task, count, rng):
        told["shots"] = drawn_shots(task, count, rng)
        return told["shots"]

    trained_as_ever = ModelSATConfig._trained
    monkeypatch.setattr(ModelSATConfig, "_trained", spy)
    monkeypatch.setattr(model_sat, "drawn_shots", shots)
    ModelSATConfig(epochs=1).fit(table, features, np.random.default_rng(0))
    assert not set(told["rows"].tolist()) & set(told["shots"].tolist())
    assert len(told["rows"]) + len(told["shots"]) == len(table)


def test_aptitudes_are_above_or_below_the_mean_and_shrunk():
    quality = np.array([[1.0, NAN], [1.0, NAN], [0.0, 1.0], [0.0, 1.0]])
    found = aptitudes(quality, np.array([0, 0, 1, 1]), 3)
    assert found[:, 0] == pytest.approx([0.25, -0.25, 0.0]), "half of .5: two shots, and two more at the mean"
    assert found[:, 1] == pytest.approx([0.0, 0.0, 0.0]), "always right: above its mean nowhere, and never NaN"


def test_settings_are_validated():
    for settings, said in (({"tasks": 0}, "model-sat.tasks"), ({"perturb": -1.0}, "model-sat.perturb")):
        with pytest.raises(ConfigError, match=said):
            ModelSATConfig(**settings)
