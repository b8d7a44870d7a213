"""Settings and saved state are read strictly: each mistake has its own message."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ArtefactError, ConfigError, UnknownName
from junctor.estimators import saved
from junctor.estimators.knn import KNNConfig
from junctor.estimators.settings import configured, estimator_config
from junctor.policy import State


def test_an_unknown_setting_names_itself_the_nearest_and_the_known():
    with pytest.raises(
        ConfigError, match=r"knn\.weigths: unknown setting \(did you mean 'weights'\? known: k, weights, shrinkage"
    ):
        configured(KNNConfig, {"weigths": "uniform"}, "knn")


def test_a_wrong_type_names_its_place():
    with pytest.raises(ConfigError, match=r"knn\.k: Expected `int`, got `str`"):
        configured(KNNConfig, {"k": "ten"}, "knn")
    with pytest.raises(ConfigError, match=r"knn\.weights: Invalid enum value 'odd'"):
        estimator_config("knn", {"weights": "odd"})


def test_an_unknown_estimator_is_named():
    with pytest.raises(UnknownName, match="no estimator is called 'kn'"):
        estimator_config("kn")


STATE = State({"k": 3, "targets": ["a"], "measures": ["quality"]}, {"x": np.ones((2, 3))})


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: saved.entry(STATE, "q", int), "q: is missing"),
        (lambda: saved.entry(STATE, "k", str), "k: Expected `str`"),
        (lambda: saved.array(STATE, "y", (2,)), "y: is missing"),
        (lambda: saved.array(STATE, "x", (2, 3), np.float32), "x: holds float64, not float32"),
        (lambda: saved.array(STATE, "x", (2, 4)), r"x: has shape \(2, 3\), not 2 x 4"),
        (lambda: saved.array(STATE, "x", (None,)), r"x: has shape \(2, 3\), not any"),
        (lambda: saved.array(State({}, {"x": np.array([np.nan])}), "x", (1,)), "x: holds NaN"),
        (lambda: saved.array(State({}, {"x": np.array([np.inf])}), "x", (1,), finite=False), "x: holds infinite"),
        (lambda: saved.columns(State({"targets": ["a", "a"], "measures": ["quality"]}, {})), "does not describe columns"),
        (lambda: saved.columns(State({"targets": ["a"], "measures": ["beauty"]}, {})), "does not describe columns"),
    ],
)
def test_damage_is_named(read, said):
    with pytest.raises(ArtefactError, match=said):
        read()


def test_what_is_whole_is_read():
    assert saved.entry(STATE, "k", int) == 3
    assert saved.array(STATE, "x", (None, 3)).shape == (2, 3)
    assert np.isnan(saved.array(State({}, {"x": np.array([np.nan])}), "x", (1,), finite=False)).all()
    assert saved.described(saved.columns(STATE)) == {"targets": ["a"], "measures": ["quality"]}
