"""How good the encoders are, and how fast: the test-row table and the times of docs/encoders.md, as JSON.

    python benchmarks/encoders.py FOLDER [--encoders static,lexical,minilm] [--json -]

FOLDER holds the recorded data: hwu64, clinc150, azure_mcp_tools, routerbench_subset. Times are of one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from junctor.encoders import load_encoder
from junctor.encoders.base import Encoder
from junctor.encoders.cache import EmbeddingCache
from junctor.fitting import fit_policy, policy_config, validation_score
from junctor.outcomes.reading import read_table
from junctor.outcomes.splitting import split_table

Vectors = NDArray[np.float32]
Labels = NDArray[Any]
NEIGHBOURS = 10
WARM_UP = 100


def neighbours_accuracy(train: Vectors, labels: Labels, test: Vectors, truth: Labels) -> float:
    """Share of test rows whose label wins among the 10 nearest training rows, weighted by cosine."""
    near = test @ train.T
    nearest = np.argpartition(-near, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    names, codes = np.unique(labels, return_inverse=True)
    votes = np.zeros((len(test), len(names)))
    rows = np.arange(len(test))
    for column in nearest.T:
        np.add.at(votes, (rows, codes[column]), near[rows, column])
    return float((names[votes.argmax(axis=1)] == truth).mean())


def ridge_accuracy(train: Vectors, labels: Labels, test: Vectors, truth: Labels) -> float:
    """The same of a ridge classifier, α = 1."""
    from sklearn.linear_model import RidgeClassifier

    return float((RidgeClassifier(alpha=1.0).fit(train, labels).predict(test) == truth).mean())


def intents(encoder: Encoder, rows: list[tuple[str, str, str]]) -> dict[str, float]:
    """Accuracy over intents from (split, text, intent) rows."""
    sides = {}
    for side in ("train", "test"):
        found = [(text, intent) for split, text, intent in rows if split == side]
        vectors = EmbeddingCache(encoder).encode([text for text, _ in found])
        sides[side] = vectors, np.array([intent for _, intent in found])
    both = (*sides["train"], *sides["test"])
    return {"knn": neighbours_accuracy(*both), "ridge": ridge_accuracy(*both)}


def tools(encoder: Encoder, folder: Path) -> float:
    """hit@1 of "command. description" against the prompt, for the prompts of the test half of the tools."""
    catalogue = [json.loads(line) for line in (folder / "tools.jsonl").read_text("utf-8").splitlines()]
    asked = [json.loads(line) for line in (folder / "prompts.jsonl").read_text("utf-8").splitlines()]
    asked = [one for one in asked if one["in_catalogue"] and _half(one["gold"])]
    described = EmbeddingCache(encoder).encode([f"{tool['command']}. {tool['description']}" for tool in catalogue])
    best = (EmbeddingCache(encoder).encode([one["prompt"] for one in asked]) @ described.T).argmax(axis=1)
    return float(np.mean([catalogue[i]["tool_id"] == one["gold"] for i, one in zip(best, asked, strict=True)]))


def _half(tool: str) -> bool:
    return int(hashlib.sha256(tool.encode()).hexdigest(), 16) % 2 == 1


def routing(encoder: Encoder, path: Path) -> dict[str, float]:
    """AIQ on the test rows, fitted on all training rows: kNN with k = 200, ridge with α = 30."""
    table = read_table(path)
    split = split_table(table, seed=0)
    features = table.features(EmbeddingCache(encoder).encode(table.texts))
    rows = np.sort(np.concatenate([split.train, split.validation]))
    out = {}
    for name, settings in (("knn", {"k": 200}), ("linear", {"alpha": 30.0, "loss": "squared"})):
        made = fit_policy(policy_config(name, settings), table, features, rows, [], np.random.default_rng(0))
        out[name] = validation_score(made.policy, table.take(split.test), features.take(split.test), np.random.default_rng(0))
    return out


def times(encoder: Encoder, texts: list[str]) -> dict[str, float]:
    """µs per text, one by one, after a warm-up on the first texts."""
    taken = []
    with threadpool_limits(1):
        for text in texts:
            started = time.perf_counter_ns()
            encoder.encode_one(text)
            taken.append((time.perf_counter_ns() - started) / 1e3)
    p50, p99 = np.percentile(taken[WARM_UP:], [50, 99])
    return {"p50_us": float(p50), "p99_us": float(p99), "words": float(np.mean([len(text.split()) for text in texts]))}


def measure(name: str, data: Path) -> dict[str, Any]:
    """One encoder's row."""
    import polars as pl

    encoder = load_encoder(name)
    hwu = pl.read_csv(data / "hwu64" / "hwu64_fold1.csv").select("split", "text", "intent").rows()
    clinc = pl.read_parquet(data / "clinc150" / "clinc150_full.parquet").filter(~pl.col("is_oos").cast(pl.Boolean))
    prompts = data / "routerbench_subset" / "routerbench_arc_mbpp_winogrande.parquet"
    return {
        "hwu64": intents(encoder, hwu),
        "clinc150": intents(encoder, clinc.select("split", "text", "intent").rows()),
        "tools_hit_at_1": tools(encoder, data / "azure_mcp_tools"),
        "routerbench_aiq": routing(encoder, prompts),
        "time_hwu64": times(encoder, [text for split, text, _ in hwu if split == "test"][:400]),
        "time_routerbench": times(encoder, list(read_table(prompts).texts[-400:])),
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path, help="folder of the recorded data")
    parser.add_argument("--encoders", default="static,lexical", help="comma-separated; minilm takes minutes the first time")
    parser.add_argument("--json", default="-", metavar="PATH", help="where the JSON goes; - is standard output")
    asked = parser.parse_args()
    text = json.dumps({name: measure(name, asked.data) for name in asked.encoders.split(",")}, indent=1)
    if asked.json == "-":
        sys.stdout.write(text + "\n")
    else:
        Path(asked.json).write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
