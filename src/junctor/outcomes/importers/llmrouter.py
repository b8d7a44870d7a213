"""LLMRouter (ulab-uiuc): routing data, one JSON line per query and model.

Verified in ulab-uiuc/LLMRouter: `llmrouter/data/README.md` (task_name, query, ground_truth, metric, choices, model_name,
input_tokens, output_tokens, response_time in seconds, performance in [0, 1]; a query is the same when task_name, query,
ground_truth and metric are; files *routing_train_data.jsonl and *routing_test_data.jsonl; candidates in default_llm.json with
feature, model, input_price and output_price in USD per million tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from junctor.errors import TableError
from junctor.outcomes.collecting import Collector
from junctor.outcomes.columns import Options
from junctor.outcomes.files import check_exists, first_line, load_lines
from junctor.outcomes.table import OutcomeTable
from junctor.types import Catalogue, Price, Target

IDENTITY = ("task_name", "query", "ground_truth", "metric")


def read(path: Path, *, candidates: Path | str | None = None, clip: bool = False) -> OutcomeTable:
    """Read one JSONL file, or a folder with a *train*.jsonl and a *test*.jsonl, which become the split.

    `candidates` is their default_llm.json: descriptions and prices; costs are then tokens times price.
    """
    check_exists(path, folder=True)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise TableError("holds no JSONL files", field=str(path), fix="name the folder of the routing data")
    known = Catalogue([]) if candidates is None else _candidates(Path(candidates))
    collector = Collector(Options(str(path), clip=clip, drop_empty=True))
    ids: dict[tuple[Any, ...], str] = {}
    for file in files:
        split = next((name for name in ("train", "test") if name in file.stem), "") if path.is_dir() else ""
        for number, record in enumerate(load_lines(file), 1):
            _collect(collector, ids, known, record, split, f"{file}: record {number}")
    return collector.table("task_name", known)


def _collect(
    collector: Collector,
    ids: dict[tuple[Any, ...], str],
    known: Catalogue,
    record: Mapping[str, Any],
    split: str,
    where: str,
) -> None:
    query, model = record.get("query"), record.get("model_name")
    if not isinstance(query, str) or not isinstance(model, str):
        missing = "model_name" if isinstance(query, str) else "query"
        raise TableError(f"has no {missing}, so this is not routing data", field=where, fix="name a *routing_*_data.jsonl file")
    # The same query in train and in test is two rows, one on each side; split_table sees that they are one prompt.
    identity = (split, *(str(record.get(name)) for name in IDENTITY))
    id_ = ids.setdefault(identity, str(len(ids)))
    row = collector.query(id_, query, {"task_name": str(record.get("task_name") or "")}, split)
    tokens = (record.get("input_tokens"), record.get("output_tokens"))
    collector.outcome(
        row,
        model,
        where,
        quality=record.get("performance"),
        cost_usd=_cost(known.get(model), *tokens),
        latency_s=record.get("response_time"),
        input_tokens=tokens[0],
        output_tokens=tokens[1],
    )


def _cost(target: Target | None, input_tokens: Any, output_tokens: Any) -> float | None:
    priced = target is not None and target.price is not None
    if not priced or not isinstance(input_tokens, int | float) or not isinstance(output_tokens, int | float):
        return None
    assert target is not None
    assert target.price is not None
    return target.price.cost_usd(input_tokens, output_tokens)


def _candidates(path: Path) -> Catalogue:
    check_exists(path)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TableError(
            f"lists no candidates: {first_line(error)}", field=str(path), fix="name their default_llm.json"
        ) from error
    return Catalogue([_target(id_, about, path) for id_, about in found.items()])


def _target(id_: str, about: Mapping[str, Any], path: Path) -> Target:
    prices = (about.get("input_price"), about.get("output_price"))
    for price in prices:
        if price is not None and not isinstance(price, int | float):
            raise TableError("a price is not a number", field=f"{path}: {id_}", fix="USD per million tokens, or null")
    known = prices[0] is not None and prices[1] is not None
    return Target(
        id=id_,
        description=str(about.get("feature") or ""),
        model=str(about.get("model") or ""),
        price=Price(input_usd_per_mtok=float(prices[0] or 0), output_usd_per_mtok=float(prices[1] or 0)) if known else None,
    )
