"""How often the semantic cache answers, and how often it should not have.

    python benchmarks/semantic_cache.py --json -

Recorded questions are asked of a cache that holds others. A hit is false when the two questions have another intent, another
set of intents, or other entities. Two sets are built to deceive: sentences of one template with other names, numbers and
addresses (presidio), and sentences that differ in one word and have another answer (winogrande); of these every hit but a
verbatim one is false.

The threshold of each agreement is the lowest of the grid whose false hits are at most 1 % of all hits on the validation sets,
and at most 0.1 % of the questions of each deceiving one; it is then applied, unchanged, to the held-out sets.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from junctor.caching.agreement import SIGNATURES
from junctor.caching.nearest import Vectors
from junctor.encoders import load_encoder

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
GRID = [round(x, 3) for x in np.arange(0.6, 0.991, 0.01).tolist()]
BOUND = 0.01
DECEIVED = 0.001
BLOCK = 500


class Asked(NamedTuple):
    """Texts and what makes two of them the same question."""

    texts: list[str]
    answers: list[str]


class Trial(NamedTuple):
    """What is kept, and what is asked; without questions every text is asked of all the others."""

    name: str
    part: str
    kept: Asked
    questions: Asked | None = None


def trials(data: Path) -> list[Trial]:
    """All sets: validation, held out, and those that are built to deceive, half of each."""
    out: list[Trial] = []
    clinc = pl.read_parquet(data / "clinc150" / "clinc150_full.parquet").filter(pl.col("intent") != "oos")
    hwu = pl.read_csv(data / "hwu64" / "hwu64_fold1.csv")
    train, test = (_labelled(hwu.filter(pl.col("split") == split)) for split in ("train", "test"))
    half = Asked(train.texts[::2], train.answers[::2]), Asked(train.texts[1::2], train.answers[1::2])
    kept = _labelled(clinc.filter(pl.col("split") == "train"))
    out.append(Trial("clinc150", "validation", kept, _labelled(clinc.filter(pl.col("split") == "val"))))
    out.append(Trial("hwu64", "validation", *half))
    out.append(Trial("clinc150", "held out", kept, _labelled(clinc.filter(pl.col("split") == "test"))))
    out.append(Trial("hwu64", "held out", train, test))
    utterances = [json.loads(line) for line in (data / "nlupp" / "nlupp.jsonl").read_text().splitlines()]
    for part, first in (("validation", 0), ("held out", 10)):
        parts = [_intent_sets(utterances, range(start, start + 5)) for start in (first, first + 5)]
        out.append(Trial("nlupp", part, *parts))
    for name, asked in (("presidio", _entities(data)), ("winogrande", _twins(data))):
        for part, rest in (("validation", 0), ("held out", 1)):
            chosen = [place for place in range(len(asked.texts)) if _side(asked.answers[place]) == rest]
            one = Asked([asked.texts[i] for i in chosen], [asked.answers[i] for i in chosen])
            out.append(Trial(f"{name}, to deceive", part, one))
    return out


def _labelled(frame: pl.DataFrame) -> Asked:
    return Asked(frame["text"].to_list(), frame["intent"].to_list())


def _intent_sets(utterances: list[dict[str, Any]], folds: range) -> Asked:
    found = [u for u in utterances if u["fold"] in folds and u["intents"]]
    return Asked([u["text"] for u in found], [u["domain"] + "|".join(sorted(u["intents"])) for u in found])


def _entities(data: Path) -> Asked:
    frame = pl.read_parquet(data / "guard_presidio_synth" / "presidio_synth_v2.parquet")
    spans = [[span["value"] for span in json.loads(found)] for found in frame["spans"].to_list()]
    answers = [f"{template}:{values}" for template, values in zip(frame["template_id"].to_list(), spans, strict=True)]
    return Asked(frame["text"].to_list(), answers)


def _twins(data: Path) -> Asked:
    frame = pl.read_parquet(data / "routerbench_subset" / "routerbench_arc_mbpp_winogrande.parquet")
    texts = frame.filter(pl.col("eval_name").str.contains("(?i)winog"))["query"].unique(maintain_order=True).to_list()
    return Asked(texts, [f"{place // 2 % 2}:{place}" for place in range(len(texts))])


def _side(answer: str) -> int:
    return sum(answer.partition(":")[0].encode()) % 2


class Nearest(NamedTuple):
    """Of each question: the cosine of the nearest kept one that agrees, and whether it is the same question."""

    cosine: np.ndarray
    same: np.ndarray


def nearest(trial: Trial, agreement: str) -> Nearest:
    """Exhaustive, so that nothing depends on how the cache searches."""
    encoder = load_encoder("static")
    alone = trial.questions is None
    asked = trial.kept if trial.questions is None else trial.questions
    kept_vectors = encoder.encode(trial.kept.texts)
    vectors = kept_vectors if alone else encoder.encode(asked.texts)
    groups: dict[Any, int] = {}
    kept_group, group = (
        np.array([groups.setdefault(_sign(agreement, t), len(groups)) for t in side.texts]) for side in (trial.kept, asked)
    )
    cosine, same = np.empty(len(asked.texts)), np.empty(len(asked.texts), bool)
    for start in range(0, len(asked.texts), BLOCK):
        rows = slice(start, start + BLOCK)
        scores = vectors[rows] @ kept_vectors.T
        scores[group[rows, None] != kept_group[None]] = -1
        if alone:
            scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -1
        best = scores.argmax(1)
        cosine[rows] = scores[np.arange(len(scores)), best]
        same[rows] = [
            trial.kept.answers[b] == asked.answers[start + i] or trial.kept.texts[b] == asked.texts[start + i]
            for i, b in enumerate(best)
        ]
    return Nearest(cosine, same)


def _sign(agreement: str, text: str) -> Any:
    signatures: Any = SIGNATURES
    return () if agreement == "none" else signatures[agreement](text)


def at(found: Nearest, threshold: float) -> dict[str, Any]:
    """Questions, hits and false hits at a threshold."""
    hit = found.cosine >= threshold
    false = int((hit & ~found.same).sum())
    return {
        "questions": len(hit),
        "hits": int(hit.sum()),
        "false": false,
        "hit_rate": round(float(hit.mean()), 4),
        "false_share": round(false / max(1, int(hit.sum())), 4),
    }


def choose(found: dict[tuple[str, str], Nearest]) -> float | None:
    """The lowest threshold that holds both bounds on the validation sets."""
    validation = {name: n for (name, part), n in found.items() if part == "validation"}
    for threshold in GRID:
        rows = {name: at(n, threshold) for name, n in validation.items()}
        plain = [row for name, row in rows.items() if "deceive" not in name]
        hits, false = (sum(row[key] for row in plain) for key in ("hits", "false"))
        deceived = [row["false"] / row["questions"] for name, row in rows.items() if "deceive" in name]
        if false <= BOUND * hits and max(deceived) <= DECEIVED:
            return float(threshold)
    return None


def speed(entries: int = 10_000, asks: int = 1000) -> dict[str, float]:
    """Microseconds of one look at a group of `entries` real sentences."""
    clinc = pl.read_parquet(DATA / "clinc150" / "clinc150_full.parquet")["text"].to_list()
    vectors = load_encoder("static").encode(clinc[: entries + asks])
    group = Vectors(vectors.shape[1])
    for place in range(entries):
        group.add(b"%d" % place, vectors[place])
    took = []
    for vector in vectors[entries:]:
        started = time.perf_counter()
        group.nearest(vector, 0.9)
        took.append(time.perf_counter() - started)
    return {
        "entries": entries,
        "p50_us": round(float(np.median(took)) * 1e6, 1),
        "p99_us": round(float(np.quantile(took, 0.99)) * 1e6, 1),
    }


def measure(data: Path) -> dict[str, Any]:
    """Everything."""
    out: dict[str, Any] = {"bound": BOUND, "agreements": {}}
    sets = trials(data)
    for agreement in ("none", "facts", "words"):
        found = {(trial.name, trial.part): nearest(trial, agreement) for trial in sets}
        threshold = choose(found)
        shown = threshold if threshold is not None else GRID[-1]
        rows = [{"set": name, "part": part, **at(n, shown)} for (name, part), n in found.items()]
        out["agreements"][agreement] = {"threshold": threshold, "shown_at": shown, "rows": rows}
    out["search"] = speed()
    return out


def show(found: dict[str, Any]) -> None:
    """Tables."""
    for name, one in found["agreements"].items():
        chosen = "none holds the bounds" if one["threshold"] is None else f"{one['threshold']:g}"
        print(f"\nagreement {name}: threshold {chosen}; shown at {one['shown_at']:g}")
        for row in one["rows"]:
            said = f"{row['questions']:>6} asked {row['hit_rate']:>7.1%} hits {row['false']:>5} false"
            print(f"  {row['set']:<24} {row['part']:<11} {said}")
    print("\nsearch:", found["search"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON; - for standard output")
    options = parser.parse_args()
    found = measure(options.data)
    if options.json == "-":
        json.dump(found, sys.stdout, indent=1)
        return
    show(found)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
