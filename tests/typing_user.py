"""Code as a user writes it: it must pass strict type checking as it stands, and it runs as a test."""

from __future__ import annotations

import numpy as np

from junctor import Catalogue, Decision, Features, Outcome, OutcomeTable, Policy, Price, Request, Target
from junctor.fitting import fit_policy, policy_config


def choose(policy: Policy, text: str, targets: Catalogue) -> str:
    """The target that a policy gives a text."""
    decision: Decision = policy.decide(Request(id="r1", text=text), targets, np.random.default_rng(0))
    return decision.target


def learn() -> Policy:
    """A policy from four recorded queries."""
    small = Target(id="small", price=Price(input_usd_per_mtok=0.1, output_usd_per_mtok=0.4))
    targets = Catalogue([small, Target(id="large")])
    quality = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    table = OutcomeTable(texts=["a", "b", "c", "d"], targets=targets, quality=quality)
    features: Features = table.features()
    rows = np.arange(4)
    return fit_policy(policy_config("best-single"), table, features, rows[:3], rows[3:], np.random.default_rng(0)).policy


def test_user_code_runs() -> None:
    """What type-checks also works."""
    assert choose(learn(), "hello", Catalogue.of(["small", "large"])) == "large"
    assert Outcome(quality=0.5).cost_usd is None
