"""What is doubtful about a table: nothing here stops anybody, but a figure from such data should be read with it in mind.

One sentence each, which names the column and what to do. `doubts(table)` is what `junctor fit` and `junctor bench` print.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from junctor.outcomes.table import Array, OutcomeTable

FEW_ROWS = 300
"""With 0/1 outcomes the standard error of a target's mean is 0.03 there: most differences between targets are smaller."""
FEW_CELLS = 50
FEW_PER_LABEL = 5
DEAR_CALL_USD = 5.0
"""A mean above this for one call is hardly ever US dollars: cents, tokens or USD per thousand calls are likelier."""
SPREAD = 1e5
"""No two targets of one catalogue are so far apart in price."""
DEAR_TOKEN_USD_PER_MTOK = (1e-4, 5e3)
"""List prices of any model lie well inside."""


def doubts(table: OutcomeTable) -> tuple[str, ...]:
    """What a reader of figures from this table must know: too little, constant, contradictory, or in an unlikely unit."""
    found = (*_rows(table), *_targets(table), *_labels(table), *_repeats(table), *_costs(table))
    return tuple(dict.fromkeys(found))


def all_alike(table: OutcomeTable) -> bool:
    """Whether every recorded score is the same number, whatever the target: then no choice is better than another."""
    seen = table.quality[table.mask]
    return len(table.targets) > 1 and len(seen) > 1 and float(np.ptp(seen)) == 0.0


def _rows(table: OutcomeTable) -> Iterator[str]:
    rows = int(table.mask.any(axis=1).sum())
    if rows < FEW_ROWS:
        error = 0.5 / np.sqrt(max(rows, 1))
        yield (
            f"{rows} rows are few: a target's mean quality is known to about ±{1.96 * error:.2f}, and differences between "
            f"targets below that are luck; record {FEW_ROWS} or more"
        )


def _targets(table: OutcomeTable) -> Iterator[str]:
    for place, id_ in enumerate(table.targets.ids):
        seen = table.quality[table.mask[:, place], place]
        if not len(seen):
            yield f"{id_}: no quality was ever recorded, so it cannot be chosen"
        elif len(seen) < min(FEW_CELLS, len(table)):
            yield f"{id_}: recorded on {len(seen)} of {len(table)} rows only; its predictions are little more than its mean"
        elif np.ptp(seen) == 0 and len(seen) > 1:
            yield f"{id_}: its score is {seen[0]:g} on every row; is that what was meant to be recorded?"


def _labels(table: OutcomeTable) -> Iterator[str]:
    counts = Counter(name for name in table.label if name)
    rare = [name for name, count in counts.items() if count < FEW_PER_LABEL]
    if counts and len(rare) == len(counts):
        yield f"every {table.label_name} has fewer than {FEW_PER_LABEL} rows: nothing can be learned per {table.label_name}"
    elif rare:
        yield f"{len(rare)} of {len(counts)} values of {table.label_name} have fewer than {FEW_PER_LABEL} rows"


def _repeats(table: OutcomeTable) -> Iterator[str]:
    groups = table.groups()
    repeated = len(groups) - len(np.unique(groups))
    if repeated:
        yield f"{repeated} rows repeat the prompt of an earlier row; they stay on one side of every split"


def _costs(table: OutcomeTable) -> Iterator[str]:
    if table.cost_usd is None:
        return
    means = np.array([_mean(table.cost_usd[:, place]) for place in range(len(table.targets))])
    known = np.flatnonzero(means > 0)
    if not len(known):
        return
    ids = table.targets.ids
    dear, cheap = known[means[known].argmax()], known[means[known].argmin()]
    if means[dear] > DEAR_CALL_USD:
        yield (
            f"a call of {ids[dear]} costs {means[dear]:,.4g} on average: is cost_usd really in US dollars per call, and not in "
            "cents, tokens or USD per thousand calls?"
        )
    elif means[dear] > SPREAD * means[cheap]:
        yield (
            f"a call of {ids[dear]} costs {means[dear] / means[cheap]:,.0f} times one of {ids[cheap]}: are both in US dollars "
            "per call?"
        )
    yield from _per_token(table)


def _per_token(table: OutcomeTable) -> Iterator[str]:
    """Costs that no price per token explains."""
    assert table.cost_usd is not None
    if table.input_tokens is None or table.output_tokens is None:
        return
    low, high = DEAR_TOKEN_USD_PER_MTOK
    for place, id_ in enumerate(table.targets.ids):
        tokens = _mean(table.input_tokens[:, place] + table.output_tokens[:, place])
        cost = _mean(table.cost_usd[:, place])
        price = cost / tokens * 1e6 if tokens > 0 and cost > 0 else low
        if not low <= price <= high:
            yield f"{id_}: its costs come to ${price:,.3g} per million tokens; is cost_usd in US dollars per call?"


def _mean(values: Array) -> float:
    """Mean of what was recorded; NaN without any."""
    seen = values[~np.isnan(values)]
    return float(seen.mean()) if len(seen) else float("nan")
