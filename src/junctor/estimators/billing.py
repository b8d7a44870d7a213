"""What a call will cost, from list prices and predicted tokens: the prompt is known before the answer.

    cost_j(x) = (input tokens of x for j) * price_in + (predicted output tokens of j) * price_out + price per call

A tokenizer per target is not at hand when a request arrives, so input tokens are a line in the number of characters, fitted per
target on the rows that record them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from junctor.outcomes import OutcomeTable
from junctor.policy import Array
from junctor.types import Target

WIDTH = 5
"""Numbers per target: tokens at no characters, tokens per character, USD per token in, USD per token out, USD per call."""
CLOSE = 0.1
"""List prices are believed where they give back half of the recorded bills to within this share."""


def bills(table: OutcomeTable) -> Array:
    """[M, 5], see WIDTH; NaN for a target without price or tokens, or whose recorded costs are not what its prices say."""
    found = np.full((len(table.targets), WIDTH), np.nan)
    if table.input_tokens is None or table.output_tokens is None:
        return found
    characters = lengths(table.texts)
    for column, target in enumerate(table.targets):
        tokens = table.input_tokens[:, column], table.output_tokens[:, column]
        recorded = None if table.cost_usd is None else table.cost_usd[:, column]
        if target.price is not None and _agrees(target, *tokens, recorded):
            price = target.price
            rates = (price.input_usd_per_mtok / 1e6, price.output_usd_per_mtok / 1e6, price.usd_per_call)
            found[column] = (*_line(characters, tokens[0]), *rates)
    return found


def lengths(texts: Sequence[str]) -> Array:
    """Characters of each text [N]."""
    return np.fromiter(map(len, texts), np.float64, len(texts))


def costs(bill: Array, characters: Array, output_tokens: Array) -> Array:
    """USD [N, M] for texts of N lengths and output tokens [N, M]; NaN where there is no bill."""
    base, slope, into, out, call = bill.T
    tokens = np.maximum(base + slope * characters[:, None], 0.0)
    found: Array = tokens * into + output_tokens * out + call
    return found


def _agrees(target: Target, tokens_in: Array, tokens_out: Array, recorded: Array | None) -> bool:
    """Whether both token counts were recorded together, and list prices give what was paid, where that is known."""
    assert target.price is not None
    seen = ~np.isnan(tokens_in) & ~np.isnan(tokens_out)
    if not seen.any():
        return False
    price = target.price
    listed = (tokens_in * price.input_usd_per_mtok + tokens_out * price.output_usd_per_mtok) / 1e6 + price.usd_per_call
    if recorded is None or np.isnan(recorded[seen]).all():
        return bool(listed[seen].max() > 0)
    both = seen & ~np.isnan(recorded)
    return bool(np.median(np.abs(listed[both] - recorded[both])) <= CLOSE * np.median(recorded[both]))


def _line(characters: Array, tokens: Array) -> tuple[float, float]:
    """Intercept and slope of tokens over characters, by least squares; a level line where lengths do not differ."""
    seen = ~np.isnan(tokens)
    x, y = characters[seen], tokens[seen]
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
    slope = max(slope, 0.0)
    return float(y.mean() - slope * x.mean()), slope
