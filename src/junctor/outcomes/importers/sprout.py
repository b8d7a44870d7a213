"""SPROUT (CARROT, Somerstep et al. 2025): one row per prompt, one struct column per model.

Verified in somerstep/CARROT: `carrot/gen_sprout.py` (columns `prompt` and one per model, whose cells hold `score`,
`num_input_tokens`, `num_output_tokens`; splits train, validation, test). From third-party notes, not verified here: `key`,
`dataset`, files named `train-00000-of-00001.parquet` and so on, and a cell or its score may be null. No cost is recorded:
it is tokens times the prices that you give.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from junctor.errors import TableError
from junctor.outcomes.checking import finish
from junctor.outcomes.columns import Options, measured
from junctor.outcomes.files import check_exists, load_frame
from junctor.outcomes.forms import from_wide
from junctor.outcomes.table import OutcomeTable
from junctor.types import Catalogue, Price, Target

if TYPE_CHECKING:
    import polars as pl

FIELDS = {"score": "score", "num_input_tokens": "input_tokens", "num_output_tokens": "output_tokens"}
SPLITS = ("train", "validation", "test")


def read(path: Path, *, prices: Mapping[str, Price] | None = None, clip: bool = False) -> OutcomeTable:
    """Read one Parquet file, or a folder of files whose names begin with their split. `prices` gives costs per model."""
    import polars as pl

    check_exists(path, folder=True)
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise TableError("holds no Parquet files", field=str(path), fix="name the folder of train-*.parquet, test-*.parquet")
    options = Options(str(path), clip=clip, drop_empty=True)
    frames = [_renamed(load_frame(file), file, Options(str(file)), prices or {}) for file in files]
    frame = pl.concat(frames, how="diagonal_relaxed")
    known = Catalogue([Target(id=model, price=price) for model, price in (prices or {}).items()])
    return finish(from_wide(frame, measured(frame.columns, options), known, options), options)


def _renamed(frame: pl.DataFrame, file: Path, options: Options, prices: Mapping[str, Price]) -> pl.DataFrame:
    import polars as pl

    if "prompt" not in frame.columns:
        raise TableError(
            "is not there, so this is not SPROUT", field=options.at("prompt"), fix="name the published Parquet file"
        )
    columns = [frame["prompt"].alias("query")]
    columns += [frame[name].alias(new) for name, new in (("key", "query_id"), ("dataset", "dataset")) if name in frame.columns]
    split = next((name for name in SPLITS if file.name.startswith(name)), None)
    if split is not None:
        columns.append(pl.Series("split", [split] * frame.height))
    held = {name: {part.name for part in kind.fields} for name, kind in frame.schema.items() if isinstance(kind, pl.Struct)}
    models = [name for name, parts in held.items() if "score" in parts]
    if not models:
        raise TableError("names no models", field=options.where, fix="models are struct columns with a field `score`")
    for model in models:
        cells = {new: frame[model].struct.field(old) for old, new in FIELDS.items() if old in held[model]}
        columns += [column.alias(f"{new}:{model}") for new, column in cells.items()]
        if model in prices and {"input_tokens", "output_tokens"} <= set(cells):
            price = prices[model]
            tokens = cells["input_tokens"] * price.input_usd_per_mtok + cells["output_tokens"] * price.output_usd_per_mtok
            columns.append((tokens / 1e6 + price.usd_per_call).alias(f"cost_usd:{model}"))
    return pl.DataFrame(columns)
