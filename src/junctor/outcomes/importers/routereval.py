"""RouterEval (Huang et al. 2025): pools of open models, scores per prompt, split 8:1:1 by the authors.

Verified in MilkThink-Lab/RouterEval: `get_router_dataset.py` (keys easy/hard -> pool size -> all_strong, all_weak or
strong_to_weak -> data and model; `data` holds train_score, val_score, test_score as [prompts, models]; `prompt` holds
train_prompt, val_prompt, test_prompt) and `test_router.py` (file name DATASET_router_dataset.pkl). From a third party
(fidd1er5381/RouterEval), not verified here: the same with one pool, `model` and `data` at the top. No cost is recorded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from junctor.errors import TableError
from junctor.outcomes.checking import catalogue, check_values, finish
from junctor.outcomes.columns import Options
from junctor.outcomes.files import check_exists, first_line, near
from junctor.outcomes.importers.pickles import demand_trust, is_pickle, load_arrays
from junctor.outcomes.table import Array, OutcomeTable

PARTS = {"train": "train", "val": "validation", "test": "test"}
SUFFIX = "_router_dataset"


def read(
    path: Path, *, trust_pickle: bool = False, level: str = "easy", size: int | None = None, group: str = "strong_to_weak"
) -> OutcomeTable:
    """Read one pool of a dataset: `level` easy or hard, `size` of the pool (default: the largest of its level), `group`.

    The pickle is opened only when trusted, and even then only plain data and numpy arrays in it. A JSON file with the same keys
    needs no trust.
    """
    options = Options(str(path))
    if is_pickle(path):
        demand_trust(path, trust_pickle)
        data = load_arrays(path)
    else:
        check_exists(path)
        try:
            data = msgspec.json.decode(path.read_bytes())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TableError(f"is not JSON: {first_line(error)}", field=str(path), fix="name a .pkl or .json file") from error
    pool = _pool(data, level, size, group, options)
    models = [str(model) for model in _key(pool, "model", options)]
    prompts, scores = _key(data, "prompt", options), _key(pool, "data", options)
    texts: list[str] = []
    split: list[str] = []
    found: list[Array] = []
    for part, name in PARTS.items():
        rows = [str(text) for text in _key(prompts, f"{part}_prompt", options)]
        found.append(_scores(_key(scores, f"{part}_score", options), (len(rows), len(models)), f"{part}_score", options))
        texts += rows
        split += [name] * len(rows)
    quality = np.concatenate(found)
    for place, model in enumerate(models):
        check_values(quality[:, place], "quality", options.at(model), options)
    dataset = path.stem.removesuffix(SUFFIX)
    labels = {"dataset": [dataset] * len(texts)}
    table = OutcomeTable(texts, catalogue(models), quality, labels=labels, label_name="dataset", split=split)
    return finish(table, options)


def _key(data: Any, name: str, options: Options) -> Any:
    if not isinstance(data, dict) or name not in data:
        raise TableError(
            f"has no {name!r}, so this is not RouterEval", field=options.where, fix="name a DATASET_router_dataset.pkl"
        )
    return data[name]


def _pool(data: Any, level: str, size: int | None, group: str, options: Options) -> Any:
    if isinstance(data, dict) and "model" in data:
        return data
    sizes = _choice(data, level, options)
    if isinstance(sizes, dict):
        sizes = {str(key): pools for key, pools in sizes.items()}
    whole = [key for key in sizes if key.isdecimal()] if isinstance(sizes, dict) else []
    chosen = max(whole, key=int, default="") if size is None else str(size)
    return _choice(_choice(sizes, chosen, options), group, options)


def _choice(data: Any, name: str, options: Options) -> Any:
    """The entry of this name; raises TableError with the names that there are."""
    if not isinstance(data, dict):
        raise TableError("is not RouterEval", field=options.where, fix="name a DATASET_router_dataset.pkl")
    if name not in data:
        raise TableError(f"has no pool {name!r}", field=options.where, fix=near(name, [str(key) for key in data]))
    return data[name]


def _scores(found: Any, shape: tuple[int, int], name: str, options: Options) -> Array:
    try:
        scores = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TableError("is not a matrix of numbers", field=options.at(name), fix="download it anew") from error
    if scores.shape != shape:
        raise TableError(
            f"has shape {scores.shape}, not {shape}", field=options.at(name), fix="one row per prompt, one column a model"
        )
    return scores
