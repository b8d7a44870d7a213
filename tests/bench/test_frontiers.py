"""Many curves at once agree with the scalar forms of junctor.curves."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.bench.frontiers import area, first_cost_at, hull_paths, raw_paths
from junctor.curves import area_under_hull, hull


def curves(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cost = rng.integers(1, 12, size=(40, 9)) / 10.0  # few values, so that many points share a cost
    return cost, rng.integers(0, 8, size=(40, 9)) / 8.0


@pytest.mark.parametrize("seed", range(5))
def test_hull_corners_are_those_of_the_scalar_hull(seed: int) -> None:
    cost, quality = curves(seed)
    xs, ys = hull_paths(cost, quality)
    for row in range(len(cost)):
        x, y = hull(cost[row], quality[row])
        corners = list(dict.fromkeys(zip(xs[row].tolist(), ys[row].tolist(), strict=True)))
        on_hull = np.interp([c for c, _ in corners], x, y)
        assert on_hull == pytest.approx([q for _, q in corners])
        assert {(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)} <= set(corners)


@pytest.mark.parametrize("seed", range(5))
def test_area_is_that_of_the_scalar_form(seed: int) -> None:
    cost, quality = curves(seed)
    low, high = np.full(40, 0.25), np.full(40, 1.05)
    found = area(*hull_paths(cost, quality), low, high) / (high - low)
    assert found == pytest.approx([area_under_hull(c, q, 0.25, 1.05) for c, q in zip(cost, quality, strict=True)])


def test_area_is_zero_before_the_first_point_and_flat_after_the_last() -> None:
    x, y = np.array([[1.0, 2.0]]), np.array([[0.5, 1.0]])
    assert area(x, y, np.array([0.0]), np.array([4.0]))[0] == pytest.approx(0.75 + 2.0)
    assert area(x, y, np.array([0.0]), np.array([1.0]))[0] == 0.0
    assert area(x, y, np.array([3.0]), np.array([4.0]))[0] == pytest.approx(1.0)


def test_raw_paths_keep_a_point_that_the_hull_drops() -> None:
    cost, quality = np.array([[3.0, 1.0, 2.0]]), np.array([[0.9, 0.8, 0.1]])
    x, y = raw_paths(cost, quality)
    assert x.tolist() == [[1.0, 2.0, 3.0]]
    assert y.tolist() == [[0.8, 0.1, 0.9]]
    low, high = np.array([1.0]), np.array([3.0])
    assert area(x, y, low, high)[0] < area(*hull_paths(cost, quality), low, high)[0]


def test_first_cost_interpolates_and_is_nan_when_never_reached() -> None:
    x, y = np.array([[1.0, 3.0]] * 3), np.array([[0.4, 0.8]] * 3)
    found = first_cost_at(x, y, np.array([0.6, 0.2, 0.9]))
    assert found[:2] == pytest.approx([2.0, 1.0])
    assert np.isnan(found[2])
