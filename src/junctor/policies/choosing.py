"""What every policy does with its choice: refuse with reasons, or make the Decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from junctor.errors import NoTarget
from junctor.policy import Array
from junctor.types import Call, Catalogue, Decision, Fallback, Plan, Ranked, Request

TIE = 1e-12
"""Scores closer than this are equal: the cheaper target goes first, then the one that is first in the catalogue."""
MOST_RANKED = 20
"""So many targets are written into a decision."""


def refuse(why: str, refusals: Mapping[str, str], *, fix: str = "") -> NoReturn:
    """Raise NoTarget."""
    raise NoTarget(why, refusals=refusals, fix=fix)


def some(targets: Catalogue) -> None:
    """Raise NoTarget for an empty catalogue."""
    if not len(targets):
        refuse("there is no target to choose from", {}, fix="let at least one target into the catalogue")


def plan_of(ids: Sequence[str]) -> Plan:
    """One call, or the first of these that answers."""
    if len(ids) == 1:
        return Call(ids[0])
    return Fallback(tuple(Call(id_) for id_ in ids))


def decision(
    request: Request,
    ids: Sequence[str],
    *,
    policy: str,
    version: str,
    reasons: tuple[str, ...],
    ranked: tuple[Ranked, ...] = (),
    propensity: float = 1.0,
) -> Decision:
    """The Decision for the first of `ids`, the others standing by in that order."""
    return Decision(
        id=request.id,
        plan=plan_of(ids),
        target=ids[0],
        ranked=ranked or tuple(Ranked(target=id_, score=float(-i)) for i, id_ in enumerate(ids)),
        propensity=propensity,
        policy=policy,
        version=version,
        reasons=reasons,
    )


def always(place: int, rows: int) -> tuple[NDArray[np.intp], Array]:
    """The same choice for N rows, with certainty."""
    return np.full(rows, place, dtype=np.intp), np.ones(rows)
