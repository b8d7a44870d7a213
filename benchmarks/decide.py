"""What one decision costs, step by step, and what the tuning rule does: figures of docs/results.md and docs/bench.md, as JSON.

    python benchmarks/decide.py TABLE [--gold COLUMN] [--queries FILE] [--seeds 5] [--json -]

`us` are µs at the median of single requests on one thread. `tuning` judges kNN and linear on the test rows with the rule of
`junctor.fitting` and with plain "best on validation rows".
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from threadpoolctl import threadpool_limits

from junctor import fitting
from junctor.bench.latency import decide_time
from junctor.bench.protocol import run_bench
from junctor.encoders import load_encoder
from junctor.encoders.cache import EmbeddingCache
from junctor.outcomes import OutcomeTable
from junctor.outcomes.reading import read_table
from junctor.outcomes.splitting import split_table

LEARNED = ("knn", "linear")
CALLS = 900


def median_us(step: Callable[[int], Any], calls: int) -> float:
    """µs of `step(i)` at the median."""
    taken = []
    for i in range(calls):
        started = time.perf_counter_ns()
        step(i)
        taken.append((time.perf_counter_ns() - started) / 1e3)
    return float(np.median(taken))


def steps(table: OutcomeTable) -> dict[str, Any]:
    """Encoding, predicting and the whole decision, per learned policy; and the memory that kNN reads for each."""
    encoder = load_encoder("static")
    split = split_table(table, seed=0)
    features = table.features(EmbeddingCache(encoder).encode(table.texts))
    test = table.take(split.test)
    seen = [features.take([row]) for row in split.test[:CALLS]]
    out: dict[str, Any] = {"targets": len(table.targets), "rows": len(split.train) + len(split.validation)}
    with threadpool_limits(1):
        out["encode_us"] = median_us(lambda i: encoder.encode_one(test.texts[i]), len(seen))
        for name in LEARNED:
            config = fitting.policy_config(name)
            policy = fitting.fit_policy(config, table, features, split.train, split.validation, np.random.default_rng(0)).policy
            estimator = policy.estimator  # type: ignore[attr-defined]
            whole = decide_time(policy, encoder, test, np.random.default_rng(0), CALLS)
            expect = median_us(lambda i, fitted=estimator: fitted.expect(seen[i]), len(seen))  # type: ignore[misc]
            out[name] = {"expect_us": expect, "decide_us_p50": whole.p50_us, "decide_us_p99": whole.p99_us}
    return out


def tuning(table: OutcomeTable, seeds: int) -> dict[str, Any]:
    """Test figures with the rule and with the best validation score, same seeds and splits."""

    def best(scores: Any, *_: Any) -> int:
        return int(np.argmax(scores))

    out = {"rule": _figures(table, seeds)}
    with mock.patch.object(fitting, "_first_even", best):
        out["best"] = _figures(table, seeds)
    return out


def _figures(table: OutcomeTable, seeds: int) -> dict[str, Any]:
    board = run_bench(table, policies=list(LEARNED), seeds=seeds, timing_calls=1)
    sides = {"test": board.rows} | {name: part.rows for name, part in board.extra_splits.items()}
    return {
        f"{row.policy} {row.metric} {side}": round(row.value, 4)
        for side, rows in sides.items()
        for row in rows
        if row.policy in LEARNED and row.metric in ("quality", "quality_macro", "aiq")
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("table", type=Path)
    parser.add_argument("--gold")
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", default="-", metavar="PATH", help="where the JSON goes; - is standard output")
    asked = parser.parse_args()
    table = read_table(asked.table, gold=asked.gold, queries=asked.queries)
    text = json.dumps({"table": asked.table.stem, "us": steps(table), "tuning": tuning(table, asked.seeds)}, indent=1)
    if asked.json == "-":
        sys.stdout.write(text + "\n")
    else:
        Path(asked.json).write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
