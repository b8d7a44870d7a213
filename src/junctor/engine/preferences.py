"""What a single request wishes for, and whether its policy heard it: a wish is never dropped without a word."""

from __future__ import annotations

import msgspec

from junctor.types import Constraints, Decision

SAID = {"cost_weight": "the weight", "quality_floor": "the quality floor"}


def unheard(decision: Decision, wishes: Constraints, honours: frozenset[str]) -> Decision:
    """The decision, saying which wishes its policy does not look at."""
    asked = [name for name in SAID if getattr(wishes, name) is not None and name not in honours]
    if not asked:
        return decision
    names = " and ".join(SAID[name] for name in asked)
    why = f"{names} of the request did not count: {decision.policy} trades nothing by them"
    return msgspec.structs.replace(decision, reasons=(*decision.reasons, why))


def fell_back(decision: Decision, trial: str) -> Decision:
    """The decision of an alias's own policy, where it was the candidate's turn: it counts for the candidate all the same."""
    why = f"the candidate of the trial {trial!r} could not decide: the alias's own policy did"
    return msgspec.structs.replace(decision, reasons=(*decision.reasons, why))
