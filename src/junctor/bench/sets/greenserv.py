"""GreenServ's bandit logs: 2,500 queries of five datasets x 16 models, ten runs, one model seen per query and run.

Five runs chose uniformly (propensity 1/16) and five by a non-contextual ε-greedy policy whose propensities were not recorded.
The reward mixes accuracy and energy half and half. It is a fact of the cell: a model tried twice on a query has one reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from junctor.outcomes import OutcomeTable
from junctor.outcomes.files import load_frame
from junctor.types import Catalogue, Target

Array = NDArray[np.float64]
UNIFORM = "random"


@dataclass(frozen=True)
class Runs:
    """The logs as they are: N decisions, in the order of runs and of steps.

    run, step, query, model   [N] numbers; models as in `models`, queries from 0
    uniform                   [N] whether the uniform policy chose
    reward, optimal           [N] of the choice, and of the best of all 16
    """

    models: tuple[str, ...]
    run: NDArray[np.intp]
    step: NDArray[np.intp]
    query: NDArray[np.intp]
    model: NDArray[np.intp]
    uniform: NDArray[np.bool_]
    reward: Array
    optimal: Array

    def regret(self, *, uniform: bool) -> Array:
        """Final cumulative regret against the per-query oracle, per run."""
        kept = self.uniform == uniform
        lost = np.bincount(self.run[kept], weights=(self.optimal - self.reward)[kept])
        return np.asarray(lost, dtype=np.float64)


def runs(folder: Path) -> Runs:
    """Read the logs."""
    logs = load_frame(folder / "greenserv_logs" / "x0_bandit_logs.parquet").sort("algorithm", "run_id", "query_index")
    models = tuple(sorted(logs["chosen_model"].unique().to_list()))
    place = {name: i for i, name in enumerate(models)}
    return Runs(
        models,
        _whole(logs, "run_id"),
        _whole(logs, "query_index"),
        _whole(logs, "query_id") - 1,
        np.array([place[name] for name in logs["chosen_model"].to_list()], dtype=np.intp),
        np.array([name == UNIFORM for name in logs["algorithm"].to_list()]),
        logs["actual_reward"].cast(pl.Float64).to_numpy(),
        logs["optimal_reward"].cast(pl.Float64).to_numpy(),
    )


def greenserv(folder: Path) -> OutcomeTable:
    """25,000 rows, one per logged decision: quality is the reward of the chosen model, all else is not recorded.

    The propensity is 1/16 where the uniform policy chose, and not recorded where the ε-greedy one did.
    """
    found = runs(folder)
    queries = load_frame(folder / "greenserv_logs" / "queries.parquet").sort("query_id")
    rows = np.arange(len(found.query))
    quality = np.full((len(rows), len(found.models)), np.nan)
    quality[rows, found.model] = np.clip(found.reward, 0.0, 1.0)
    propensity = np.full(quality.shape, np.nan)
    propensity[rows[found.uniform], found.model[found.uniform]] = 1.0 / len(found.models)
    dataset, text = queries["dataset"].to_list(), queries["query"].to_list()
    places: list[int] = found.query.tolist()
    return OutcomeTable(
        texts=[text[i] or f"Summarise the article number {i}." for i in places],
        targets=Catalogue([Target(id=name) for name in found.models]),
        quality=quality,
        labels={"dataset": [dataset[i] for i in places]},
        label_name="dataset",
        ids=tuple(
            f"{'uniform' if uniform else 'greedy'}-{run}-{query}"
            for uniform, run, query in zip(found.uniform.tolist(), found.run.tolist(), places, strict=True)
        ),
        propensity=propensity,
        source="greenserv_logs",
        notes=(
            "quality is the authors' reward: half accuracy, half energy",
            "the texts of the 500 articles are not in the file: a sentence of their own stands for each",
        ),
    )


def _whole(frame: pl.DataFrame, column: str) -> NDArray[np.intp]:
    return frame[column].cast(pl.Int64).to_numpy().astype(np.intp)
