"""The public names are a promise: this list changes on purpose only."""

from __future__ import annotations

import pytest

import junctor

NAMES = [
    "AsyncJunctor",
    "Attempt",
    "Call",
    "Cascade",
    "Catalogue",
    "Constraints",
    "Decision",
    "Estimator",
    "EstimatorConfig",
    "Fallback",
    "Features",
    "Junctor",
    "JunctorError",
    "Learner",
    "Message",
    "Outcome",
    "OutcomeTable",
    "Panel",
    "Plan",
    "Policy",
    "PolicyConfig",
    "Prediction",
    "Price",
    "Ranked",
    "Request",
    "State",
    "Target",
    "UserError",
    "__version__",
]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_loads(name: str) -> None:
    assert getattr(junctor, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Router'"):
        junctor.Router  # noqa: B018
