"""Every registered estimator and policy runs the public suites: a new registry line is tested by existing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from junctor import registry
from junctor.encoders import load_encoder
from junctor.fitting import policy_config
from junctor.testing import check_estimator, check_policy, planted

pytestmark = pytest.mark.slow  # as a whole: `make check` is an inner loop

# Parts that cannot do without a setting. Everything else is checked as it comes.
SETTINGS: dict[str, dict[str, Any]] = {
    "fixed": {"target": "generalist"},
    "rules": {
        "rules": [{"when": {"label": {"topic": "arithmetic"}}, "use": ["calculator", "generalist"]}],
        "default": ["generalist", "programmer", "calculator", "linguist"],
    },
    "similarity": {"encoder": "lexical"},
}
READS_DESCRIPTIONS = {"similarity"}
LONG = {"routerbench-mlp"}


def param(entry: registry.Entry) -> Any:
    """Those that take seconds to fit are left to the full run."""
    return pytest.param(entry.name, marks=pytest.mark.slow if entry.extra == "neural" or entry.name in LONG else ())


ESTIMATORS = [param(entry) for entry in registry.entries("estimator")]
POLICIES = [param(entry) for entry in registry.entries("policy")]


def material(name: str) -> dict[str, Any]:
    """The planted table; with vectors of the encoder that reads the descriptions, where one does."""
    table, features = planted()
    if name in READS_DESCRIPTIONS:
        features = table.features(load_encoder("lexical").encode(table.texts))
    return {"table": table, "features": features}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_conforms(name):
    config = registry.load("estimator", name)(**SETTINGS.get(name, {}))
    check_estimator(config, learns=name not in READS_DESCRIPTIONS, **material(name))


@pytest.mark.parametrize("name", [*POLICIES, *ESTIMATORS])
def test_every_policy_conforms_and_so_does_the_utility_over_every_estimator(name):
    check_policy(policy_config(name, SETTINGS.get(name)), **material(name))


@pytest.mark.parametrize(
    "settings",
    [
        {"cost_weight": 0.3},
        {"quality_floor": 0.6},
        {"budget_usd": 0.004, "latency_weight": 0.2},
        {"fallbacks": 0, "label": "mine"},
    ],
)
def test_every_trade_conforms(settings):
    check_policy(policy_config("knn", {"k": 10, **settings}))


def test_a_fitted_policy_can_be_checked_without_its_config():
    table, features = planted(100)
    check_policy(policy_config("linear").fit(table, features, np.random.default_rng(0)), table=table, features=features)
