"""Where to set the knob before serving: the cheapest setting that validation rows cannot tell from the best one.

The one-standard-error rule of Breiman et al. (1984, section 3.4.3), on paired differences between settings. Quality that is
within noise of the best is not worth paying for; quality that is not, is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from junctor.features import Features
from junctor.fitting import Rows
from junctor.outcomes import OutcomeTable
from junctor.policies.utility import UtilityConfig
from junctor.policy import Array, Sweep


def thrifty(
    config: UtilityConfig, table: OutcomeTable, features: Features, train: Rows, validation: Rows, rng: np.random.Generator
) -> UtilityConfig:
    """The same policy with the largest cost weight that loses nothing that validation rows can show.

    It is fitted on training rows only for this, and swept over the validation rows. Without recorded costs, without validation
    rows or with a quality floor (which has no knob) the config comes back as it is.
    """
    rows = np.asarray(validation)
    if table.cost_usd is None or config.quality_floor is not None or not len(rows):
        return config
    fitted = np.asarray(train)
    policy = config.fit(table.take(fitted), features.take(fitted), rng)
    sweep = policy.decide_sweep(features.take(rows), table.targets, rng)
    quality = np.take_along_axis(table.quality[rows], sweep.choices.T, axis=1)
    return replace(config, cost_weight=_largest_even(sweep, quality))


def _largest_even(sweep: Sweep, quality: Array) -> float:
    """`quality` [N, L]; the largest finite setting whose paired loss against the best is within one standard error."""
    seen = quality[~np.isnan(quality).any(axis=1)]
    if not len(seen):
        return 0.0
    loss = seen[:, [int(seen.mean(axis=0).argmax())]] - seen
    error = loss.std(axis=0) / np.sqrt(len(loss))
    even = (loss.mean(axis=0) <= error) & np.isfinite(sweep.settings)
    return float(sweep.settings[even].max(initial=0.0))
