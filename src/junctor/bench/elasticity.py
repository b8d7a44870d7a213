"""TEP, the token elasticity of performance: what a gain in quality costs in tokens, against a base target."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST_EXTRA = 0.01
"""Below this share of extra tokens the quotient is noise: it grows without bound as the tokens approach the base's."""


def tep(quality: Array, tokens: Array, base_quality: Array, base_tokens: Array) -> Array:
    """[(Q - Q_base) / Q_base] / [(T - T_base) / T_base], elementwise.

    quality, tokens             of the method: mean quality, mean tokens (or cost: any unit, it cancels)
    base_quality, base_tokens   of the base target alone, the cheapest pipeline

    NaN where it says nothing: quality below the base's (a cut in both would look like a gain), less than one per cent more
    tokens than the base, or a base that is never right or costs nothing. Report it beside quality and tokens, never alone: a
    method that hardly leaves the base may have a high TEP and solve hardly more. Source: EllieSQL.
    """
    known = (base_quality > 0) & (base_tokens > 0)
    gain = np.divide(quality - base_quality, base_quality, out=np.full(np.shape(quality), np.nan), where=known)
    extra = np.divide(tokens - base_tokens, base_tokens, out=np.full(np.shape(tokens), np.nan), where=known)
    defined = known & (gain >= 0) & (extra >= LEAST_EXTRA)
    found: Array = np.divide(gain, extra, out=np.full(np.shape(gain), np.nan), where=defined)
    return found
