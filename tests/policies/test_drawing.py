"""How bandits draw: the normal distribution, exact and integrated propensities, exponential weights."""

from __future__ import annotations

import math

import numpy as np
import pytest

from junctor.policies import drawing

RNG = np.random.default_rng(0)


def test_the_normal_distribution_is_right_to_a_ten_millionth():
    z = np.linspace(-8, 8, 401)
    exact = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in z])
    np.testing.assert_allclose(drawing.normal_cdf(z), exact, atol=1e-7)


def test_of_two_normals_the_chance_is_exact():
    value, spread = np.array([[0.3, 0.1]]), np.array([[0.3, 0.4]])
    found = [drawing.largest_of_normals(value, spread, np.array([i]))[0] for i in (0, 1)]
    assert found[0] == pytest.approx(0.5 * math.erfc(-0.2 / 0.5 / math.sqrt(2)), abs=1e-6)
    assert sum(found) == pytest.approx(1.0)


@pytest.mark.parametrize("spread", [(0.2, 0.2, 0.2, 0.2), (0.5, 0.1, 0.02, 0.3), (1.0, 0.001, 0.001, 0.9)])
def test_of_many_normals_the_chance_is_what_draws_say(spread):
    value = np.array([0.5, 0.45, 0.55, 0.2])
    width = np.array(spread)
    drawn = (value + width * RNG.standard_normal((400_000, 4))).argmax(axis=1)
    often = np.bincount(drawn, minlength=4) / len(drawn)
    many = np.tile(value, (4, 1)), np.tile(width, (4, 1))
    found = drawing.largest_of_normals(*many, np.arange(4))
    np.testing.assert_allclose(found, often, atol=0.005)
    assert found.sum() == pytest.approx(1.0, abs=0.01)


def test_one_arm_is_certain_and_no_chance_is_zero():
    assert drawing.largest_of_normals(np.array([[0.5]]), np.array([[0.1]]), np.array([0]))[0] == 1.0
    hopeless = drawing.largest_of_normals(np.array([[9.0, 0.0, 0.0]]), np.full((1, 3), 0.1), np.array([1]))[0]
    assert hopeless == drawing.LEAST


def test_large_batches_are_cut_into_parts(monkeypatch):
    value, spread = RNG.random((50, 5)), RNG.random((50, 5))
    choice = RNG.integers(5, size=50)
    whole = drawing.largest_of_normals(value, spread, choice)
    monkeypatch.setattr(drawing, "_CELLS", 5 * 97 * 7)
    np.testing.assert_allclose(drawing.largest_of_normals(value, spread, choice), whole, atol=1e-12)


def test_mostly_top_is_drawn_as_often_as_it_says():
    value = np.tile([0.1, 0.9, 0.3], (60_000, 1))
    drawn = drawing.mostly_top(value, 0.3, RNG)
    often = np.bincount(drawn, minlength=3) / len(drawn)
    said = drawing.mostly_top_propensity(value[:3], 0.3, np.arange(3))
    np.testing.assert_allclose(said, [0.1, 0.8, 0.1])
    np.testing.assert_allclose(often, said, atol=0.01)


def test_ties_go_to_the_first():
    assert drawing.top(np.array([[0.5, 0.5 + 1e-12, 0.1]])).tolist() == [0]


def test_exponential_weights_add_up_and_never_vanish():
    found = drawing.exponential(np.array([[1000.0, 0.0, -1000.0]]), 0.3)
    np.testing.assert_allclose(found, [[0.8, 0.1, 0.1]])
    often = np.bincount(drawing.by_chance(np.tile(found, (60_000, 1)), RNG), minlength=3) / 60_000
    np.testing.assert_allclose(often, found[0], atol=0.01)
