"""The Berkeley Function-Calling Leaderboard v1 of 2024-08-11: 1,700 questions x 71 models, with tokens, latency and prices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from junctor.outcomes import OutcomeTable
from junctor.outcomes.files import load_frame
from junctor.types import Catalogue, Price, Target

Array = NDArray[np.float64]
OTHERS = "the median of what the other models were sent with the same question"


def everyone(folder: Path) -> OutcomeTable:
    """All 71 models, without costs: 22 of them have no price."""
    return replace(_read(folder), cost_usd=None, input_tokens=None, output_tokens=None)


def priced(folder: Path) -> OutcomeTable:
    """The 49 models with a list price.

    Google counts input tokens by another rule (about a third of the others'), so that its costs are not comparable: its input
    is counted as the median of what the other models were sent with the same question. Calls with no recorded token at all have
    no known cost.
    """
    table = _read(folder)
    assert table.cost_usd is not None
    known = [
        t.id
        for t in table.targets
        if t.price is not None and not np.isnan(table.cost_usd[:, table.targets.ids.index(t.id)]).all()
    ]
    table = table.only(known)
    return _comparable(table)


def _read(folder: Path) -> OutcomeTable:
    home = folder / "bfcl_v1_outcomes"
    queries, outcomes, models = (load_frame(home / f"{name}.parquet") for name in ("queries", "outcomes", "models"))
    targets = Catalogue([_target(row) for row in models.sort("model").iter_rows(named=True)])
    return OutcomeTable(
        texts=queries["question"].to_list(),
        targets=targets,
        quality=_wide(queries, outcomes, targets, "score"),
        cost_usd=_wide(queries, outcomes, targets, "cost_usd"),
        latency_s=_wide(queries, outcomes, targets, "latency_s"),
        input_tokens=_wide(queries, outcomes, targets, "input_tokens"),
        output_tokens=_wide(queries, outcomes, targets, "output_tokens"),
        labels={"category": queries["category"].to_list()},
        label_name="category",
        ids=tuple(queries["id"].to_list()),
        source="bfcl_v1_outcomes",
    )


def _target(row: dict[str, object]) -> Target:
    dear, dearer = row["usd_per_million_input_tokens"], row["usd_per_million_output_tokens"]
    price = None
    if isinstance(dear, float) and isinstance(dearer, float):
        price = Price(input_usd_per_mtok=dear, output_usd_per_mtok=dearer)
    return Target(id=str(row["model"]), price=price)


def _wide(queries: pl.DataFrame, outcomes: pl.DataFrame, targets: Catalogue, column: str) -> Array:
    """[N, M] of one column of the long table, in the order of the queries and targets."""
    wide = outcomes.select("id", "model", pl.col(column).cast(pl.Float64)).pivot(on="model", index="id", values=column)
    ordered = queries.select("id").join(wide, on="id", how="left", maintain_order="left")
    return ordered.select(list(targets.ids)).cast(pl.Float64).to_numpy().astype(np.float64)


def _comparable(table: OutcomeTable) -> OutcomeTable:
    cost, sent, written = table.cost_usd, table.input_tokens, table.output_tokens
    assert cost is not None
    assert sent is not None
    assert written is not None
    nothing = (sent + written) == 0
    cost = np.where(nothing, np.nan, cost)
    google = np.array(["gemini" in id_.lower() for id_ in table.targets.ids])
    usual = np.nanmedian(np.where(nothing, np.nan, sent)[:, ~google], axis=1)
    for place in np.flatnonzero(google).tolist():
        price = table.targets[place].price
        anew = (usual * price.input_usd_per_mtok + written[:, place] * price.output_usd_per_mtok) / 1e6
        cost[:, place] = np.where(np.isnan(cost[:, place]), np.nan, anew)
    return replace(
        table,
        cost_usd=cost,
        notes=(
            *table.notes,
            f"{int(nothing.sum())} calls without a recorded token have no cost here",
            f"Google counts about a third of the others' input: {int(google.sum())} Gemini models are billed for {OTHERS}",
        ),
    )
