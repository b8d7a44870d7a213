"""Sets whose outcomes are a judge's verdicts or bare numbers: MT-Bench, Lookahead, WildBench, Open LLM Leaderboard v2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from junctor.outcomes import OutcomeTable
from junctor.outcomes.files import load_frame
from junctor.types import Catalogue

Array = NDArray[np.float64]
TEN = 10.0
UNPARSED = "judgements that could not be parsed are not recorded outcomes"
CHEAP_JUDGE, OTHER_JUDGE = "gpt-4-turbo-2024-04-09", "gpt-4o"


def mt_bench(folder: Path) -> OutcomeTable:
    """80 questions x 4 systems: the mean of both turns' verdicts, 1 to 10, over 10."""
    questions = load_frame(folder / "routellm/mt_bench_questions.parquet").sort("question_id")
    verdicts = load_frame(folder / "routellm/mt_bench_judgements.parquet").filter(pl.col("score") > 0)
    clean = questions.filter(~pl.col("contaminated"))
    dirty = questions.height - clean.height
    quality, models = _wide(clean["question_id"].to_list(), verdicts, "question_id", "model")
    return OutcomeTable(
        texts=[f"{one}\n{two}" for one, two in zip(clean["turn1"].to_list(), clean["turn2"].to_list(), strict=True)],
        targets=Catalogue.of(models),
        quality=quality / TEN,
        labels={"category": clean["category"].to_list()},
        label_name="category",
        ids=tuple(str(i) for i in clean["question_id"].to_list()),
        source="mt_bench",
        notes=(f"{dirty} questions that RouteLLM's paper calls contaminated are left out", UNPARSED),
    )


def lookahead(folder: Path) -> OutcomeTable:
    """The five models that answered all seven benchmarks; verdicts of 1 to 10 over 10, both turns together.

    ArenaHard's outcome is against a baseline (a tie is 0.5) and AlpacaEval's is a win probability, as in the paper's table.
    """
    queries = load_frame(folder / "lookahead/test_queries.parquet")
    outcomes = load_frame(folder / "lookahead/test_outcomes.parquet")
    key = pl.concat_str("benchmark", "qid", separator="/").alias("id")
    judged = outcomes.group_by("model", "benchmark").agg(pl.col("score").max())
    everywhere = judged.group_by("model").len().filter(pl.col("len") == judged["benchmark"].n_unique())["model"].to_list()
    tens = judged.filter(pl.col("score") > 1)["benchmark"].unique().to_list()
    scaled = pl.when(pl.col("benchmark").is_in(tens)).then(pl.col("score") / TEN).otherwise(pl.col("score"))
    long = outcomes.filter(pl.col("model").is_in(everywhere)).select("model", key, scaled.alias("score"))
    ids = queries.select(key)["id"].to_list()
    quality, models = _wide(ids, long.drop_nulls("score"), "id", "model")
    return OutcomeTable(
        texts=queries["query"].to_list(),
        targets=Catalogue.of(models),
        quality=quality,
        labels={"benchmark": queries["benchmark"].to_list()},
        label_name="benchmark",
        ids=tuple(ids),
        source="lookahead",
        notes=(UNPARSED,),
    )


def open_llm_v2(folder: Path) -> OutcomeTable:
    """CARROT's matrix without SOLAR, which has no MMLU-Pro rows. No texts: the task is all that is known of a query."""
    frame = load_frame(folder / "carrot_openllm_v2_numeric/correctness.parquet")
    columns = [name for name in frame.columns if name.startswith("score:")]
    whole = [name for name in columns if frame[name].null_count() == 0]
    left = ", ".join(name.removeprefix("score:") for name in columns if name not in whole)
    task, row = frame["task"].to_list(), frame["row"].to_list()
    return OutcomeTable(
        texts=[""] * frame.height,
        targets=Catalogue.of([name.removeprefix("score:") for name in whole]),
        quality=frame.select(whole).to_numpy().astype(np.float64),
        labels={"task": task, "group": frame["group"].to_list()},
        label_name="task",
        ids=tuple(f"{t}/{r}" for t, r in zip(task, row, strict=True)),
        source="open_llm_v2",
        notes=(f"left out, because it was not run on all tasks: {left}",) if left else (),
    )


def wildbench(folder: Path) -> OutcomeTable:
    """1,024 sessions x 12 models by one judge, 1 to 10 over 10; a note says what the second judge makes of its choices."""
    frame = load_frame(folder / "wildbench_numeric/wildbench_v2_0522_scores.parquet")
    first = frame.filter(pl.col("judge") == CHEAP_JUDGE)
    ids = sorted(set(first["session_id"].to_list()))
    quality, models = _wide(ids, first, "session_id", "model")
    second = frame.filter(pl.col("judge") != CHEAP_JUDGE)
    return OutcomeTable(
        texts=[""] * len(ids),
        targets=Catalogue.of(models),
        quality=quality / TEN,
        ids=tuple(ids),
        source="wildbench",
        notes=("neither texts nor labels are published: nothing to choose by but the models' means", _noise(first, second)),
    )


def _noise(first: pl.DataFrame, second: pl.DataFrame) -> str:
    """How much of the per-session oracle's gain by one judge is left when another judge scores the same answers."""
    shared = sorted(set(first["model"].to_list()) & set(second["model"].to_list()))
    ids = sorted(set(first["session_id"].to_list()) & set(second["session_id"].to_list()))
    ours, names = _wide(ids, first.filter(pl.col("model").is_in(shared)), "session_id", "model")
    theirs, _ = _wide(ids, second.filter(pl.col("model").is_in(shared)), "session_id", "model")
    rows = ~(np.isnan(ours) | np.isnan(theirs)).any(axis=1)
    ours, theirs = ours[rows] / TEN, theirs[rows] / TEN
    best, choice, every = int(ours.mean(axis=0).argmax()), ours.argmax(axis=1), np.arange(len(ours))
    gain, left = ours.max(axis=1).mean() - ours[:, best].mean(), theirs[every, choice].mean() - theirs[:, best].mean()
    return (
        f"judges are noisy: over {len(names)} models, the per-session oracle by {CHEAP_JUDGE} gains {gain:.3f} over the best "
        f"single model by that judge, and {left:+.3f} when {OTHER_JUDGE} scores the same answers"
    )


def _wide(ids: list[str] | list[int], long: pl.DataFrame, key: str, column: str) -> tuple[Array, list[str]]:
    """[N, M] means of `score` in the order of the ids, NaN where there is none, and the M names."""
    models = sorted(set(long[column].to_list()))
    rows, columns = {id_: i for i, id_ in enumerate(ids)}, {name: i for i, name in enumerate(models)}
    total, times = np.zeros((len(ids), len(models))), np.zeros((len(ids), len(models)))
    for id_, name, score in long.select(key, column, "score").iter_rows():
        if id_ in rows:
            total[rows[id_], columns[name]] += score
            times[rows[id_], columns[name]] += 1
    return np.divide(total, times, out=np.full(total.shape, np.nan), where=times > 0), models
