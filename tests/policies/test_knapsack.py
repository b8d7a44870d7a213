"""The multiple-choice knapsack against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from junctor.policies.knapsack import best_choices


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("steps", [0, 4])
def test_it_is_exact_also_with_ties(seed, steps):
    rng = np.random.default_rng(seed)
    gain, pay = rng.random((6, 4)), rng.random((6, 4)) * rng.random((6, 1))
    if steps:
        gain, pay = np.round(gain * steps) / steps, np.round(pay * steps) / steps
    maps = np.array(list(product(range(4), repeat=6)))
    gained, paid = gain[np.arange(6), maps].sum(axis=1), pay[np.arange(6), maps].sum(axis=1)
    for budget in np.quantile(paid, [0.01, 0.1, 0.3, 0.7]):
        found = best_choices(gain, pay, budget)
        assert pay[np.arange(6), found].sum() <= budget + 1e-9
        assert gain[np.arange(6), found].sum() == pytest.approx(gained[paid <= budget + 1e-12].max())


def test_ends_and_closed_choices():
    gain, pay = np.array([[1.0, 2.0, 9.0], [3.0, 3.0, -np.inf]]), np.array([[1.0, 2.0, np.inf], [2.0, 1.0, np.inf]])
    assert best_choices(gain, pay, np.inf).tolist() == [1, 1]
    assert best_choices(gain, pay, 0.0).tolist() == [0, 1]
    assert best_choices(gain, pay, 2.9).tolist() == [0, 1]
    assert best_choices(gain, np.where(np.isfinite(pay), 0.0, np.inf), 0.0).tolist() == [1, 0]


def test_many_groups_and_choices_are_quick():
    rng = np.random.default_rng(0)
    pay = rng.gamma(1.0, 1.0, (80, 70))
    gain = np.clip(0.5 + 0.1 * np.log(pay) + 0.2 * rng.standard_normal(pay.shape), 0, 1)
    budget = 0.3 * pay.mean() * 80
    found = best_choices(gain, pay, budget)
    paid = pay[np.arange(80), found].sum()
    assert 0.999 * budget < paid <= budget * (1 + 1e-8)
