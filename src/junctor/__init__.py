"""junctor: one decision engine for which model, agent, tool or expert takes each piece of work.

Importing this is cheap: each public name is loaded when first used, and none of torch, polars or the web stack comes along.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

if TYPE_CHECKING:
    from junctor.errors import JunctorError as JunctorError
    from junctor.errors import UserError as UserError
    from junctor.features import Features as Features
    from junctor.inprocess import AsyncJunctor as AsyncJunctor
    from junctor.inprocess import Junctor as Junctor
    from junctor.outcomes import OutcomeTable as OutcomeTable
    from junctor.policy import Estimator as Estimator
    from junctor.policy import EstimatorConfig as EstimatorConfig
    from junctor.policy import Learner as Learner
    from junctor.policy import Policy as Policy
    from junctor.policy import PolicyConfig as PolicyConfig
    from junctor.policy import Prediction as Prediction
    from junctor.policy import State as State
    from junctor.types import Attempt as Attempt
    from junctor.types import Call as Call
    from junctor.types import Cascade as Cascade
    from junctor.types import Catalogue as Catalogue
    from junctor.types import Constraints as Constraints
    from junctor.types import Decision as Decision
    from junctor.types import Fallback as Fallback
    from junctor.types import Message as Message
    from junctor.types import Outcome as Outcome
    from junctor.types import Panel as Panel
    from junctor.types import Plan as Plan
    from junctor.types import Price as Price
    from junctor.types import Ranked as Ranked
    from junctor.types import Request as Request
    from junctor.types import Target as Target

_HOME = {
    "JunctorError": "errors",
    "UserError": "errors",
    "Features": "features",
    "AsyncJunctor": "inprocess",
    "Junctor": "inprocess",
    "OutcomeTable": "outcomes",
    "Estimator": "policy",
    "EstimatorConfig": "policy",
    "Learner": "policy",
    "Policy": "policy",
    "PolicyConfig": "policy",
    "Prediction": "policy",
    "State": "policy",
    "Attempt": "types",
    "Call": "types",
    "Cascade": "types",
    "Catalogue": "types",
    "Constraints": "types",
    "Decision": "types",
    "Fallback": "types",
    "Message": "types",
    "Outcome": "types",
    "Panel": "types",
    "Plan": "types",
    "Price": "types",
    "Ranked": "types",
    "Request": "types",
    "Target": "types",
}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'junctor' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"junctor.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
