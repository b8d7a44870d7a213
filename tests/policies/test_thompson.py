"""thompson: planted specialists, the posterior's own width (σ² once, not twice), propensities that can be used."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.policies.contexts import Reduced
from junctor.policies.thompson import Thompson, ThompsonConfig
from junctor.testing import planted
from junctor.testing.planted import requests

from .specialists import blind, earned, fixed, stream

COLD = ThompsonConfig(warm=0.0, dims=8)


def test_it_beats_the_best_single_target_while_it_learns():
    world = stream()
    assert earned(COLD, world) > fixed(world) + 0.15


def test_without_context_it_does_not(monkeypatch):
    world = stream()
    blind(monkeypatch, Reduced)
    assert earned(COLD, world) < fixed(world) + 0.02


def test_draws_scatter_as_the_posterior_does():
    # prior variance 2 and noise 0.25 as in GreenServ: ridge = σ² / τ²; posterior covariance (I / τ² + Σ x xᵀ / σ²)⁻¹
    sigma, variance = 0.25, 2.0
    config = ThompsonConfig(warm=0.0, dims=4, sigma=sigma, ridge=sigma**2 / variance)
    table, features = planted(60)
    learner = config.fit(table, features, np.random.default_rng(0))
    x = learner.context.matrix(features)
    for row in range(30):
        learner.take(0, x[row], float(table.quality[row, 0]), 1.0, 1.0)
    exact = np.linalg.inv(np.eye(5) / variance + x[:30].T @ x[:30] / sigma**2)
    wanted = np.sqrt(np.einsum("nd,de,ne->n", x, exact, x))
    look = learner._look(x, learner._view(table.targets))
    np.testing.assert_allclose(learner.spread(look)[:, 0], wanted, rtol=1e-6)
    drawn = np.stack([learner.draw(look, np.random.default_rng(i))[1][:, 0] for i in range(4000)])
    np.testing.assert_allclose(drawn.std(axis=0), wanted, rtol=0.06)


def test_with_the_covariance_scaled_twice_it_explores_too_little(monkeypatch):
    table, features = planted(200)
    asked = list(requests(table, features, range(100)))
    learner = ThompsonConfig(warm=0.3, sigma=0.6).fit(table, features, np.random.default_rng(0))

    def explored():
        greedy, _ = learner.frozen().decide_many(features.take(range(100)), table.targets, np.random.default_rng(0))
        rng = np.random.default_rng(1)
        made = [table.targets.position(learner.decide(request, table.targets, rng).target) for request in asked]
        return float((np.array(made) != greedy).mean())

    once = explored()
    monkeypatch.setattr(Thompson, "spread", lambda self, look: self.config.sigma**2 * look.spread)
    assert explored() < 0.75 * once


@pytest.mark.slow
def test_stated_propensities_are_how_often_it_draws():
    table, features = planted(100)
    learner = ThompsonConfig(warm=0.3).fit(table, features, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    request = next(requests(table, features, [7]))
    made = [learner.decide(request, table.targets, rng) for _ in range(4000)]
    said = {one.target: one.propensity for one in made}
    for target, propensity in said.items():
        assert np.mean([one.target == target for one in made]) == pytest.approx(propensity, abs=0.035)
    assert {one.propensity_kind for one in made} == {"estimated"}
    two = learner.decide(request, table.targets.only(["linguist", "generalist"]), rng)
    assert two.propensity_kind == "exact"
