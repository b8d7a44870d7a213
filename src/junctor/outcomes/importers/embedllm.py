"""EmbedLLM (Zhuang et al. 2025): 0/1 correctness of 112 open models, one CSV row per prompt and model.

Verified in richardzhuang0412/EmbedLLM: `download_data.py` (train.csv, val.csv, test.csv), `algorithm/knn.py` (columns
`prompt_id`, `prompt`, `model_id`, `label`; a prompt that is there several times for a model counts as its best label). From
third-party notes, not verified here: `model_name`, `category`. Cells that were not recorded stay null (the authors count 0).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from junctor.errors import TableError
from junctor.outcomes.checking import finish
from junctor.outcomes.columns import Options, numbers, pick
from junctor.outcomes.files import check_exists, load_frame
from junctor.outcomes.forms import from_long
from junctor.outcomes.table import OutcomeTable

if TYPE_CHECKING:
    import polars as pl

FILES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}


def read(path: Path) -> OutcomeTable:
    """Read one CSV (or Parquet) file, or the folder that holds train.csv, val.csv and test.csv."""
    import polars as pl

    check_exists(path, folder=True)
    files: dict[str, Path] = {"": path}
    if path.is_dir():
        files = {split: path / name for split, name in FILES.items() if (path / name).exists()}
        if not files:
            raise TableError("holds none of the files", field=str(path), fix=", ".join(FILES.values()))
    frames = []
    for split, file in files.items():
        frame = _renamed(load_frame(file), Options(str(file)))
        frames.append(frame.with_columns(pl.lit(split).alias("split")) if split else frame)
    frame = pl.concat(frames, how="diagonal_relaxed")
    options = Options(str(path))
    return finish(from_long(frame, ("query_id", "target", "score"), None, options), options)


def _renamed(frame: pl.DataFrame, options: Options) -> pl.DataFrame:
    import polars as pl

    model = pick(frame, ("model_name", "model_id"))
    for needed in ("prompt_id", "prompt", "label"):
        if needed not in frame.columns:
            raise TableError("is not there, so this is not EmbedLLM", field=options.at(needed), fix="name the published CSV")
    if model is None:
        raise TableError("names no models", field=options.where, fix="models are in the column model_name")
    columns = {"query_id": "prompt_id", "target": model, "query": "prompt"}
    if "category" in frame.columns:
        columns["category"] = "category"
    labels = pl.Series("score", numbers(frame["label"], options)).fill_nan(None)
    renamed = frame.select(pl.col(old).alias(new) for new, old in columns.items()).with_columns(labels)
    if not renamed.select("query_id", "target").is_duplicated().any():
        return renamed
    best = [pl.col(name).first() for name in renamed.columns if name not in ("query_id", "target", "score")]
    return renamed.group_by("query_id", "target", maintain_order=True).agg(*best, pl.col("score").max())
