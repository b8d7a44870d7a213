import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from junctor.curves import area_under_hull, hull, hull_at, pareto, trapezoid_area
from junctor.errors import UserError

COST = np.array([1.0, 2.0, 3.0, 4.0, 2.5])
QUALITY = np.array([0.2, 0.3, 0.8, 0.7, 0.5])


def test_pareto_keeps_what_no_other_point_beats_cheapest_first():
    assert pareto(COST, QUALITY).tolist() == [0, 1, 4, 2]


def test_pareto_keeps_one_of_equal_points_and_drops_nan():
    assert pareto(np.array([1.0, 1.0, np.nan, 2.0]), np.array([0.5, 0.5, 0.9, np.nan])).tolist() == [0]


def test_hull_drops_points_under_a_line():
    x, y = hull(COST, QUALITY)
    assert x.tolist() == [1.0, 3.0]
    assert y.tolist() == [0.2, 0.8]


def test_hull_keeps_concave_corners():
    x, y = hull(np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.9, 1.0]))
    assert x.tolist() == [0, 1, 2]
    assert y.tolist() == [0, 0.9, 1.0]


def test_hull_of_nothing_is_empty():
    x, y = hull(np.array([]), np.array([]))
    assert len(x) == len(y) == 0
    assert hull_at(np.array([np.nan]), np.array([1.0]), np.array([2.0])).tolist() == [0.0]
    assert area_under_hull(np.array([]), np.array([]), 0, 1) == 0.0


def test_height_is_zero_to_the_left_and_flat_to_the_right():
    assert hull_at(COST, QUALITY, np.array([0.5, 1.0, 2.0, 3.0, 9.0])).tolist() == pytest.approx([0, 0.2, 0.5, 0.8, 0.8])


def test_area_by_hand():
    # window [0, 4]: nothing to 1, 0.2 to 0.8 over two units (area 1.0), then 0.8 for one unit
    assert area_under_hull(COST, QUALITY, 0.0, 4.0) == pytest.approx((1.0 + 0.8) / 4)
    # window inside one segment: mean of the two ends
    assert area_under_hull(COST, QUALITY, 1.5, 2.5) == pytest.approx(0.5)


def test_area_of_a_flat_policy_is_its_quality():
    assert area_under_hull(np.array([1.0]), np.array([0.7]), 1.0, 5.0) == pytest.approx(0.7)


def test_window_without_width_gives_the_height_and_an_inverted_one_is_refused():
    assert area_under_hull(COST, QUALITY, 2.0, 2.0) == pytest.approx(0.5)
    assert area_under_hull(COST, QUALITY, 0.1, 0.2) == 0.0
    with pytest.raises(UserError, match="low must not be above high"):
        area_under_hull(COST, QUALITY, 2.0, 1.0)


def test_shapes_must_pair_up():
    with pytest.raises(UserError, match="do not pair up"):
        hull(np.zeros(2), np.zeros(3))


def test_trapezoid_area_takes_the_curve_as_it_is():
    assert trapezoid_area(np.array([2.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0])) == pytest.approx(1.0)
    assert trapezoid_area(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 0.0, 1.0])) == pytest.approx(1.5)


points = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=30)


@given(points)
def test_no_point_lies_above_the_hull_and_corners_are_points(found):
    c, q = np.array(found).T
    assert (hull_at(c, q, c) >= q - 1e-9).all()
    x, y = hull(c, q)
    assert set(zip(x, y, strict=True)) <= set(zip(c, q, strict=True))
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()


@given(points, st.tuples(st.floats(0, 10), st.floats(0, 1)))
def test_one_more_point_never_shrinks_the_area(found, extra):
    c, q = np.array(found).T
    more = np.array([*found, extra]).T
    assert area_under_hull(more[0], more[1], 0, 10) >= area_under_hull(c, q, 0, 10) - 1e-9
