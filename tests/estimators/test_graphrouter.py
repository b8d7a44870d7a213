"""graphrouter: edges of many targets teach one metric, a new node needs a few edges, and no query sees its own outcomes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.errors import ConfigError
from junctor.estimators.graphrouter import GraphRouterConfig, halves
from junctor.estimators.kmeans_table import KMeansTableConfig
from junctor.estimators.knn import KNNConfig
from junctor.estimators.linear import ALPHAS, LinearConfig
from junctor.testing import planted
from junctor.types import Catalogue, Target

from .worlds import hidden_skills

BARS = (*(LinearConfig(alpha=a) for a in ALPHAS[3:]), *(KNNConfig(k=k) for k in (10, 40)), KMeansTableConfig())


@pytest.mark.slow
def test_it_wins_where_targets_share_what_matters_and_not_without_messages():
    """60 outcomes each are too few to find a target's two directions among 48; together the targets show them."""
    worlds = [hidden_skills(seed=seed) for seed in (0, 1)]
    bars = [max(world.gained(bar) for bar in BARS) for world in worlds]
    found = [world.gained(GraphRouterConfig()) for world in worlds]
    assert min(np.array(found) - bars) > 0.04, f"{found} against {bars}"
    without = [world.gained(GraphRouterConfig(messages=False)) for world in worlds]
    assert max(without) < 0.1, f"without messages a target is its mean: {without}"


def test_a_new_node_needs_a_few_edges_and_no_training():
    world = hidden_skills(seed=1, targets=38, tried=0.5)
    bars = [world.newcomers(bar, 30, 80) for bar in (LinearConfig(alpha=10.0), KNNConfig(k=40), KMeansTableConfig())]
    found = world.newcomers(GraphRouterConfig(), 30, 80)
    assert found > max(bars) + 0.2, f"{found} against {bars}"


def test_it_converges():
    losses = hidden_skills(seed=0).fit(GraphRouterConfig()).losses
    assert losses[-1] < 0.8 * losses[0]


def test_no_query_shows_and_hides_its_edges():
    for size in (1, 2, 7, 64):
        shown, hidden = halves(np.arange(100, 100 + size), np.random.default_rng(0))
        assert not set(shown.tolist()) & set(hidden.tolist())
        assert len(shown) + len(hidden) == size
        assert size == 1 or abs(len(shown) - len(hidden)) <= 1


def test_a_prediction_reads_no_outcome_of_the_query():
    """Outcomes of rows that are asked about later do not matter unless they were trained on: labels are not even there."""
    table, features = planted(200)
    fitted = GraphRouterConfig(epochs=2).fit(table.take(range(150)), features.take(range(150)), np.random.default_rng(0))
    asked = features.take(range(150, 200))
    assert np.array_equal(fitted.predict_many(asked).quality, fitted.predict_many(asked.without_labels()).quality)


def test_descriptions_are_read_where_there_are_any():
    table, features = planted(120)
    fitted = GraphRouterConfig(encoder="lexical", epochs=2).fit(table, features, np.random.default_rng(0))
    assert fitted.state().arrays["describe"].shape[0] > 0
    bare = replace(table, targets=Catalogue.of(list(table.targets.ids)))
    fitted = GraphRouterConfig(encoder="lexical", epochs=2).fit(bare, features, np.random.default_rng(0))
    assert fitted.state().arrays["describe"].shape[0] == 0
    newcomer = replace(bare, targets=Catalogue([Target(id="new", description="unheard of"), *list(bare.targets)[1:]]))
    assert fitted.onboard("new", newcomer, features).targets[-1] == "new", "its description is not read: the graph has none"


def test_settings_are_validated():
    for settings, said in (({"width": 0}, "graphrouter.width"), ({"rate": 0.0}, "graphrouter.rate")):
        with pytest.raises(ConfigError, match=said):
            GraphRouterConfig(**settings)
