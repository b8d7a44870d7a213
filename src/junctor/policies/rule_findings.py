"""Static analysis of Boolean decision rules: which can never match, which never get their turn, which contradict each other.

Found by truth tables over the signals that the rules read, before any request has come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from junctor.policies.boolean import MOST_SIGNALS, Expression, columns_of
from junctor.policies.signals import Signal, worlds

MOST_WORLDS = 2**MOST_SIGNALS


@dataclass(frozen=True, kw_only=True)
class Finding:
    """kind; the decision that it is about; the others that have to do with it; a sentence for people."""

    kind: Literal["never true", "shadowed", "conflict", "unused signal", "not analysed"]
    decision: str
    others: tuple[str, ...] = ()
    message: str


@dataclass(frozen=True, kw_only=True)
class Ruled:
    """A decision as the analysis sees it: name, expression, priority and the targets that it names."""

    name: str
    when: Expression
    priority: int
    targets: tuple[str, ...]


def findings(decisions: Sequence[Ruled], specs: Mapping[str, Signal], *, by_confidence: bool = False) -> list[Finding]:
    """What is wrong with these decisions, in the order in which they are tried.

    never true     no combination of signals matches it
    shadowed       whenever it matches, so does one that goes before it
    conflict       it can match together with another one of the same priority that names other targets, so that only their
                   order in the file (or the confidence) decides
    unused signal  no decision reads it
    not analysed   it reads too many signals for a truth table

    With `by_confidence` order does not decide, so nothing is shadowed and every overlap of different targets is a conflict.
    """
    out = [
        Finding(kind="unused signal", decision=name, message=f"no decision reads the signal {name!r}")
        for name in _unused(decisions, specs)
    ]
    ranked = sorted(decisions, key=lambda d: -d.priority)
    for place, decision in enumerate(ranked):
        out += _dead(decision, [] if by_confidence else ranked[:place], specs)
    for one, other in combinations(ranked, 2):
        if by_confidence or one.priority == other.priority:
            out += _conflict(one, other, specs)
    return out


def _unused(decisions: Sequence[Ruled], specs: Mapping[str, Signal]) -> list[str]:
    read = {name for decision in decisions for name in decision.when.names}
    return [name for name in specs if name not in read]


def _matches(decisions: Sequence[Ruled], specs: Mapping[str, Signal]) -> NDArray[np.bool_] | None:
    """[decisions, W]: where each matches, over all combinations of the signals that any of them reads; None: too many."""
    names = tuple(dict.fromkeys(name for d in decisions for name in d.when.names))
    table = worlds(specs, names, MOST_WORLDS)
    if table is None:
        return None
    columns = columns_of(names, table)
    return np.stack([d.when.values(columns, len(table)) > 0 for d in decisions])


def _dead(decision: Ruled, before: Sequence[Ruled], specs: Mapping[str, Signal]) -> list[Finding]:
    alone = _matches([decision], specs)
    if alone is None:
        message = f"reads {len(decision.when.names)} signals: too many for a truth table"
        return [Finding(kind="not analysed", decision=decision.name, message=message)]
    if not alone.any():
        return [Finding(kind="never true", decision=decision.name, message=f"{decision.when} matches no request")]
    single = [b for b in before if _covers([b], decision, specs)]
    cover = single[:1] or (list(before) if before and _covers(before, decision, specs) else [])
    if not cover:
        return []
    names = tuple(b.name for b in cover)
    said = f"whenever {decision.when} matches, {' or '.join(names)} does and goes first"
    return [Finding(kind="shadowed", decision=decision.name, others=names, message=said)]


def _covers(before: Sequence[Ruled], decision: Ruled, specs: Mapping[str, Signal]) -> bool:
    """Whether one of `before` matches in every combination in which the decision does."""
    found = _matches([decision, *before], specs)
    return found is not None and not (found[0] & ~found[1:].any(axis=0)).any()


def _conflict(one: Ruled, other: Ruled, specs: Mapping[str, Signal]) -> list[Finding]:
    if one.targets == other.targets:
        return []
    found = _matches([one, other], specs)
    if found is None or not found.all(axis=0).any():
        return []
    said = f"{one.name} and {other.name} can match together at priority {one.priority} and name different targets"
    return [Finding(kind="conflict", decision=one.name, others=(other.name,), message=said)]
