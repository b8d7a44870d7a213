"""Importers: one module per public format, loaded when it is asked for. `import_outcomes` is the door."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from junctor.errors import UnknownName, UserError
from junctor.outcomes.files import near
from junctor.outcomes.table import OutcomeTable


@dataclass(frozen=True, slots=True)
class Format:
    """One format: what its published files are, in a line, and whether some of them are pickles."""

    summary: str
    pickled: bool = False


FORMATS = {
    "embedllm": Format("EmbedLLM: train.csv, val.csv, test.csv, one row per prompt and model"),
    "journal": Format("junctor's own gateway journal"),
    "llmrouter": Format("LLMRouter (ulab): routing data, one JSON line per query and model"),
    "llmrouterbench": Format("LLMRouterBench: a folder of JSON results per dataset and model"),
    "routerarena": Format("RouterArena: cached_results, one JSONL file per model"),
    "routerbench": Format("RouterBench: routerbench_0shot.pkl, or the same columns as Parquet or CSV", pickled=True),
    "routereval": Format("RouterEval: DATASET_router_dataset.pkl, or the same keys as JSON", pickled=True),
    "sprout": Format("SPROUT (CARROT): Parquet with one struct column per model"),
}


def import_outcomes(name: str, path: Path | str, *, trust_pickle: bool = False, **options: Any) -> OutcomeTable:
    """Read a file (or folder) of a public format. `options` are those of its module's `read`.

    Pickles run code when opened: they are refused unless `trust_pickle`. Raises UnknownName for a format that is none of
    FORMATS, TableError for a file that is not of that format, MissingExtra when a package is missing.
    """
    if name not in FORMATS:
        raise UnknownName(f"no format is called {name!r}", field="format", fix=near(name, list(FORMATS)))
    read = importlib.import_module(f"{__name__}.{name}").read
    if FORMATS[name].pickled:
        options["trust_pickle"] = trust_pickle
    known = list(inspect.signature(read).parameters)[1:]
    for option in options:
        if option not in known:
            fix = near(option, known) if known else "it has none"
            raise UserError("this format has no such option", field=f"{name}.{option}", fix=fix)
    table: OutcomeTable = read(Path(path), **options)
    return table
