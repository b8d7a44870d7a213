"""greedy-feasible: the best that can still be paid, by quality or by quality per cost."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError
from junctor.policies.greedy_feasible import GreedyFeasibleConfig

from .scarce import earned, world

QUALITY, COST = np.array([[0.9, 0.5]] * 4), np.array([[4.0, 1.0]] * 4)


def allocate(budgets, *, check=True, **settings):
    policy = GreedyFeasibleConfig(**settings).fit(*world()[:2], np.random.default_rng(0))
    return policy.allocate(QUALITY, COST, np.array(budgets), np.random.default_rng(0), check=check).tolist()


def test_it_takes_the_best_while_it_lasts_and_then_the_next():
    assert allocate([8.0, 9.0]) == [0, 0, 1, 1]
    assert allocate([8.0, 1.0]) == [0, 0, 1, -1]
    assert allocate([8.0, 9.0], check=False) == [0, 0, -1, -1]


def test_by_quality_per_cost_it_begins_with_the_cheap_one():
    assert allocate([8.0, 2.0], by="quality_per_cost") == [1, 1, 0, 0]
    assert allocate([8.0, 2.0], by="quality_per_cost", check=False) == [1, 1, -1, -1]


def test_the_check_is_what_makes_it_a_bar_and_without_it_it_is_none():
    checked, insisting = (earned(GreedyFeasibleConfig(), check=check)[0] for check in (True, False))
    assert checked > insisting + 0.2


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"greedy-feasible\.by"):
        GreedyFeasibleConfig(by="luck")
