"""RouterBench (Hu et al. 2024): one row per sample, per model a correctness, a cost in USD and a response.

Verified in withmartian/routerbench: `utils.py` (models are the columns before `|model_response`), `evaluate_routers.py`
(`sample_id`, `eval_name`, `prompt`, `MODEL`, `MODEL|total_cost`, `oracle_model_to_route_to`; .csv or pickled DataFrame).
From third-party notes, not verified here: a prompt may be a list of turns, or the text of such a list; turns are joined by line
breaks. The published file holds some queries that no model answered in full: those cells are null.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from junctor.errors import TableError
from junctor.outcomes.checking import finish
from junctor.outcomes.columns import Options, measured
from junctor.outcomes.files import load_frame, series_of
from junctor.outcomes.forms import from_wide
from junctor.outcomes.importers.pickles import demand_trust, is_pickle, load_dataframe
from junctor.outcomes.table import OutcomeTable

if TYPE_CHECKING:
    import polars as pl

COST = "|total_cost"
RESPONSE = "|model_response"


def read(path: Path, *, trust_pickle: bool = False, clip: bool = False) -> OutcomeTable:
    """Read the pickled DataFrame (pandas needed), or a Parquet or CSV file with the same columns."""
    options = Options(str(path), label="eval_name", clip=clip, drop_empty=True)
    if is_pickle(path):
        demand_trust(path, trust_pickle)
        frame = _from_pandas(load_dataframe(path), options)
    else:
        frame = load_frame(path)
    return finish(from_wide(renamed := _renamed(frame, options), measured(renamed.columns, options), None, options), options)


def _from_pandas(found: Any, options: Options) -> pl.DataFrame:
    import polars as pl

    columns = []
    for name in found.columns:
        if str(name).endswith(RESPONSE):  # long texts that nothing reads; the name still says which columns are models
            values: list[Any] = [None] * len(found)
        else:
            read = prompt_text if name == "prompt" else _plain
            values = [read(value) for value in found[name].tolist()]
        column = series_of(str(name), values)
        if column is not None:
            columns.append(column)
    if not columns:
        raise TableError("has no columns", field=options.where, fix="name the published file")
    return pl.DataFrame(columns)


def _plain(value: Any) -> Any:
    """A numpy scalar as its Python twin, NaN in a text column as nothing."""
    value = value.item() if hasattr(value, "item") and not isinstance(value, str) else value
    return None if isinstance(value, float) and value != value else value


def _renamed(frame: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The same rows with our column names."""
    import polars as pl

    names = frame.columns
    models = [n.removesuffix(RESPONSE).removesuffix(COST) for n in names if n.endswith((RESPONSE, COST))]
    models = [model for model in dict.fromkeys(models) if model in names]
    for needed in ("prompt", "eval_name"):
        if needed not in names:
            raise TableError(
                "is not there, so this is not RouterBench", field=options.at(needed), fix="name the published file"
            )
    if not models:
        fix = f"models are columns with a twin `MODEL{COST}`"
        raise TableError("names no models", field=options.where, fix=fix)
    columns = [pl.Series("query", [prompt_text(value) for value in frame["prompt"].to_list()]), frame["eval_name"]]
    if "sample_id" in names:
        columns.append(frame["sample_id"])
    for model in models:
        columns.append(frame[model].alias(f"score:{model}"))
        if model + COST in names:
            columns.append(frame[model + COST].alias(f"cost_usd:{model}"))
    return pl.DataFrame(columns)


def prompt_text(value: Any) -> str | None:
    """A prompt as one text: a list of turns, or the text of such a list, is joined by line breaks."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return str(value)
        if not (isinstance(value, list) and all(isinstance(turn, str) for turn in value)):
            return str(value)
    return "\n".join(map(str, value)) if isinstance(value, list) else value
