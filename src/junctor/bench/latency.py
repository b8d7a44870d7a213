"""How long one decision takes: the encoder and `decide`, one request at a time, as a gateway pays for it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from junctor.encoders.base import Encoder
from junctor.errors import TableError
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Policy
from junctor.types import Request

WARM_UP = 100


@dataclass(frozen=True, slots=True)
class DecideTime:
    """Microseconds per decision, encoding included, over `calls` single requests."""

    p50_us: float
    p99_us: float
    calls: int


def requests_of(table: OutcomeTable, count: int) -> list[Request]:
    """`count` requests made from rows spread over the whole table (tables are often sorted by dataset), each row as often."""
    if not len(table):
        raise TableError("has no rows to time decisions on", field="test", fix="give the table a test split")
    stride = next(step for step in range(max(1, round(0.618 * len(table))), len(table) + 1) if math.gcd(step, len(table)) == 1)
    rows = [i * stride % len(table) for i in range(count)]
    return [
        Request(
            id=f"time-{place}",
            text=table.texts[i],
            labels={name: values[i] for name, values in table.labels.items() if values[i]},
        )
        for place, i in enumerate(rows)
    ]


def decide_time(
    policy: Policy, encoder: Encoder | None, table: OutcomeTable, rng: np.random.Generator, count: int = 200
) -> DecideTime:
    """Time `policy.decide` on `count` single requests of the table's texts after a short warm-up.

    The encoder is part of the time when the policy declares that it needs an embedding, and only then. Linear algebra runs on
    one thread, as `junctor serve` runs it: a single decision is too small to share. Raises TableError for a table without rows.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return _timed(policy, encoder, table, rng, count)


def _timed(policy: Policy, encoder: Encoder | None, table: OutcomeTable, rng: np.random.Generator, count: int) -> DecideTime:
    encodes = encoder is not None and "embedding" in policy.needs
    requests = requests_of(table, count + WARM_UP)
    times = np.empty(len(requests))
    for place, request in enumerate(requests):
        started = time.perf_counter_ns()
        vector = encoder.encode_one(request.text)[None, :] if encoder is not None and encodes else None
        labels = {name: [value] for name, value in request.labels.items()} if "labels" in policy.needs else {}
        seen = Request(
            id=request.id, text=request.text, labels=request.labels, features=Features([request.text], vector, labels)
        )
        policy.decide(seen, table.targets, rng)
        times[place] = (time.perf_counter_ns() - started) / 1000.0
    p50, p99 = np.percentile(times[WARM_UP:], [50, 99])
    return DecideTime(float(p50), float(p99), count)
