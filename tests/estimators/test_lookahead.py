"""lookahead: lengths of answers teach what right and wrong alone do not; at decision time nothing of that is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.errors import ConfigError
from junctor.estimators.knn import KNNConfig
from junctor.estimators.linear import LinearConfig
from junctor.estimators.lookahead import LookaheadConfig, lengths, patterns

from .tables import NAN, table
from .worlds import telling_lengths, without_tokens

BARS = (LinearConfig(), *(KNNConfig(k=k) for k in (10, 40, 100)))


@pytest.mark.slow
def test_it_wins_where_lengths_tell_and_not_without_the_auxiliary_loss():
    worlds = [telling_lengths(seed=seed) for seed in (0, 1)]
    bars = [max(world.gained(bar) for bar in BARS) for world in worlds]
    found = [world.gained(LookaheadConfig()) for world in worlds]
    assert min(np.array(found) - bars) > 0.4, f"{found} against {bars}"
    without = [world.gained(LookaheadConfig(auxiliary=0.0)) for world in worlds]
    assert max(np.array(without) - bars) < 0.05, f"the same head without the auxiliary loss: {without} against {bars}"


def test_without_recorded_lengths_it_is_an_ordinary_estimator():
    world = without_tokens(telling_lengths(seed=0))
    found = world.fit(LookaheadConfig()).predict_many(world.test)
    assert np.isfinite(found.quality).all()
    assert found.output_tokens is None


def test_it_converges():
    losses = telling_lengths(seed=0).fit(LookaheadConfig()).losses
    assert losses[-1] < 0.7 * losses[0]


def test_the_auxiliary_heads_are_dropped():
    state = telling_lengths(seed=0, rows=100).fit(LookaheadConfig(epochs=1)).state()
    assert set(state.arrays) == {
        *("project", "shift", "heads", "bias", "prior"),
        *("bill_weights", "bill_bias", "bill_low", "bill_high"),
    }


def test_lengths_are_standardised_logarithms_with_gaps():
    rows = table([[1, 0], [0, 1], [1, 1]], output_tokens=[[np.e - 1, 5], [np.e**3 - 1, 5], [NAN, 5]])
    assert lengths(rows)[:, 0] == pytest.approx([-1.0, 1.0, NAN], nan_ok=True)
    assert lengths(rows)[:, 1] == pytest.approx([0.0, 0.0, 0.0]), "always as long: nothing to tell"
    assert np.isnan(lengths(replace(rows, output_tokens=None))).all()


def test_patterns_group_rows_by_who_is_right():
    found = patterns(np.array([[1, 0, 0], [1, 0, NAN], [0, 1, 1], [0, 1, 1.0]] * 5), 2, np.random.default_rng(0))
    assert found[0] == found[1] != found[2] == found[3]


def test_settings_are_validated():
    for settings, said in (({"width": 1}, "lookahead.width"), ({"auxiliary": -0.1}, "lookahead.auxiliary")):
        with pytest.raises(ConfigError, match=said):
            LookaheadConfig(**settings)
