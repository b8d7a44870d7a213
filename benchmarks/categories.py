"""How cheaply can a choice by text alone equal the best single model on BFCL? Figures of docs/results.md, as JSON.

    python benchmarks/categories.py FOLDER_OF_RECORDED_DATA [--splits 10] [--json -]

`recognised`: share of questions whose category a logistic regression names, by what it looks at, 5-fold. `cost`: the least cost
that equals the best single model on the test rows, over that model's cost, median over splits 45/15/40; above 1 or null: never.
The row "predicted, means of all rows" takes categories predicted from text and each category's true means, test rows included:
nobody can know more than that of a category.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from junctor.bench.metrics import cost_at_equal_quality
from junctor.bench.sets import PUBLISHED
from junctor.encoders import load_encoder
from junctor.encoders.cache import EmbeddingCache
from junctor.estimators.measured import means
from junctor.estimators.stack import LabelledStackConfig, StackConfig
from junctor.estimators.text_statistics import many
from junctor.outcomes import OutcomeTable
from junctor.outcomes.splitting import split_table

Array = NDArray[np.float64]
TRADES = (0.0, *np.geomspace(1e-3, 1e3, 60).tolist(), 1e9)
SHRINKAGE = 5.0


def views(table: OutcomeTable) -> dict[str, Array]:
    """What a recogniser may look at [N, D], by name."""
    numbers = many(table.texts)
    numbers = 0.5 * (numbers - numbers.mean(axis=0)) / np.maximum(numbers.std(axis=0), 1e-9)
    by = {name: 5.0 * EmbeddingCache(load_encoder(name)).encode(table.texts) for name in ("static", "minilm", "lexical")}
    return {
        "static": by["static"],
        "minilm": by["minilm"],
        "static + statistics": np.hstack([by["static"], numbers]),
        "static + minilm + statistics": np.hstack([by["static"], by["minilm"], numbers]),
        "static + n-grams + statistics": np.hstack([by["static"], by["lexical"], numbers]),
    }


def recogniser() -> Any:
    """Logistic regression, rather smooth: stronger fits have a larger log loss here."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=0.3, max_iter=300, tol=1e-3)


def recognised(table: OutcomeTable) -> dict[str, float]:
    """Accuracy per view."""
    from sklearn.model_selection import cross_val_score

    labels = np.array(table.label)
    return {name: round(float(cross_val_score(recogniser(), x, labels, cv=5).mean()), 3) for name, x in views(table).items()}


def share(quality: Array, cost: Array, test: OutcomeTable, best: int, scale: float) -> float:
    """Least cost on the hull of the sweep that equals the best single target, over that target's cost."""
    assert test.cost_usd is not None
    rows = np.arange(len(test))
    chosen = [(quality - trade * cost / scale).argmax(axis=1) for trade in TRADES]
    spent = np.array([np.nanmean(test.cost_usd[rows, c]) for c in chosen])
    reached = np.array([np.nanmean(test.quality[rows, c]) for c in chosen])
    wanted = np.array([np.nanmean(test.quality[:, best])])
    found = cost_at_equal_quality(spent[None], reached[None], wanted)[0] / np.nanmean(test.cost_usd[:, best])
    return float(found) if np.isfinite(found) else float("inf")


def tabled(values: Array, places: NDArray[np.intp], count: int, shrinkage: float) -> Array:
    """Means per category [G, M], drawn to the overall ones."""
    overall = means(values)
    groups = [values[places == group] for group in range(count)]
    return np.stack([(np.nansum(g, axis=0) + shrinkage * overall) / (len(g) + shrinkage) for g in groups])


def split_shares(table: OutcomeTable, view: Array, seed: int) -> dict[str, float]:
    """Every way of choosing, on one split."""
    assert table.cost_usd is not None
    parts = split_table(table, split="45/15/40", seed=seed)
    known, test = np.sort(np.concatenate([parts.train, parts.validation])), table.take(parts.test)
    names, places = np.unique(np.array(table.label), return_inverse=True)
    fitted = table.take(known)
    best, scale = int(means(fitted.quality).argmax()), float(np.nanmax(means(table.cost_usd[known])))
    predicted = recogniser().fit(view[known], places[known]).predict_proba(view[parts.test])
    told = np.eye(len(names))[places[parts.test]]
    found = {}
    for title, rows, membership in (
        ("known categories", known, told),
        ("predicted categories", known, predicted),
        ("predicted, means of all rows", np.arange(len(table)), predicted),
    ):
        quality = tabled(table.quality[rows], places[rows], len(names), SHRINKAGE if len(rows) < len(table) else 1.0)
        cost = tabled(table.cost_usd[rows], places[rows], len(names), 1.0)
        found[title] = share(membership @ quality, membership @ cost, test, best, scale)
    features = table.features(EmbeddingCache(load_encoder("static")).encode(table.texts))
    for config in (StackConfig(), LabelledStackConfig()):
        made = config.fit(fitted, features.take(known), np.random.default_rng(seed)).predict_many(features.take(parts.test))
        assert made.cost_usd is not None
        found[config.name] = share(made.quality, made.cost_usd, test, best, scale)
    return found


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="the folder of recorded data")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--json", default="-", metavar="PATH", help="where the JSON goes; - is standard output")
    asked = parser.parse_args()
    table = next(one for one in PUBLISHED if one.name == "bfcl-priced").load(asked.folder)
    view = views(table)["static + statistics"]
    shares = [split_shares(table, view, seed) for seed in range(asked.splits)]
    costs = {name: round(float(np.median([each[name] for each in shares])), 3) for name in shares[0]}
    found = {"recognised": recognised(table), "cost": {k: v if np.isfinite(v) else None for k, v in costs.items()}}
    text = json.dumps(found, indent=1)
    if asked.json == "-":
        sys.stdout.write(text + "\n")
    else:
        Path(asked.json).write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
