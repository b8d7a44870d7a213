"""Sets that are recorded as one wide table: a row per query, a column `score:TARGET` per model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from junctor.outcomes import OutcomeTable
from junctor.outcomes.files import load_frame
from junctor.outcomes.reading import read_table
from junctor.outcomes.targets import load_targets
from junctor.types import Catalogue, Target

MICRO = 1e-6


def own(folder: Path) -> OutcomeTable:
    """A table of the user's: `folder` is the file itself."""
    return read_table(folder)


def routerdc_en(folder: Path) -> OutcomeTable:
    """RouterDC's English sets; test rows that repeat training prompts leave when the table is split."""
    return read_table(folder / "routerdc/routerdc_7models_en.parquet")


def routerdc_zh(folder: Path) -> OutcomeTable:
    """RouterDC's Chinese sets (CMMLU, and C-Eval out of distribution)."""
    return read_table(folder / "routerdc/routerdc_7models_zh_nc.parquet")


def routerbench(folder: Path) -> OutcomeTable:
    """Three of RouterBench's tasks; the text is the question alone, not the constant examples before it."""
    path = folder / "routerbench_subset/routerbench_arc_mbpp_winogrande.parquet"
    torn = load_frame(path)["broken_pair"].to_numpy()
    return _without(read_table(path, text="query", label="eval_name"), torn, "rows of queries that were recorded torn in two")


def routellm_mmlu(folder: Path) -> OutcomeTable:
    """MMLU with GPT-4 and Mixtral, grouped by subject; the paper's decontamination."""
    return _routellm(folder, "mmlu")


def routellm_gsm8k(folder: Path) -> OutcomeTable:
    """GSM8K with GPT-4 and Mixtral; one dataset, so no labels."""
    table = _routellm(folder, "gsm8k")
    return replace(table, labels={}, label_name="")


def _routellm(folder: Path, benchmark: str) -> OutcomeTable:
    path = folder / "routellm/routellm_mmlu_gsm8k.parquet"
    frame = load_frame(path)
    table = read_table(path, text="prompt", label="domain")
    mine = frame["benchmark"].to_numpy() == benchmark
    dirty = frame["contaminated"].to_numpy()[mine]
    return _without(table.take(mine), dirty, "rows that the paper calls contaminated")


def selfoss(folder: Path) -> OutcomeTable:
    """Lookahead's code questions: share of unit tests passed. The authors' evaluation ids are the test side.

    Their cluster numbers are not labels that anybody would have: they are left out.
    """
    path = folder / "lookahead/train_selfoss_code.parquet"
    side = load_frame(path)["split"].to_list()
    table = read_table(path, text="prompt")
    return replace(table, labels={}, label_name="", split=["test" if name == "eval" else name for name in side])


def llmrouter(folder: Path) -> OutcomeTable:
    """LLMRouter's example data with its descriptions of models and their list prices; no cost per query is recorded."""
    path = folder / "llmrouter_ulab/llmrouter_13tasks_9models.parquet"
    frame = load_frame(path)
    table = read_table(path, text="query", label="task_name")
    both = frame["in_both_splits"].to_numpy().astype(bool) & (frame["split"].to_numpy() == "test")
    known = load_targets(folder / "llmrouter_ulab/models.parquet")
    described = [known.get(target.id) or target for target in table.targets]
    return _without(replace(table, targets=Catalogue(described)), both, "test rows that are training rows too")


def llmrouter_nq(folder: Path) -> OutcomeTable:
    """An early test file of LLMRouter. Its costs have no stated unit: they look like tokens x USD per million."""
    path = folder / "llmrouter_ulab/nq_6models_history.parquet"
    frame = load_frame(path)
    ids = [name.removeprefix("score:") for name in frame.columns if name.startswith("score:")]
    cost = frame.select([f"cost:{id_}" for id_ in ids]).to_numpy().astype(np.float64) * MICRO
    return OutcomeTable(
        texts=frame["query"].to_list(),
        targets=Catalogue([Target(id=id_) for id_ in ids]),
        quality=frame.select([f"score:{id_}" for id_ in ids]).to_numpy().astype(np.float64),
        cost_usd=cost,
        ids=tuple(str(i) for i in frame["q_id"].to_list()),
        source=path.name,
        notes=("costs are taken to be in 1e-6 USD: their unit is not stated",),
    )


def routerarena(folder: Path) -> OutcomeTable:
    """RouterArena's public tenth; one METEOR score is a little below 0 and is moved there."""
    path = folder / "routerarena_sub10/routerarena_sub10_2models.parquet"
    return read_table(path, text="question", label="dataset_group", clip=True)


def _without(table: OutcomeTable, rows: NDArray[Any], what: str) -> OutcomeTable:
    """The table without some rows, and a note that counts them."""
    gone = np.asarray(rows).astype(bool)
    kept = table.take(~gone)
    return replace(kept, notes=(*table.notes, f"{int(gone.sum())} {what} are left out")) if gone.any() else kept
