"""Learns the live scorer's weights from answers that were judged: which signs in an answer's text say that it is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from junctor.errors import UserError
from junctor.estimators.regression import logistic
from junctor.plans.answers import features_of, log_odds

PENALTY = 1.0


def learn_weights(
    queries: Sequence[str], answers: Sequence[str], quality: Sequence[float], finished: Sequence[str] = ()
) -> tuple[float, ...]:
    """Seven weights for `scorer`: six of the features, then a constant. Logistic regression over n judged answers.

    quality   in [0, 1]; NaN where an answer was not judged
    finished  why each answer ended; empty: not known

    Raises UserError unless the lists are equally long and at least one answer was judged.
    """
    ended = list(finished) or [""] * len(answers)
    if not len(queries) == len(answers) == len(quality) == len(ended):
        raise UserError("the lists are not equally long", field="answers", fix="one query, answer and quality each")
    right = np.array(quality, dtype=np.float64)
    if not (~np.isnan(right)).any():
        raise UserError("no answer was judged", field="quality", fix="pass a quality in [0, 1] for some")
    x = np.array([features_of(q, a, f) for q, a, f in zip(queries, answers, ended, strict=True)])
    weights, constant = logistic(x, right[:, None], PENALTY)
    return (*weights[:, 0].tolist(), float(constant[0]))


def signs_of(
    queries: Sequence[str], answers: Sequence[str], weights: Sequence[float], finished: Sequence[str] = ()
) -> list[float]:
    """Log odds of being right that each answer's text shows under these weights: what to record as `samples["score"]`.

    A policy that is fitted on a table with such scores judges live answers by the same weights, on the same scale.
    """
    ended = list(finished) or [""] * len(answers)
    return [log_odds(weights, features_of(q, a, f)) for q, a, f in zip(queries, answers, ended, strict=True)]
