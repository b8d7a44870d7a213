"""Training: it converges, one seed gives one result, it stops on held-out rows, and torch stays out until it is needed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from junctor.errors import ArtefactError, MissingExtra, UserError
from junctor.estimators import descent, trained
from junctor.estimators.descent import Recipe
from junctor.estimators.graphrouter import GraphRouterConfig
from junctor.estimators.icl_router import ICLRouterConfig
from junctor.estimators.lookahead import LookaheadConfig
from junctor.estimators.model_sat import ModelSATConfig
from junctor.estimators.ragrouter import RAGRouterConfig
from junctor.estimators.routerdc import RouterDC, RouterDCConfig
from junctor.policy import State
from junctor.testing import planted
from junctor.testing.planted import through_files

from .tables import NAN, at, seen, table

ALL = (RouterDCConfig, GraphRouterConfig, LookaheadConfig, RAGRouterConfig, ModelSATConfig, ICLRouterConfig)
ROWS = np.arange(64)
X = np.linspace(-1.0, 1.0, 64)


def line(w, batch, draw):
    del draw
    torch = descent.torch_for("test")
    x = torch.from_numpy(X[batch].astype(np.float32))
    return ((w["slope"] * x + w["level"] - (2.0 * x + 0.5)) ** 2).mean()


START = {"slope": np.zeros(1), "level": np.zeros(1)}


def test_it_converges_and_reports_every_epoch():
    found = descent.descend("test", START, line, ROWS, Recipe(rate=0.1, decay=0.0, held_out=0.0), np.random.default_rng(0))
    assert found.weights["slope"] == pytest.approx([2.0], abs=0.05)
    assert found.weights["level"] == pytest.approx([0.5], abs=0.05)
    assert len(found.losses) == 40
    assert found.losses[-1] < 0.01 * found.losses[0]


def test_one_seed_gives_one_result():
    one, other = (descent.descend("test", START, line, ROWS, Recipe(), np.random.default_rng(3)) for _ in range(2))
    assert one.losses == other.losses
    assert np.array_equal(one.weights["slope"], other.weights["slope"])


def test_it_keeps_the_epoch_that_was_best_on_held_out_rows_and_stops():
    marks = iter(range(1000))

    def worse(w, batch, draw):
        return line(w, batch, draw) * 0.0 + next(marks)

    found = descent.descend("test", START, line, np.arange(128) % 64, Recipe(patience=3), np.random.default_rng(0), judge=worse)
    assert len(found.losses) == 4, "three epochs after the best one, the first"
    after_one = descent.descend("test", START, line, np.arange(128) % 64, Recipe(epochs=1), np.random.default_rng(0))
    assert len(after_one.losses) == 1
    assert found.held_out == (0.0, 1.0, 2.0, 3.0)


def test_without_rows_the_start_is_the_end():
    found = descent.descend("test", START, line, ROWS[:0], Recipe(), np.random.default_rng(0))
    assert found.losses == ()
    assert found.weights["slope"].tolist() == [0.0]


def test_the_contrast_loss_by_hand_and_rows_that_say_nothing():
    torch = descent.torch_for("test")
    scores = torch.tensor([[2.0, 1.0, 0.0], [5.0, 5.0, 5.0], [0.0, 1.0, 2.0]])
    positive = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    negative = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    by_hand = -np.log(np.exp(2.0) / (np.exp(2.0) + np.exp(1.0) + 1.0))
    assert float(descent.contrast_loss(torch, scores, positive, negative)) == pytest.approx(by_hand, rel=1e-5)
    assert float(descent.contrast_loss(torch, scores, positive * 0.0, negative)) == 0.0


def test_reading_the_modules_does_not_import_torch_and_neither_does_deciding():
    names = ("routerdc", "graphrouter", "lookahead", "ragrouter", "model_sat", "icl_router")
    imports = ", ".join([*(f"junctor.estimators.{name}" for name in names), "junctor.policies.barp"])
    code = f"import sys, {imports}; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_without_torch_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    rows, features = planted(40)
    with pytest.raises(MissingExtra, match=r"routerdc: .*junctor\[neural\]"):
        RouterDCConfig().fit(rows, features, np.random.default_rng(0))


def test_arrays_that_do_not_fit_each_other_are_refused():
    rows, features = planted(60)
    state = through_files(RouterDCConfig(epochs=1).fit(rows, features, np.random.default_rng(0)).state())
    short = State(state.config, {**state.arrays, "vectors": state.arrays["vectors"][:, :-1].copy()})
    with pytest.raises(ArtefactError, match="vectors: has shape"):
        RouterDC.from_state(short)


@pytest.mark.parametrize("kind", ALL)
def test_odd_tables_give_a_defined_result(kind):
    config, rng = kind(epochs=2), np.random.default_rng(0)
    for quality in ([[1], [0], [1]], [[1, 1]] * 5, [[1, NAN], [0, NAN], [1, NAN]], [[0.5, 0.25]]):
        rows = table(quality)
        found = config.fit(rows, seen(at(*range(0, 9 * len(quality), 9))), rng).predict_many(seen(at(5, 50)))
        assert found.quality.shape == (2, len(quality[0]))
        tried = rows.mask.any(axis=0)
        assert np.isfinite(found.quality[:, tried]).all()
        assert np.isnan(found.quality[:, ~tried]).all()
    with pytest.raises(UserError, match="no row to learn from"):
        config.fit(table(np.empty((0, 2))), seen(np.empty((0, 2), np.float32)), rng)


def test_bills_are_ridge_inside_what_was_recorded():
    rows, features = planted(200)
    found = RouterDCConfig(epochs=1).fit(rows, features, np.random.default_rng(0)).predict_many(features)
    assert found.cost_usd is not None
    assert (found.cost_usd >= rows.cost_usd.min(axis=0)).all()
    assert (found.cost_usd <= rows.cost_usd.max(axis=0)).all()
    assert found.cost_usd.mean(axis=0) == pytest.approx(rows.cost_usd.mean(axis=0), rel=1e-6)


def test_clusters_find_what_is_apart():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=300)
    points = np.eye(3)[truth] * 10.0 + rng.standard_normal((300, 3))
    found = trained.nearest(points, trained.clusters(points, 3, rng))
    assert len({(a, b) for a, b in zip(truth.tolist(), found.tolist(), strict=True)}) == 3
    assert len(trained.clusters(np.ones((5, 2)), 4, rng)) == 1, "equal rows are one cluster"
