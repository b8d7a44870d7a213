"""Public conformance suites: what junctor holds its own parts to, and yours.

from junctor.testing import check_estimator
def test_mine_conforms(): check_estimator(MyConfig())
"""

from __future__ import annotations

from junctor.testing.estimators import check_estimator
from junctor.testing.gates import check_gate
from junctor.testing.learners import check_learner
from junctor.testing.planted import planted
from junctor.testing.policies import check_policy
from junctor.testing.providers import check_provider, check_provider_sync

__all__ = [
    "check_estimator",
    "check_gate",
    "check_learner",
    "check_policy",
    "check_provider",
    "check_provider_sync",
    "planted",
]
